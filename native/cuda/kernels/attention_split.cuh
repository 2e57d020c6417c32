// The split kernel: decode and very short row ranges. Each block is a worker with a list of runs (SplitItem);
// its 4 warps walk the runs' tiles together through a ring of kStages tiles in shared memory, which is filled
// across the borders of chunks and runs, so that the memory never waits for the arithmetic.
//
// Within a tile each warp scores 16 of the 64 positions, the scores are exchanged, every warp makes all of
// the 16 rows' softmax (each the same bits) and then owns head_dim / 4 columns of the values. Which warp
// computes an element changes nothing in its arithmetic, so a row equals the block kernel's.
//
// A pair of (sequence, key-value head) that is cut in runs leaves partials; the block that arrives last folds
// them in order. Its arrival is counted with an integer; which block it is changes no bit.
//
// A block starts while the kernel before it still runs. Until that one is complete it reads the work lists
// and the block tables only, past the first-level cache; of the keys and values it asks no more than that
// they be brought into the second-level cache. So the lists and tables must not be written by the kernel that
// is launched just before this one; the kernels before that one are complete (dependent_launch.cuh).
#pragma once

#include <cstddef>

#include "cuda/kernels/attention_partials.cuh"
#include "cuda/kernels/attention_tiles.cuh"
#include "cuda/kernels/dependent_launch.cuh"

namespace kadenz::cuda::attention {

// What a filled stage of the ring holds. tile is absolute; no bits at all: the list has ended.
struct StageNote {
  static constexpr int32_t kFilled = 1, kFirstOfRun = 2, kLastOfChunk = 4, kLastOfRun = 8;
  SplitItem run;
  int32_t tile;
  int32_t bits;
  int32_t padding[2];
};
static_assert(sizeof(StageNote) == 48);

template <int kD, int kStages>
struct SplitShared {
  static constexpr int kTileBytes = kTile * kD * 2;
  static constexpr int kQueryBytes = kSplitRows * kD * 2;
  static constexpr int kStageBytes = 2 * kTileBytes + kQueryBytes;
  static constexpr int kScores = kStages * kStageBytes;
  static constexpr int kNotes = kScores + kSplitRows * kTile * 4;
  static constexpr int kArrived = kNotes + kStages * static_cast<int>(sizeof(StageNote));
  static constexpr int kBytes = kArrived + 16;
};

__device__ __forceinline__ SplitItem load_item(const SplitItem* items, uint32_t index) {
  const int4* words = reinterpret_cast<const int4*>(items + index);
  const int4 low = __ldcg(words);
  const int4 high = __ldcg(words + 1);
  SplitItem item;
  item.first_row = low.x;
  item.start_position = low.y;
  item.slot = low.z;
  item.first_tile = low.w;
  item.end_tile = high.x;
  item.partial = high.y;
  item.partial_offset = static_cast<uint16_t>(high.z);
  item.num_partials = static_cast<uint16_t>(high.z >> 16);
  item.num_runs = static_cast<uint16_t>(high.w);
  item.num_rows = static_cast<uint8_t>(high.w >> 16);
  item.kv_head = static_cast<uint8_t>(high.w >> 24);
  return item;
}

// Walks the worker's list ahead of the arithmetic and fills stages. Every thread holds the same state; the
// next chunk's table and the next run are loaded one chunk or run before they are needed.
template <int kD, int kStages>
class Filler {
  using Shared = SplitShared<kD, kStages>;

 public:
  __device__ Filler(const Problem& problem, uint32_t begin, uint32_t end)
      : problem_(problem), index_(begin), end_(end) {
    run_ = load_item(problem.split_items, begin);
    tile_ = run_.first_tile;
    chunk_end_ = tile_;
    ahead_ = run_;
    if (begin + 1 < end) ahead_ = load_item(problem.split_items, begin + 1);
    table_ahead_ = load(run_, run_.first_tile);
  }

  // Brings the first tiles of the first run into the second-level cache: a hint, which reads nothing.
  __device__ __forceinline__ void prefetch() const {
    const int lane = threadIdx.x & 31;
    const int32_t chunk = run_.first_tile / kChunkTiles;
    const int32_t tile = chunk * kChunkTiles + lane / (kTile / 8);
    const int32_t position = chunk * kAttentionChunk + lane * 8;
    const bool wanted = threadIdx.x < 64 && tile >= run_.first_tile &&
                        tile < min(run_.end_tile, run_.first_tile + kStages - 1) &&
                        position + 8 > first_visible(run_.start_position, problem_.window) &&
                        position < run_.start_position + run_.num_rows;
    if (!wanted) return;
    const char* source = problem_.cache + static_cast<uint64_t>(run_.kv_head) * problem_.cache_head_bytes +
                         static_cast<uint64_t>(table_ahead_) * problem_.cache_block_bytes +
                         (position & ((1 << problem_.block_shift) - 1)) * (kD * 2);
    prefetch_lines<8 * kD * 2>(threadIdx.x < 32 ? source : source + problem_.cache_value_bytes);
  }

  __device__ __forceinline__ void fill(char* shared, int stage) {
    StageNote& note = reinterpret_cast<StageNote*>(shared + Shared::kNotes)[stage];
    if (index_ == end_) {
      if (threadIdx.x == 0) note.bits = 0;
      commit_copies();
      return;
    }
    if (tile_ == chunk_end_) {
      table_ = table_ahead_;
      chunk_end_ = min(run_.end_tile, (tile_ | (kChunkTiles - 1)) + 1);
      if (chunk_end_ < run_.end_tile) {
        table_ahead_ = load(run_, chunk_end_);
      } else if (index_ + 1 < end_) {
        table_ahead_ = load(ahead_, ahead_.first_tile);
      }
    }
    const uint32_t keys = shared_address(shared + stage * Shared::kStageBytes);
    const char* head = problem_.cache + static_cast<uint64_t>(run_.kv_head) * problem_.cache_head_bytes;
    const int32_t low = first_visible(run_.start_position, problem_.window);
    if ((tile_ + 1) * kTile > low) {  // else nobody sees it; it is skipped below
      copy_tile<kD, kSplitThreads>(problem_, keys, keys + Shared::kTileBytes, head, table_, tile_, low,
                                   run_.start_position + run_.num_rows);
    }
    int32_t bits = StageNote::kFilled;
    if (tile_ == run_.first_tile) {
      bits |= StageNote::kFirstOfRun;
      copy_query<kD, kSplitThreads, kSplitRows>(problem_, keys + 2 * Shared::kTileBytes, run_.first_row, 0,
                                                run_.num_rows * problem_.group, run_.kv_head);
    }
    commit_copies();
    const int32_t tile = tile_++;
    if (tile_ == chunk_end_) bits |= StageNote::kLastOfChunk;
    if (tile_ == run_.end_tile) bits |= StageNote::kLastOfRun;
    if (threadIdx.x == 0) {
      note.run = run_;
      note.tile = tile;
      note.bits = bits;
    }
    if (tile_ == run_.end_tile) {
      ++index_;
      run_ = ahead_;
      tile_ = chunk_end_ = run_.first_tile;
      if (index_ + 1 < end_) ahead_ = problem_.split_items[index_ + 1];
    }
  }

 private:
  __device__ int32_t load(const SplitItem& run, int32_t tile) const {
    return load_table(problem_, run.slot, tile / kChunkTiles,
                      first_visible(run.start_position, problem_.window), run.start_position + run.num_rows,
                      threadIdx.x & 31);
  }

  const Problem& problem_;
  uint32_t index_;
  uint32_t end_;
  SplitItem run_;
  SplitItem ahead_;
  int32_t tile_;
  int32_t chunk_end_;
  int32_t table_ = 0;
  int32_t table_ahead_;
};

template <class T, int kD, int kStages, int kBlocksPerSm>
__global__ void __launch_bounds__(kSplitThreads, kBlocksPerSm)
    split_kernel(const __grid_constant__ Problem problem) {
  using Shared = SplitShared<kD, kStages>;
  constexpr int kColumns = kD / 32;  // groups of 8 columns of one warp
  extern __shared__ __align__(1024) char shared[];
  const uint32_t begin = __ldcg(problem.split_offsets + blockIdx.x);
  const uint32_t end = __ldcg(problem.split_offsets + blockIdx.x + 1);
  if (begin >= end) {
    wait_for_previous_kernel();  // a kernel must not be complete before the one before it
    return;
  }

  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x & 31;
  const uint32_t key_lane = units_first<kD>(lane);
  const uint32_t query_lane = rows_first<kD>(lane);
  uint32_t value_lane = query_lane;
  value_lane ^= warp * kColumns * 16;  // the warp's columns; the steps within them stay below
  // The position of the lane's packed rows, from the run's first.
  const int row_positions[2] = {lane / 4 / static_cast<int>(problem.group),
                                (lane / 4 + 8) / static_cast<int>(problem.group)};
  float4* scores = reinterpret_cast<float4*>(shared + Shared::kScores);
  volatile int* arrived = reinterpret_cast<volatile int*>(shared + Shared::kArrived);

  Query<kD, kD / 16> q;
  float acc[kColumns][4];
  float total[kColumns][4];
  Statistics statistics;
  Statistics total_statistics;

  Filler<kD, kStages> filler(problem, begin, end);
  // A list of several runs is one of many: there the memory is the limit. Alone, a run is sooner without.
  if (end - begin > 1) filler.prefetch();
  wait_for_previous_kernel();
  let_next_kernel_start();
#pragma unroll
  for (int stage = 0; stage < kStages - 1; ++stage) filler.fill(shared, stage);

  for (int stage = 0;; stage = stage + 1 == kStages ? 0 : stage + 1) {
    wait_for_copies<kStages - 2>();
    __syncthreads();  // this tile is here, and all warps are done with the one before
    filler.fill(shared, stage == 0 ? kStages - 1 : stage - 1);
    const StageNote& note = reinterpret_cast<const StageNote*>(shared + Shared::kNotes)[stage];
    const int32_t bits = note.bits;
    if (bits == 0) break;
    const int32_t start_position = note.run.start_position;
    const int32_t last_position = start_position + note.run.num_rows - 1;
    const int32_t tile_position = note.tile * kTile;
    const uint32_t keys = shared_address(shared + stage * Shared::kStageBytes);
    const uint32_t values = keys + Shared::kTileBytes;
    if (bits & StageNote::kFirstOfRun) {
      q.load(values + Shared::kTileBytes, query_lane);
      statistics.clear();
      total_statistics.clear();
      clear(acc);
      clear(total);
    }

    // A list that was made without the layer's window names tiles before it: nothing moves there.
    if (tile_position + kTile > first_visible(start_position, problem.window)) {
      float own[2][4];
      score<T, kD, kD / 16, 1>(own, q, keys + warp * 16 * kD * 2, key_lane);
      if (tile_position + kTile - 1 > start_position ||
          tile_position < first_visible(last_position, problem.window)) {
        const int32_t positions[2] = {min(start_position + row_positions[0], last_position),
                                      min(start_position + row_positions[1], last_position)};
        mask(own, tile_position + warp * 16, sight_of(positions, problem.window), lane);
      }
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        scores[(warp * 2 + n) * 32 + lane] = make_float4(own[n][0], own[n][1], own[n][2], own[n][3]);
      }
      __syncthreads();
      float s[kTileColumns][4];
#pragma unroll
      for (int n = 0; n < kTileColumns; ++n) {
        const float4 four = scores[n * 32 + lane];
        s[n][0] = four.x;
        s[n][1] = four.y;
        s[n][2] = four.z;
        s[n][3] = four.w;
      }
      uint32_t p[kTileColumns / 2][4];
      float rescale[2];
      soften<T>(s, problem.scale, statistics, p, rescale);
      accumulate<T, kD, kColumns / 2>(acc, p, rescale, values, value_lane);
    }
    if (!(bits & StageNote::kLastOfChunk)) continue;

    const int num_packed_rows = note.run.num_rows * static_cast<int>(problem.group);
    const int num_halves = num_packed_rows <= 8 ? 1 : 2;
    const bool first_run = note.run.partial_offset == 0;
    statistics.add_lanes();
    if (first_run) {
      merge(total, total_statistics, acc, statistics);
    } else {
      const int32_t chunk = note.tile / kChunkTiles - note.run.first_tile / kChunkTiles;
      Partial<kD>(problem, static_cast<int64_t>(note.run.partial) + note.run.partial_offset + chunk)
          .write(acc, statistics, num_halves, warp, lane);
    }
    statistics.clear();
    clear(acc);
    if (!(bits & StageNote::kLastOfRun)) continue;

    if (note.run.num_runs > 1) {
      if (first_run) {
        Partial<kD>(problem, note.run.partial).write(total, total_statistics, num_halves, warp, lane);
      }
      __syncthreads();
      if (threadIdx.x == 0) {  // its fences stand for the whole block's, which the barriers order
        __threadfence();
        *arrived = static_cast<int>(atomicAdd(problem.counters + note.run.partial, 1U));
        __threadfence();
      }
      __syncthreads();
      if (*arrived != note.run.num_runs - 1) continue;
      if (threadIdx.x == 0) problem.counters[note.run.partial] = 0;  // for the next launch
      // Of the ring this stage is free now, and all of it when nothing follows.
      const int next = stage + 1 == kStages ? 0 : stage + 1;
      const bool is_last = reinterpret_cast<const StageNote*>(shared + Shared::kNotes)[next].bits == 0;
      const uint32_t ring = shared_address(shared);
      constexpr int kRingBytes = kStages * Shared::kStageBytes;
      if (num_halves == 1) {
        if (is_last) {
          fold_partials<kD, 1, kRingBytes>(problem, note.run, ring, warp, lane, total, total_statistics);
        } else {
          fold_partials<kD, 1, Shared::kStageBytes>(problem, note.run, keys, warp, lane, total,
                                                    total_statistics);
        }
      } else if (is_last) {
        fold_partials<kD, 2, kRingBytes>(problem, note.run, ring, warp, lane, total, total_statistics);
      } else {
        fold_partials<kD, 2, Shared::kStageBytes>(problem, note.run, keys, warp, lane, total,
                                                  total_statistics);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int packed = lane / 4 + 8 * half;
      if (packed >= num_packed_rows) continue;
      write_row<T>(problem, total, total_statistics.l[half], half, note.run.first_row, packed,
                   note.run.kv_head, warp * kColumns * 8, lane);
    }
    __syncwarp();
  }
}

}  // namespace kadenz::cuda::attention
