// Plain items: one warp for each tile of each item, then one warp for each item to fold the tiles.
#include "cuda/check.h"
#include "cuda/kernels/sampling.h"
#include "cuda/kernels/sampling_row.cuh"

namespace kadenz::cuda {
namespace {

constexpr uint32_t kWarps = 8;

__device__ __forceinline__ float sum_scale_of(const SampleParams& item) {
  return item.is_processed != 0 ? item.scale : 1.0F;
}

// grid (groups of kWarps tiles, items)
__global__ void __launch_bounds__(kWarps * 32, 4)
    plain_tiles(const SamplingTarget target, const SampleParams* items, SamplingTile* tiles,
                uint32_t num_tiles) {
  const uint32_t tile = blockIdx.x * kWarps + threadIdx.x / 32;
  if (tile >= num_tiles) return;
  const SampleParams& item = items[blockIdx.y];
  const Choice choice = choice_of(item);
  NoiseSource noise{};
  if (choice == Choice::kNoise) noise = noise_source(item);
  const RowView row{row_of(target, item), target.vocab_size, 0.0F, item.scale, false};
  const SamplingTile result = tile_of(row, tile, sum_scale_of(item), choice, noise);
  if (threadIdx.x % 32 == 0) tiles[uint64_t{blockIdx.y} * num_tiles + tile] = result;
}

// one warp a block, one block an item
__global__ void __launch_bounds__(32) plain_fold(const SamplingTarget target, const SampleParams* items,
                                                 const SamplingTile* tiles, uint32_t num_tiles) {
  const SampleParams& item = items[blockIdx.x];
  const float sum_scale = sum_scale_of(item);
  const RowStatistics row =
      fold_tiles(tiles + uint64_t{blockIdx.x} * num_tiles, num_tiles, sum_scale, item.scale);
  if (threadIdx.x != 0) return;
  if (row.failed || is_poisoned(target, item)) return write_outcome(target, item, failure_of(target, item));
  const int32_t token = item.score_token >= 0 ? item.score_token : row.token;
  SampleOutcome outcome{token, 0, not_a_number(), 0, 0};
  if (item.logprobs >= 0) {
    const RowView view = row.view(row_of(target, item), target.vocab_size, sum_scale);
    outcome.logprob = log_prob(view, row.log_sum, static_cast<uint32_t>(token));
  }
  write_outcome(target, item, outcome);
}

}  // namespace

void sample_plain(const SamplingTarget& target, const SampleParams* items, uint32_t count,
                  SamplingTile* tiles, cudaStream_t stream) {
  if (count == 0) return;
  const uint32_t num_tiles = sampling_tiles(target.vocab_size);
  const dim3 grid((num_tiles + kWarps - 1) / kWarps, count);
  plain_tiles<<<grid, kWarps * 32, 0, stream>>>(target, items, tiles, num_tiles);
  check_launch("plain_tiles");
  plain_fold<<<count, 32, 0, stream>>>(target, items, tiles, num_tiles);
  check_launch("plain_fold");
}

}  // namespace kadenz::cuda
