// The partials that runs of one (sequence, key-value head) leave in device memory, and their fold in chunk order
// by the block that arrives last.
//
// A partial: m and l of 16 rows, then acc by column group of 8, half, lane, two floats. Upper halves of pairs
// of at most 8 packed rows are not stored.
#pragma once

#include "cuda/kernels/attention_tiles.cuh"

namespace kadenz::cuda::attention {

constexpr int kSplitThreads = 128;
constexpr int kSplitRows = kAttentionSplitRows;

template <int kD>
constexpr uint64_t kPartialFloats = 2 * kSplitRows + kSplitRows * kD;

template <int kD>
struct Partial {
  static constexpr int kColumns = kD / 32;  // of one warp
  float* base;

  __device__ Partial(const Problem& problem, int64_t index)
      : base(problem.partials + index * kPartialFloats<kD>) {}

  __device__ float2* statistics(int row) const { return reinterpret_cast<float2*>(base) + row; }
  __device__ float2* columns(int warp, int n, int half, int lane) const {
    return reinterpret_cast<float2*>(base + 2 * kSplitRows) + ((warp * kColumns + n) * 2 + half) * 32 + lane;
  }

  __device__ __forceinline__ void write(const float (&acc)[kColumns][4], const Statistics& statistics_of_rows,
                                        int num_halves, int warp, int lane) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (half >= num_halves) break;
      if (warp == 0 && (lane & 3) == 0) {
        __stcg(statistics(lane / 4 + 8 * half),
               make_float2(statistics_of_rows.m[half], statistics_of_rows.l[half]));
      }
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        __stcg(columns(warp, n, half, lane), make_float2(acc[n][2 * half], acc[n][2 * half + 1]));
      }
    }
  }
};

// Where a warp keeps the partials that it folds, in shared memory: its columns of each and its own copy of
// their statistics, so that no warp waits for another.
template <int kD, int kHalves>
struct FoldSlot {
  static constexpr int kStatisticsBytes = kSplitRows * 8;
  static constexpr int kColumnBytes = kD / 32 * kHalves * 256;
  static constexpr int kBytes = kStatisticsBytes + kColumnBytes;
  static constexpr int kBlockBytes = kSplitThreads / 32 * kBytes;

  uint32_t address;

  // The copies of one partial, without their commit.
  __device__ __forceinline__ void fetch(const Problem& problem, int64_t partial, int warp, int lane) const {
    const char* source = reinterpret_cast<const char*>(problem.partials + partial * kPartialFloats<kD>);
    if (lane < 4 * kHalves) copy_unit(address + lane * 16, source + lane * 16, true);
    source += kStatisticsBytes + warp * (kD / 32) * 512;
#pragma unroll
    for (int pass = 0; pass < kColumnBytes / 512; ++pass) {
      const int unit = pass * 32 + lane;
      const int segment = unit / 16;  // 32 lanes of one column group's half
      copy_unit(address + kStatisticsBytes + unit * 16,
                source + (segment / kHalves * 2 + segment % kHalves) * 256 + unit % 16 * 16, true);
    }
  }
  // Rows of a half that is not stored have seen nothing.
  __device__ __forceinline__ void read(float (&acc)[kD / 32][4], Statistics& statistics, int lane) const {
    statistics.clear();
    clear(acc);
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      const float2 pair = load_pair(address + (lane / 4 + 8 * half) * 8);
      statistics.m[half] = pair.x;
      statistics.l[half] = pair.y;
#pragma unroll
      for (int n = 0; n < kD / 32; ++n) {
        const float2 values =
            load_pair(address + kStatisticsBytes + ((n * kHalves + half) * 32 + lane) * 8);
        acc[n][2 * half] = values.x;
        acc[n][2 * half + 1] = values.y;
      }
    }
  }
};

// The first partial is the total over the first run's chunks; the others follow chunk by chunk. kBytes of
// shared memory hold those that are on the way.
template <int kD, int kHalves, int kBytes>
__device__ __forceinline__ void fold_partials(const Problem& problem, const SplitItem& run, uint32_t shared,
                                              int warp, int lane, float (&total)[kD / 32][4],
                                              Statistics& total_statistics) {
  using Slot = FoldSlot<kD, kHalves>;
  constexpr int kSlots = kBytes / Slot::kBlockBytes;
  static_assert(kSlots >= 2);
  const uint32_t slots = shared + warp * (kSlots * Slot::kBytes);
  const int num_partials = run.num_partials;
  for (int i = 0; i < kSlots; ++i) {
    if (i < num_partials) Slot{slots + i * Slot::kBytes}.fetch(problem, run.partial + i, warp, lane);
    commit_copies();
  }
  uint32_t slot = slots;
  for (int i = 0; i < num_partials; ++i) {
    wait_for_copies<kSlots - 1>();
    __syncwarp();
    if (i == 0) {
      Slot{slot}.read(total, total_statistics, lane);
    } else {
      float acc[kD / 32][4];
      Statistics statistics;
      Slot{slot}.read(acc, statistics, lane);
      merge(total, total_statistics, acc, statistics);
    }
    __syncwarp();
    if (i + kSlots < num_partials) Slot{slot}.fetch(problem, run.partial + i + kSlots, warp, lane);
    commit_copies();
    slot = slot == slots + (kSlots - 1) * Slot::kBytes ? slots : slot + Slot::kBytes;
  }
}

}  // namespace kadenz::cuda::attention
