// Plain items: a warp works out some tiles of an item, then one warp for each item folds its tiles.
#include <algorithm>

#include "cuda/check.h"
#include "cuda/kernels/dependent_launch.cuh"
#include "cuda/kernels/sampling.h"
#include "cuda/kernels/sampling_tiles.cuh"

namespace kadenz::cuda {
namespace {

constexpr uint32_t kWarps = 4;
constexpr uint32_t kWarpsOfMultiprocessor = 32;

__device__ __forceinline__ float sum_scale_of(const SampleParams& item) {
  return item.is_processed != 0 ? item.scale : 1.0F;
}

// grid (groups of kWarps * tiles_of_warp tiles, items)
__global__ void __launch_bounds__(kWarps * 32, kWarpsOfMultiprocessor / kWarps)
    plain_tiles(const SamplingTarget target, const SampleParams* items, SamplingTile* tiles,
                uint32_t num_tiles, uint32_t tiles_of_warp) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const uint32_t first = (blockIdx.x * kWarps + threadIdx.x / 32) * tiles_of_warp;
  if (first >= num_tiles) return;
  const SampleParams item = items[blockIdx.y];
  const RowView row{row_of(target, item), target.vocab_size, 0.0F, item.scale, false};
  work_out_tiles(row, first, 1, min(tiles_of_warp, num_tiles - first), sum_scale_of(item), choice_of(item),
                 noise_source(item), tiles + uint64_t{blockIdx.y} * num_tiles);
}

// one warp a block, one block an item
__global__ void __launch_bounds__(32) plain_fold(const SamplingTarget target, const SampleParams* items,
                                                 const SamplingTile* tiles, uint32_t num_tiles) {
  // The items may be read before the wait: plain_tiles lets this kernel start after its own wait, and they
  // were there before it.
  const SampleParams item = items[blockIdx.x];
  wait_for_previous_kernel();
  let_next_kernel_start();
  const bool poisoned = is_poisoned(target, item);
  const float sum_scale = sum_scale_of(item);
  const TileFold fold =
      fold_tiles(tiles + uint64_t{blockIdx.x} * num_tiles, num_tiles, sum_scale, item.scale);
  if (threadIdx.x != 0) return;
  if (fold.failed || poisoned) return write_outcome(target, item, failure_of(target, item));
  const int32_t token = item.score_token >= 0 ? item.score_token : fold.token;
  SampleOutcome outcome{token, 0, not_a_number(), 0, 0};
  if (item.logprobs >= 0) {
    // The logit is under way while the logarithm is worked out.
    const float logit = row_of(target, item)[token];
    const RowStatistics row = fold.statistics();
    const RowView view = row.view(nullptr, target.vocab_size, sum_scale);
    outcome.logprob = log_prob_of(view, row.log_sum, logit);
  }
  write_outcome(target, item, outcome);
}

// So many that the GPU has two rounds of warps or more; the tiles' bits don't depend on it.
uint32_t tiles_for_a_warp(uint64_t all_tiles) {
  int device = 0;
  int multiprocessors = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
        "cudaDeviceGetAttribute");
  const uint64_t warps = uint64_t{kWarpsOfMultiprocessor} * static_cast<uint32_t>(multiprocessors);
  return static_cast<uint32_t>(
      std::clamp(all_tiles / (2 * warps), uint64_t{1}, uint64_t{kTilesAtOnce}));
}

}  // namespace

void sample_plain(const SamplingTarget& target, const SampleParams* items, uint32_t count,
                  SamplingTile* tiles, cudaStream_t stream) {
  if (count == 0) return;
  const uint32_t num_tiles = sampling_tiles(target.vocab_size);
  const uint32_t tiles_of_warp = tiles_for_a_warp(uint64_t{num_tiles} * count);
  const uint32_t tiles_of_block = kWarps * tiles_of_warp;
  const dim3 grid((num_tiles + tiles_of_block - 1) / tiles_of_block, count);
  launch_dependent(plain_tiles, grid, dim3(kWarps * 32), 0, stream, target, items, tiles, num_tiles,
                   tiles_of_warp);
  check_launch("plain_tiles");
  launch_dependent(plain_fold, dim3(count), dim3(32), 0, stream, target, items, tiles, num_tiles);
  check_launch("plain_fold");
}

}  // namespace kadenz::cuda
