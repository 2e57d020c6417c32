// Items with edits, filters, ranks or lists: one block of 1,024 threads each, from the row to the outcome.
#include "cuda/check.h"
#include "cuda/kernels/sampling.h"
#include "cuda/kernels/sampling_select.cuh"
#include "cuda/kernels/sampling_tiles.cuh"

namespace kadenz::cuda {
namespace {

struct GeneralShared {
  SelectShared select;
  RowStatistics raw, drawn;  // of the model's row, and of the one that is drawn from
};

__device__ __forceinline__ uint32_t tiles_of(uint32_t count) {
  return (count + kSamplingTile - 1) / kSamplingTile;
}

// Into `result`, in shared memory.
__device__ __forceinline__ void find_statistics(RowStatistics& result, RowView row, float sum_scale,
                                                Choice choice, const SampleParams& item,
                                                SamplingTile* tiles) {
  const uint32_t num_tiles = tiles_of(row.count);
  const NoiseSource noise = noise_source(item);
  constexpr uint32_t kWarps = kSelectThreads / 32;
  for (uint32_t tile = threadIdx.x / 32; tile < num_tiles; tile += kWarps * kTilesAtOnce) {
    const uint32_t count = min((num_tiles - tile + kWarps - 1) / kWarps, kTilesAtOnce);
    work_out_tiles(row, tile, kWarps, count, sum_scale, choice, noise, tiles);
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    const RowStatistics folded = fold_tiles(tiles, num_tiles, sum_scale, row.scale).statistics();
    if (threadIdx.x == 0) result = folded;
  }
  __syncthreads();
}

__device__ __forceinline__ float penalised(const SampleParams& item, float logit, uint32_t seen) {
  if (seen == 0) return logit;
  if (item.repetition != 1.0F) {
    logit = logit > 0.0F ? __fdiv_rn(logit, item.repetition) : __fmul_rn(logit, item.repetition);
  }
  const uint32_t sampled = seen & ~kPromptFlag;
  if (sampled == 0) return logit;
  if (item.frequency != 0.0F) {
    logit = __fsub_rn(logit, __fmul_rn(item.frequency, __uint2float_rn(sampled)));
  }
  return item.presence != 0.0F ? __fsub_rn(logit, item.presence) : logit;
}

// The edited copy of a row: bias, then penalties, then the mask.
__device__ __forceinline__ void edit(const SampleParams& item, RowView row, float* edited) {
  for_each_token(row, [&](float logit, uint32_t token) {
    if (token < row.count) edited[token] = logit;
  });
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < item.num_bias; i += kSelectThreads) {
    float& logit = edited[item.bias_ids[i]];
    logit = __fadd_rn(logit, item.bias_values[i]);
  }
  __syncthreads();
  if (item.counts != nullptr) {
    for (uint32_t token = threadIdx.x; token < row.count; token += kSelectThreads) {
      const uint32_t seen = item.counts[token];
      if (seen != 0) edited[token] = penalised(item, edited[token], seen);
    }
    __syncthreads();
  }
  for (uint32_t i = threadIdx.x; i < item.num_stops; i += kSelectThreads)
    edited[item.stop_ids[i]] = -infinity();
  __syncthreads();
}

// The set that min_p, top_k and top_p leave.
__device__ __forceinline__ KeptSet filter(GeneralShared& shared, const SampleParams& item,
                                          const RowView& row) {
  KeptSet kept{item.least_x, kNoLimit};
  if (item.top_k > 0 && item.top_k < row.count) {
    const uint64_t kth = select_place(shared.select, row, kept, false, item.top_k, 0.0F);
    kept.limit = kth | UINT32_MAX;  // equals of the k-th all stay
  }
  if (item.top_p < 1.0F) kept.limit = select_place(shared.select, row, kept, true, 0, item.top_p);
  return kept;
}

// The kept token with the largest x + noise, the lowest id of equals.
__device__ __forceinline__ int32_t choose_kept(GeneralShared& shared, RowView row, KeptSet kept,
                                               const SampleParams& item) {
  const NoiseSource noise = noise_source(item);
  uint64_t best = 0;  // value ascending, then id descending; 0 = none
  for_each_quad(row, [&](const float (&logits)[4], uint32_t first) {
    bool is_kept[4];
#pragma unroll
    for (uint32_t k = 0; k < 4; ++k) is_kept[k] = kept.has(row, logits[k], first + k);
    if (!(is_kept[0] || is_kept[1] || is_kept[2] || is_kept[3])) return;
    const uint32_t quads[1] = {first / 4};
    uint32_t words[1][4];
    noise_words(noise, quads, words);
#pragma unroll
    for (uint32_t k = 0; k < 4; ++k) {
      if (!is_kept[k]) continue;
      const float value = __fadd_rn(row.x_of(logits[k]), gumbel_of(words[0][k]));
      const uint64_t order = ~place_of(value, first + k);
      best = order > best ? order : best;
    }
  });
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const uint64_t other = __shfl_xor_sync(kAllLanes, best, step);
    best = other > best ? other : best;
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared.select.warp_sum[threadIdx.x / 32] = best;
  __syncthreads();
  for (const uint64_t other : shared.select.warp_sum) best = other > best ? other : best;
  return best == 0 ? -1 : static_cast<int32_t>(~best & UINT32_MAX);
}

// ln of the sum of e^x over the kept set.
__device__ __forceinline__ float log_sum_of_kept(GeneralShared& shared, RowView row, KeptSet kept) {
  uint64_t sum = 0;
  for_each_token(row, [&](float logit, uint32_t token) {
    if (kept.has(row, logit, token)) sum += weight_of(row.x_of(logit));
  });
  sum = block_sum(shared.select, sum);
  return static_cast<float>(log(static_cast<double>(sum) * 0x1p-44));
}

// The token's rank in the whole row.
__device__ __forceinline__ uint32_t rank_of(GeneralShared& shared, RowView row, uint32_t token) {
  const uint64_t own = place_of(row.at(token), token);
  uint64_t ahead = 0;
  for_each_token(row, [&](float logit, uint32_t other) { ahead += place_of(logit, other) < own ? 1 : 0; });
  return static_cast<uint32_t>(block_sum(shared.select, ahead)) + 1;
}

// The most likely tokens of the set; returns how many there are.
__device__ __forceinline__ uint32_t list_tokens(GeneralShared& shared, RowView row, KeptSet kept,
                                                float log_sum, uint32_t wanted, int32_t* token_ids,
                                                float* logprobs) {
  const KeptSet listed{kept.least_x, select_place(shared.select, row, kept, false, wanted, 0.0F)};
  collect(shared.select, row, [&](float logit, uint32_t other) { return listed.has(row, logit, other); });
  const uint32_t count = min(shared.select.num_collected, wanted);
  for (uint32_t i = threadIdx.x; i < count; i += kSelectThreads) {
    const uint32_t likely = static_cast<uint32_t>(shared.select.sorted[i]);
    token_ids[i] = static_cast<int32_t>(likely);
    logprobs[i] = log_prob(row, log_sum, likely);
  }
  return count;
}

__global__ void __launch_bounds__(kSelectThreads, 1)
    general_items(const SamplingTarget target, const SampleParams* items, SamplingTile* all_tiles,
                  float* scratch, uint64_t scratch_stride) {
  __shared__ GeneralShared shared;
  const SampleParams& item = items[blockIdx.x];
  const uint32_t num_tiles = tiles_of(target.vocab_size);
  SamplingTile* tiles = all_tiles + uint64_t{blockIdx.x} * num_tiles;
  const auto leave = [&](const SampleOutcome& outcome) {
    __syncthreads();
    if (threadIdx.x == 0) write_outcome(target, item, outcome);
  };
  if (is_poisoned(target, item)) return leave(failure_of(target, item));

  const bool processed = item.is_processed != 0;
  const bool edited = item.is_edited != 0;
  const bool filtered = item.is_filtered != 0;
  const Choice choice = filtered ? Choice::kNone : choice_of(item);
  const RowStatistics& raw = shared.raw;
  const RowStatistics& drawn = edited ? shared.drawn : shared.raw;

  RowView row{row_of(target, item), target.vocab_size, 0.0F, item.scale, false};
  const float raw_scale = processed && !edited ? item.scale : 1.0F;
  // Of the model's row, then of the edited one: in one place, which keeps the registers few.
  for (bool second = false;; second = true) {
    find_statistics(second ? shared.drawn : shared.raw, row, second ? item.scale : raw_scale,
                    edited && !second ? Choice::kNone : choice, item, tiles);
    if ((second ? drawn : raw).failed) return leave(failure_of(target, item));
    if (!edited || second) break;
    float* copy = scratch + blockIdx.x * scratch_stride;
    edit(item, raw.view(row.logits, row.count, 1.0F), copy);
    row.logits = copy;
  }
  row = drawn.view(row.logits, row.count, item.scale);

  KeptSet kept{-infinity(), kNoLimit};
  if (filtered) kept = filter(shared, item, row);
  int32_t token = item.score_token;
  if (token < 0) token = filtered ? choose_kept(shared, row, kept, item) : drawn.token;
  SampleOutcome outcome{token, 0, not_a_number(), 0, 0};
  if (item.logprobs >= 0) {
    float log_sum = raw.log_sum;
    if (processed) {
      log_sum = filtered ? log_sum_of_kept(shared, row, kept) : drawn.log_sum;
    } else {
      row = raw.view(row_of(target, item), target.vocab_size, 1.0F);
      kept = {-infinity(), kNoLimit};
    }
    const uint32_t described = static_cast<uint32_t>(token);
    const float logit = row.at(described);
    const bool in_set = !processed || !filtered || kept.has(row, logit, described);
    outcome.logprob = in_set ? log_prob(row, log_sum, described) : -infinity();
    if (item.logprobs > 0) {
      outcome.rank = rank_of(shared, row, described);
      outcome.top_count =
          list_tokens(shared, row, kept, log_sum, static_cast<uint32_t>(item.logprobs),
                      target.top_token_ids + item.top_begin, target.top_logprobs + item.top_begin);
    }
  }
  leave(outcome);
}

}  // namespace

void sample_general(const SamplingTarget& target, const SampleParams* items, uint32_t count,
                    SamplingTile* tiles, float* scratch, cudaStream_t stream) {
  if (count == 0) return;
  const uint64_t stride = (uint64_t{target.vocab_size} + 3) / 4 * 4;
  general_items<<<count, kSelectThreads, 0, stream>>>(target, items, tiles, scratch, stride);
  check_launch("general_items");
}

}  // namespace kadenz::cuda
