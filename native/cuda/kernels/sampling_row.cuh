// What the sampling kernels share: a row's tokens, Philox noise keyed as host/philox.h says, and the fold of
// the tiles' statistics (sampling_tiles.cuh makes them). Where two kernels must agree on bits they call
// these; each operation is written out, so that no compile fuses it differently.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/kernels/sampling.h"
#include "host/philox.h"

namespace kadenz::cuda {
namespace {

constexpr uint32_t kAllLanes = 0xffffffffU;
constexpr float kLog2E = 0x1.715476p+0F;

__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }
__device__ __forceinline__ float not_a_number() { return __int_as_float(0x7fffffff); }

__device__ __forceinline__ float exp2_of(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float log2_of(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// NaN if either is.
__device__ __forceinline__ float maximum_of(float a, float b) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}

// The warp's largest, by the integers that order like floats; a NaN comes out of maximum_of as the largest.
__device__ __forceinline__ float warp_maximum(float value) {
  const auto flipped = [](int32_t bits) { return bits ^ (bits >> 31 & 0x7fffffff); };
  return __int_as_float(flipped(__reduce_max_sync(kAllLanes, flipped(__float_as_int(value)))));
}

// A row as its readers see it. Where the largest logit is +infinity, those that reach it count as 0 and all
// others as -infinity.
struct RowView {
  const float* logits;
  uint32_t count;
  float maximum;  // finite; what x is relative to
  float scale;
  bool infinite;

  __device__ __forceinline__ float settled(float logit) const {
    return infinite ? (logit == infinity() ? 0.0F : -infinity()) : logit;
  }
  __device__ __forceinline__ float at(uint32_t token) const { return settled(logits[token]); }
  __device__ __forceinline__ float x_of(float logit) const {
    return __fmul_rn(__fsub_rn(logit, maximum), scale);
  }
};

// Four tokens from a multiple of 4 on; -infinity behind the end.
__device__ __forceinline__ float4 load_quad(const float* logits, uint32_t first, uint32_t count,
                                            bool aligned) {
  if (aligned && first + 4 <= count) return *reinterpret_cast<const float4*>(logits + first);
  float4 quad;
  quad.x = first < count ? logits[first] : -infinity();
  quad.y = first + 1 < count ? logits[first + 1] : -infinity();
  quad.z = first + 2 < count ? logits[first + 2] : -infinity();
  quad.w = first + 3 < count ? logits[first + 3] : -infinity();
  return quad;
}

__device__ __forceinline__ bool is_aligned(const float* logits) {
  return (reinterpret_cast<uintptr_t>(logits) & 15) == 0;
}

// The one place where a log-prob is made.
__device__ __forceinline__ float log_prob_of(const RowView& row, float log_sum, float logit) {
  return __fsub_rn(row.x_of(row.settled(logit)), log_sum);
}
__device__ __forceinline__ float log_prob(const RowView& row, float log_sum, uint32_t token) {
  return log_prob_of(row, log_sum, row.logits[token]);
}

// What Philox's first two rounds have in common for all tokens of one draw (host/philox.h, NoiseRounds).
struct NoiseSource {
  uint32_t key0, key1;
  uint32_t after1_word2, after2_word0, after2_word2, after2_word3;
};

__device__ __forceinline__ NoiseSource noise_source(const SampleParams& item) {
  NoiseSource noise;
  noise.key0 = static_cast<uint32_t>(item.seed);
  noise.key1 = static_cast<uint32_t>(item.seed >> 32);
  const uint64_t sample_product = uint64_t{kPhiloxMultiplier1} * item.sample;
  const uint32_t word0 = static_cast<uint32_t>(sample_product >> 32) ^ item.position ^ noise.key0;
  const uint64_t word0_product = uint64_t{kPhiloxMultiplier0} * word0;
  noise.after1_word2 = noise.key1;
  noise.after2_word0 = static_cast<uint32_t>(sample_product) ^ (noise.key0 + kPhiloxKeyStep0);
  noise.after2_word2 = static_cast<uint32_t>(word0_product >> 32) ^ (noise.key1 + kPhiloxKeyStep1);
  noise.after2_word3 = static_cast<uint32_t>(word0_product);
  return noise;
}

// The words of Count quads at once: their rounds go side by side. quads: vocabulary index / 4.
template <int Count>
__device__ __forceinline__ void noise_words(const NoiseSource& noise, const uint32_t (&quads)[Count],
                                            uint32_t (&words)[Count][4]) {
#pragma unroll
  for (int q = 0; q < Count; ++q) {
    const uint64_t product0 = uint64_t{kPhiloxMultiplier0} * quads[q];
    const uint32_t word2 = static_cast<uint32_t>(product0 >> 32) ^ noise.after1_word2;
    const uint64_t product1 = uint64_t{kPhiloxMultiplier1} * word2;
    words[q][0] = static_cast<uint32_t>(product1 >> 32) ^ noise.after2_word0;
    words[q][1] = static_cast<uint32_t>(product1);
    words[q][2] = static_cast<uint32_t>(product0) ^ noise.after2_word2;
    words[q][3] = noise.after2_word3;
  }
#pragma unroll
  for (uint32_t round = 2; round < kPhiloxRounds; ++round) {
    const uint32_t key0 = noise.key0 + round * kPhiloxKeyStep0;
    const uint32_t key1 = noise.key1 + round * kPhiloxKeyStep1;
#pragma unroll
    for (int q = 0; q < Count; ++q) {
      const uint64_t product0 = uint64_t{kPhiloxMultiplier0} * words[q][0];
      const uint64_t product1 = uint64_t{kPhiloxMultiplier1} * words[q][2];
      words[q][0] = static_cast<uint32_t>(product1 >> 32) ^ words[q][1] ^ key0;
      words[q][2] = static_cast<uint32_t>(product0 >> 32) ^ words[q][3] ^ key1;
      words[q][1] = static_cast<uint32_t>(product1);
      words[q][3] = static_cast<uint32_t>(product0);
    }
  }
}

// -ln(-ln(1 - v)), v = (word + 1/2) / 2^32 kept below 1. What 1 - v loses by rounding is added back.
__device__ __forceinline__ float gumbel_of(uint32_t word) {
  const float v = fminf(__fmaf_rn(__uint2float_rn(word), 0x1p-32F, 0x1p-33F), 1.0F - 0x1p-24F);
  const float rest = __fsub_rn(1.0F, v);
  const float lost = __fsub_rn(__fsub_rn(1.0F, rest), v);
  return -logf(-__fadd_rn(logf(rest), lost));
}

enum class Choice { kNone, kGreedy, kNoise };

struct Candidate {
  float value;
  int32_t id;  // -1: none

  __device__ __forceinline__ void meet(float other_value, int32_t other_id) {
    if (other_id < 0) return;
    if (id >= 0 && (other_value < value || (other_value == value && other_id > id))) return;
    value = other_value;
    id = other_id;
  }
};

// What all of a row's tiles say together.
struct RowStatistics {
  float maximum;
  float log_sum;  // ln of the sum of e^x at the sums' scale
  int32_t token;  // the winner; -1: none was asked for
  bool failed;    // a NaN, or nothing possible
  bool infinite;

  __device__ __forceinline__ RowView view(const float* logits, uint32_t count, float scale) const {
    return {logits, count, infinite ? 0.0F : maximum, scale, infinite};
  }
};

// The same, but for the sum's logarithm.
struct TileFold {
  float maximum;
  double sum;
  int32_t token;
  bool failed;
  bool infinite;

  __device__ __forceinline__ RowStatistics statistics() const {
    return {maximum, failed ? 0.0F : static_cast<float>(log(sum)), token, failed, infinite};
  }
};

// Visits a lane's tiles: l, l + 32, ..., some loads under way at a time.
template <class Visit>
__device__ __forceinline__ void for_each_tile(const SamplingTile* tiles, uint32_t count, Visit visit) {
  constexpr uint32_t kAtOnce = 10;  // of 151,936 tokens all
  for (uint32_t base = threadIdx.x & 31; base < count; base += 32 * kAtOnce) {
    SamplingTile held[kAtOnce];
#pragma unroll
    for (uint32_t i = 0; i < kAtOnce; ++i) {
      held[i] = base + 32 * i < count ? tiles[base + 32 * i] : SamplingTile{-infinity(), 0.0F, 0.0F, -1};
    }
#pragma unroll
    for (uint32_t i = 0; i < kAtOnce; ++i) visit(held[i]);
  }
}

// By one warp: each lane its tiles in order, then the lanes pairwise.
__device__ __forceinline__ TileFold fold_tiles(const SamplingTile* tiles, uint32_t count, float sum_scale,
                                               float choice_scale) {
  float maximum = -infinity();
  for_each_tile(tiles, count, [&](const SamplingTile& tile) { maximum = maximum_of(maximum, tile.maximum); });
  maximum = warp_maximum(maximum);
  const bool infinite = maximum == infinity();
  if (!(maximum > -infinity())) return {maximum, 0.0, -1, true, infinite};

  double sum = 0, best = 0;
  int32_t token = -1;
  const auto meet = [&](double value, int32_t id) {
    if (id < 0 || (token >= 0 && (value < best || (value == best && id > token)))) return;
    best = value;
    token = id;
  };
  for_each_tile(tiles, count, [&](const SamplingTile& tile) {
    if (tile.maximum == -infinity() || (infinite && tile.maximum != infinity())) return;
    const double behind = infinite ? 0.0 : static_cast<double>(tile.maximum) - static_cast<double>(maximum);
    const float factor = expf(static_cast<float>(__dmul_rn(behind, sum_scale)));
    sum = __dadd_rn(sum, __dmul_rn(tile.sum, factor));
    meet(__dadd_rn(tile.best, __dmul_rn(behind, choice_scale)), tile.best_id);
  });
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    sum = __dadd_rn(sum, __shfl_xor_sync(kAllLanes, sum, step));
    const double value = __shfl_xor_sync(kAllLanes, best, step);
    const int32_t id = __shfl_xor_sync(kAllLanes, token, step);
    meet(value, id);
  }
  return {maximum, sum, token, false, infinite};
}

__device__ __forceinline__ const float* row_of(const SamplingTarget& target, const SampleParams& item) {
  return target.logits + uint64_t{item.output - target.first_output} * target.logits_stride;
}

__device__ __forceinline__ Choice choice_of(const SampleParams& item) {
  if (item.score_token >= 0) return Choice::kNone;
  return item.is_greedy != 0 ? Choice::kGreedy : Choice::kNoise;
}

__device__ __forceinline__ bool is_poisoned(const SamplingTarget& target, const SampleParams& item) {
  return item.score_token < 0 && target.poisoned != nullptr && target.poisoned[item.step_row] != 0;
}

// One thread leaves an outcome; a sample's token is also where the next step finds it, and in its counters.
__device__ __forceinline__ void write_outcome(const SamplingTarget& target, const SampleParams& item,
                                              const SampleOutcome& outcome) {
  target.outcomes[item.outcome] = outcome;
  if (item.score_token >= 0) return;
  target.sampled_tokens[item.outcome] = outcome.token_id;
  if (item.counts != nullptr && outcome.token_id >= 0) ++item.counts[outcome.token_id];
}

__device__ __forceinline__ SampleOutcome failure_of(const SamplingTarget& target, const SampleParams& item) {
  return {item.score_token, target.code_of_failure, not_a_number(), 0, 0};
}

}  // namespace
}  // namespace kadenz::cuda
