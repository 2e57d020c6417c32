// Copies from the paged cache, from q and to the output, for the attention kernels.
//
// A tile of 64 keys and its 64 values go to shared memory by 16-byte asynchronous copies. A warp's lane g
// holds the block table's entry of positions 8 g .. 8 g + 7 of a chunk (blocks hold at least 8 positions), so
// a chunk costs one load of the table. Positions outside [low, end) are filled with zeros and never read from
// the cache: what lies there may be anything, NaN too.
#pragma once

#include <cstdint>

#include "cuda/kernels/attention_fold.cuh"

namespace kadenz::cuda::attention {

// AttentionArgs as the kernels want them.
struct Problem {
  const char* q;
  const char* cache;
  void* output;
  const AttentionSequence* sequences;
  const int32_t* block_tables;
  const SplitItem* split_items;
  const uint32_t* split_offsets;
  const BlockItem* block_items;
  float* partials;
  uint32_t* counters;
  uint32_t cache_block_bytes;  // keys and values of all heads
  uint32_t cache_value_bytes;  // from a block's keys to its values
  uint32_t cache_head_bytes;
  uint32_t table_stride;
  uint32_t block_shift;  // log2 of the block size
  uint32_t num_heads;
  uint32_t num_kv_heads;
  uint32_t group;
  uint32_t head_dim;
  int32_t window;
  float scale;  // log2(e) / sqrt(head_dim)
};

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}
__device__ __forceinline__ void copy_unit(uint32_t target, const char* source, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(target), "l"(source),
               "r"(valid ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ float2 load_pair(uint32_t address) {
  float2 pair;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(pair.x), "=f"(pair.y) : "r"(address) : "memory");
  return pair;
}
__device__ __forceinline__ void copy_unit(uint32_t target, const char* source) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(target), "l"(source) : "memory");
}
template <int kBytes>
__device__ __forceinline__ void prefetch_lines(const char* source) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(source), "n"(kBytes) : "memory");
#endif
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

__device__ __forceinline__ int32_t load_table(const Problem& problem, int32_t slot, int32_t chunk,
                                              int32_t low, int32_t end, int lane) {
  const int32_t position = chunk * kAttentionChunk + lane * 8;
  if (position + 8 <= low || position >= end) return 0;  // of positions that are not read
  const int32_t* table = problem.block_tables + static_cast<uint64_t>(slot) * problem.table_stride;
  return __ldcg(table + (position >> problem.block_shift));
}

// All threads of the block copy keys to `keys` and values to `values`. `head` = the cache at this head.
template <int kD, int kThreads>
__device__ __forceinline__ void copy_tile(const Problem& problem, uint32_t keys, uint32_t values,
                                          const char* head, int32_t table, int32_t tile, int32_t low,
                                          int32_t end) {
  constexpr int kUnits = kD / 8;
  constexpr int kRowBytes = kD * 2;
  constexpr int kRows = kThreads / kUnits;
  const int thread = threadIdx.x;
  const int first_row = thread / kUnits;
  const int unit = thread % kUnits;
  const int32_t slot_mask = (1 << problem.block_shift) - 1;
  const int32_t first_position = tile * kTile;
  // Within a warp, and so without divergence: a tile that is read whole needs no bounds.
  const bool whole = first_position >= low && first_position + kTile <= end;
  const uint32_t target = first_row * kRowBytes + ((unit ^ (first_row & 7)) << 4);
  const uint32_t own = (first_row & 7) * kRowBytes + unit * 16;
#pragma unroll
  for (int pass = 0; pass < kTile / kRows; ++pass) {
    const int32_t eight = first_position + pass * kRows + (first_row & ~7);  // positions that share a block
    const uint32_t block = __shfl_sync(~0U, table, (eight >> 3) & 31);
    const uint32_t pass_target = target + pass * kRows * kRowBytes;
    const uint32_t offset = (eight & slot_mask) * kRowBytes + own;
    const char* source = head + static_cast<uint64_t>(block) * problem.cache_block_bytes + offset;
    if (whole) {
      copy_unit(keys + pass_target, source);
      copy_unit(values + pass_target, source + problem.cache_value_bytes);
    } else {
      const int32_t position = eight + (first_row & 7);
      const bool valid = position >= low && position < end;
      if (!valid) source = head;
      copy_unit(keys + pass_target, source, valid);
      copy_unit(values + pass_target, source + problem.cache_value_bytes, valid);
    }
  }
}

// kRows packed rows of q from first_packed_row on; zeros from num_packed_rows on.
template <int kD, int kThreads, int kRows>
__device__ __forceinline__ void copy_query(const Problem& problem, uint32_t target, int32_t first_row,
                                           int32_t first_packed_row, int32_t num_packed_rows,
                                           int32_t kv_head) {
  constexpr int kUnits = kD / 8;
  static_assert(kRows * kUnits % kThreads == 0);
#pragma unroll
  for (int pass = 0; pass < kRows * kUnits / kThreads; ++pass) {
    const int row = (pass * kThreads + static_cast<int>(threadIdx.x)) / kUnits;
    const int unit = threadIdx.x % kUnits;
    const uint32_t packed = first_packed_row + row;
    const bool valid = static_cast<int32_t>(packed) < num_packed_rows;
    const uint32_t position = valid ? packed / problem.group : 0;
    const uint32_t head = valid ? packed - position * problem.group : 0;
    const uint64_t source_row =
        static_cast<uint64_t>(first_row + position) * problem.num_heads + kv_head * problem.group + head;
    copy_unit(target + row * kD * 2 + ((unit ^ (row & 7)) << 4),
              problem.q + source_row * (kD * 2) + unit * 16, valid);
  }
}

// total / l of one packed row half (elements 2 half, 2 half + 1 of each column group) to the output, whose
// columns of this head begin at `columns_first`. Rounded once.
template <class T, int kColumns>
__device__ __forceinline__ void write_row(const Problem& problem, const float (&total)[kColumns][4], float l,
                                          int half, int32_t first_row, uint32_t packed, int32_t kv_head,
                                          int columns_first, int lane) {
  const uint32_t position = packed / problem.group;
  const uint32_t head = kv_head * problem.group + (packed - position * problem.group);
  const float inverse = l > 0.0F || l != l ? __frcp_rn(l) : 0.0F;  // a NaN stays one
  uint32_t* output = reinterpret_cast<uint32_t*>(
      static_cast<T*>(problem.output) +
      (static_cast<uint64_t>(first_row + position) * problem.num_heads + head) * problem.head_dim);
#pragma unroll
  for (int n = 0; n < kColumns; ++n) {
    const uint32_t column = columns_first + 8 * n + 2 * (lane & 3);
    if (column >= problem.head_dim) continue;
    const float low = half == 0 ? total[n][0] : total[n][2];
    const float high = half == 0 ? total[n][1] : total[n][3];
    output[column / 2] = round_pair<T>(__fmul_rn(low, inverse), __fmul_rn(high, inverse));
  }
}

}  // namespace kadenz::cuda::attention
