// Choosing tokens of a row by their place in the order (logit descending, id ascending), by one thread block.
// A token's place is a 64-bit integer, ascending in that order, so a set of the foremost tokens is one limit.
//
// The token at which a running count or weight reaches a target is found in bins: first by x, 64 bins to a
// unit (so that tokens spread), then, while the bin has more than can be sorted, by 11 further bits of the
// place. Counts are integers and weights e^x in fixed point: additions in any order give the same bits.
#pragma once

#include "cuda/kernels/sampling_row.cuh"

namespace kadenz::cuda {
namespace {

constexpr uint32_t kSelectThreads = 1024;
constexpr uint32_t kBins = 2048;  // two for each thread
constexpr uint32_t kSorted = 2048;
constexpr uint64_t kNoLimit = UINT64_MAX;
constexpr float kWeightOne = 0x1p44F;

struct SelectShared {
  uint32_t count[kBins];
  uint32_t weight_low[kBins];
  uint32_t weight_high[kBins];
  uint64_t sorted[kSorted];
  uint64_t warp_sum[kSelectThreads / 32];
  uint64_t before;  // of the bin or place found
  uint32_t found;
  uint32_t num_collected;
};

// -0 counts as 0.
__device__ __forceinline__ uint64_t place_of(float logit, uint32_t token) {
  const uint32_t bits = __float_as_uint(__fadd_rn(logit, 0.0F));
  const uint32_t ascending = (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
  return static_cast<uint64_t>(~ascending) << 32 | token;
}

__device__ __forceinline__ float logit_of(uint64_t place) {
  const uint32_t ascending = ~static_cast<uint32_t>(place >> 32);
  return __uint_as_float((ascending & 0x80000000U) != 0 ? ascending & 0x7fffffffU : ~ascending);
}

__device__ __forceinline__ uint64_t weight_of(float x) {
  return __float2ull_rn(__fmul_rn(exp2_of(__fmul_rn(x, kLog2E)), kWeightOne));
}

__device__ __forceinline__ uint32_t x_bin(float x) {
  return static_cast<uint32_t>(fminf(__fmul_rn(x, -64.0F), static_cast<float>(kBins - 1)));
}

// The kept set: what may be chosen.
struct KeptSet {
  float least_x;
  uint64_t limit;  // the place of its last token, or later

  __device__ __forceinline__ bool has(const RowView& row, float logit, uint32_t token) const {
    return logit > -infinity() && row.x_of(logit) >= least_x && place_of(logit, token) <= limit;
  }
};

// Visits quads of the row, two loads under way in each thread. visit(logits of 4 tokens, first token)
template <class Visit>
__device__ __forceinline__ void for_each_quad(const RowView& row, Visit visit) {
  constexpr uint32_t kAtOnce = 2;
  const bool aligned = is_aligned(row.logits);
  for (uint32_t base = threadIdx.x * 4; base < row.count; base += kAtOnce * kSelectThreads * 4) {
    float4 quads[kAtOnce];
#pragma unroll
    for (uint32_t i = 0; i < kAtOnce; ++i) {
      quads[i] = load_quad(row.logits, base + i * kSelectThreads * 4, row.count, aligned);
    }
#pragma unroll
    for (uint32_t i = 0; i < kAtOnce; ++i) {
      const uint32_t first = base + i * kSelectThreads * 4;
      if (first >= row.count) break;
      const float logits[4] = {row.settled(quads[i].x), row.settled(quads[i].y), row.settled(quads[i].z),
                               row.settled(quads[i].w)};
      visit(logits, first);
    }
  }
}

// The end of the row may be visited with logits of -infinity.
template <class Visit>
__device__ __forceinline__ void for_each_token(const RowView& row, Visit visit) {
  for_each_quad(row, [&](const float (&logits)[4], uint32_t first) {
#pragma unroll
    for (uint32_t k = 0; k < 4; ++k) visit(logits[k], first + k);
  });
}

// Sum over the block, in every thread. All threads must call.
__device__ __forceinline__ uint64_t block_sum(SelectShared& shared, uint64_t value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared.warp_sum[threadIdx.x / 32] = value;
  __syncthreads();
  uint64_t total = 0;
  for (const uint64_t part : shared.warp_sum) total += part;
  return total;
}

// The entry of 2,048 at which the running sum reaches the target; thread t holds entries 2t (a) and 2t + 1
// (b). Into shared.found (kBins: the target is over the sum), with what comes before it in shared.before.
__device__ __forceinline__ void find_entry(SelectShared& shared, uint64_t a, uint64_t b, uint64_t target) {
  const uint32_t lane = threadIdx.x % 32;
  uint64_t through = a + b;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const uint64_t other = __shfl_up_sync(kAllLanes, through, step);
    if (lane >= step) through += other;
  }
  __syncthreads();
  if (lane == 31) shared.warp_sum[threadIdx.x / 32] = through;
  if (threadIdx.x == 0) shared.found = kBins;
  __syncthreads();
  for (uint32_t warp = 0; warp < threadIdx.x / 32; ++warp) through += shared.warp_sum[warp];
  const uint64_t before = through - a - b;
  if (before < target && target <= through) {
    const bool first = target <= before + a;
    shared.found = threadIdx.x * 2 + (first ? 0 : 1);
    shared.before = first ? before : before + a;
  }
  __syncthreads();
}

__device__ __forceinline__ uint64_t bin_value(const SelectShared& shared, uint32_t bin, bool weighted) {
  if (!weighted) return shared.count[bin];
  return static_cast<uint64_t>(shared.weight_high[bin]) << 32 | shared.weight_low[bin];
}

// Fills the bins: bin_of(logit, token) of every token, kBins = none.
template <class BinOf>
__device__ __forceinline__ void fill_bins(SelectShared& shared, const RowView& row, bool weighted,
                                          BinOf bin_of) {
  __syncthreads();
  for (uint32_t bin = threadIdx.x; bin < kBins; bin += kSelectThreads) {
    shared.count[bin] = shared.weight_low[bin] = shared.weight_high[bin] = 0;
  }
  __syncthreads();
  uint32_t last = 0;  // of the last bin, which much of a row may fall into
  for_each_token(row, [&](float logit, uint32_t token) {
    const uint32_t bin = bin_of(logit, token);
    if (bin >= kBins) return;
    if (bin == kBins - 1) {
      ++last;
    } else {
      atomicAdd(&shared.count[bin], 1U);
    }
    if (!weighted) return;
    const uint64_t weight = weight_of(row.x_of(logit));
    if (weight == 0) return;
    const uint32_t low = static_cast<uint32_t>(weight);
    const uint32_t carry = atomicAdd(&shared.weight_low[bin], low) > ~low ? 1 : 0;
    const uint32_t high = static_cast<uint32_t>(weight >> 32) + carry;
    if (high != 0) atomicAdd(&shared.weight_high[bin], high);
  });
  if (last != 0) atomicAdd(&shared.count[kBins - 1], last);
  __syncthreads();
}

// Ascending; what is behind num_collected must be UINT64_MAX.
__device__ __forceinline__ void sort_collected(SelectShared& shared) {
  for (uint32_t run = 2; run / 2 < shared.num_collected; run *= 2) {
    for (uint32_t apart = run / 2; apart > 0; apart /= 2) {
      const uint32_t low = 2 * threadIdx.x - (threadIdx.x & (apart - 1));
      const uint64_t a = shared.sorted[low], b = shared.sorted[low + apart];
      if ((a > b) == ((low & run) == 0)) {
        shared.sorted[low] = b;
        shared.sorted[low + apart] = a;
      }
      __syncthreads();
    }
  }
}

// The places of all tokens that pass, sorted, into shared.sorted. There must be no more than kSorted.
template <class Passes>
__device__ __forceinline__ void collect(SelectShared& shared, const RowView& row, Passes passes) {
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < kSorted; i += kSelectThreads) shared.sorted[i] = UINT64_MAX;
  if (threadIdx.x == 0) shared.num_collected = 0;
  __syncthreads();
  for_each_token(row, [&](float logit, uint32_t token) {
    if (!passes(logit, token)) return;
    const uint32_t at = atomicAdd(&shared.num_collected, 1U);
    if (at < kSorted) shared.sorted[at] = place_of(logit, token);
  });
  __syncthreads();
  sort_collected(shared);
}

// The place of the token of the set at which the running count (or weight) reaches the target; the set's own
// limit when it doesn't. With weights the target is `share` of the set's weight, else `count`.
__device__ __forceinline__ uint64_t select_place(SelectShared& shared, RowView row, KeptSet set,
                                                 bool weighted, uint32_t count, float share) {
  const uint32_t own = 2 * threadIdx.x;
  fill_bins(shared, row, weighted, [&](float logit, uint32_t token) {
    return set.has(row, logit, token) ? x_bin(row.x_of(logit)) : kBins;
  });
  uint64_t a = bin_value(shared, own, weighted), b = bin_value(shared, own + 1, weighted);
  uint64_t target = count;
  if (weighted) {
    const uint64_t total = block_sum(shared, a + b);
    target = __double2ull_ru(static_cast<double>(share) * static_cast<double>(total));
    target = min(max(target, uint64_t{1}), total);
  }
  find_entry(shared, a, b, target);
  const uint32_t bin = shared.found;
  if (bin == kBins) return set.limit;
  target -= shared.before;
  uint32_t held = shared.count[bin];

  // The bin's tokens whose place begins with `prefix` hold the one that is looked for.
  uint64_t prefix = 0;
  uint32_t shift = 64;
  const auto is_within = [&](float logit, uint32_t token) {
    if (!set.has(row, logit, token) || x_bin(row.x_of(logit)) != bin) return false;
    return shift == 64 || place_of(logit, token) >> shift == prefix;
  };
  while (held > kSorted) {
    const uint32_t next = shift - 11;
    fill_bins(shared, row, weighted, [&](float logit, uint32_t token) {
      if (!is_within(logit, token)) return kBins;
      return static_cast<uint32_t>(place_of(logit, token) >> next) & (kBins - 1);
    });
    a = bin_value(shared, own, weighted), b = bin_value(shared, own + 1, weighted);
    find_entry(shared, a, b, target);
    target -= shared.before;
    held = shared.count[shared.found];
    prefix = (shift == 64 ? 0 : prefix << 11) | shared.found;
    shift = next;
  }
  collect(shared, row, is_within);
  const uint64_t places[2] = {shared.sorted[own], shared.sorted[own + 1]};
  uint64_t values[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const bool real = own + i < shared.num_collected;
    values[i] = !real ? 0 : weighted ? weight_of(row.x_of(logit_of(places[i]))) : 1;
  }
  find_entry(shared, values[0], values[1], target);
  return shared.sorted[shared.found];
}

}  // namespace
}  // namespace kadenz::cuda
