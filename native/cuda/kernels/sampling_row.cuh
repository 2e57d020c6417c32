// What the sampling kernels share: a row's tokens, Philox noise keyed as host/philox.h says, and a tile's
// statistics with their fold. Where two kernels must agree on bits they call these; each operation is written
// out, so that no compile fuses it differently.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/kernels/sampling.h"
#include "host/philox.h"

namespace kadenz::cuda {
namespace {

constexpr uint32_t kAllLanes = 0xffffffffU;
constexpr float kLog2E = 0x1.715476p+0F;
constexpr int kTileValues = kSamplingTile / 32;  // of a lane: 4 quads, 128 tokens apart

__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }
__device__ __forceinline__ float not_a_number() { return __int_as_float(0x7fffffff); }

__device__ __forceinline__ float exp2_of(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// NaN if either is.
__device__ __forceinline__ float maximum_of(float a, float b) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
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
__device__ __forceinline__ float log_prob(const RowView& row, float log_sum, uint32_t token) {
  return __fsub_rn(row.x_of(row.at(token)), log_sum);
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

// The tile's winner by x + noise. Nearly no token needs its noise's two logarithms: with E = -ln(1 - v),
// the winner has the least E e^-x, and v <= E <= v / (1 - v). So v e^-x (v cut to 23 bits, hence from below)
// of all tokens bounds who can win; those few, mostly one, are worked out in full. The outcome is that of the
// full comparison.
__device__ __forceinline__ Candidate noisy_winner(const float (&logits)[kTileValues],
                                                  const NoiseSource& noise, const RowView& tile,
                                                  uint32_t first) {
  const uint32_t lane = threadIdx.x & 31;
  uint32_t quads[4], words[4][4];
#pragma unroll
  for (int q = 0; q < 4; ++q) quads[q] = first / 4 + q * 32 + lane;
  noise_words(noise, quads, words);

  const float scale = __fmul_rn(tile.scale, -kLog2E);
  float race[kTileValues];
  float least = infinity(), leader = 1.0F;  // the lane's least, and its e^-x
#pragma unroll
  for (int k = 0; k < kTileValues; ++k) {
    // Past 2^100 no token wins; the cap keeps -infinity and the product finite.
    const float inverse = exp2_of(fminf(__fmul_rn(__fsub_rn(logits[k], tile.maximum), scale), 100.0F));
    const float one_and_v = __uint_as_float(__funnelshift_r(words[k / 4][k % 4], 0x7fU, 9));
    race[k] = __fmaf_rn(one_and_v, inverse, -inverse);
    leader = race[k] < least ? inverse : leader;
    least = fminf(least, race[k]);
  }
  // The leader's E e^-x from above; where v is near 1, by E <= -ln 2^-24 < 20.
  const float v = least / leader + 0x1p-22F;
  float bound = v < 0.999F ? leader * v / (1.0F - v) : leader * 20.0F;
#pragma unroll
  for (int step = 16; step > 0; step /= 2) bound = fminf(bound, __shfl_xor_sync(kAllLanes, bound, step));
  bound *= 1.0001F;  // more than rounding can make of it
  uint32_t candidates = 0;
#pragma unroll
  for (int k = 0; k < kTileValues; ++k) candidates |= race[k] <= bound ? 1U << k : 0U;

  Candidate winner{-infinity(), -1};
  while (candidates != 0) {
    const uint32_t k = __ffs(candidates) - 1;
    candidates &= candidates - 1;
    const uint32_t token = first + k / 4 * 128 + lane * 4 + k % 4;
    if (token >= tile.count) continue;
    const float logit = tile.at(token);
    if (logit == -infinity()) continue;
    const uint32_t quad[1] = {token / 4};
    uint32_t word[1][4];
    noise_words(noise, quad, word);
    const uint32_t place = token % 4;
    const uint32_t own =
        place < 2 ? (place == 0 ? word[0][0] : word[0][1]) : (place == 2 ? word[0][2] : word[0][3]);
    winner.meet(__fadd_rn(tile.x_of(logit), gumbel_of(own)), static_cast<int32_t>(token));
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const float value = __shfl_xor_sync(kAllLanes, winner.value, step);
    const int32_t id = __shfl_xor_sync(kAllLanes, winner.id, step);
    winner.meet(value, id);
  }
  return winner;
}

__device__ __forceinline__ int32_t first_maximum(const float (&logits)[kTileValues], float maximum,
                                                 uint32_t first) {
  uint32_t id = UINT32_MAX;
#pragma unroll
  for (int k = kTileValues - 1; k >= 0; --k) {
    if (logits[k] == maximum) id = first + k / 4 * 128 + (threadIdx.x & 31) * 4 + k % 4;
  }
  return static_cast<int32_t>(__reduce_min_sync(kAllLanes, id));
}

// One warp's work on one tile. The row's maximum isn't known yet: row.maximum and row.infinite mean nothing.
__device__ __forceinline__ SamplingTile tile_of(const RowView& row, uint32_t tile_index, float sum_scale,
                                                Choice choice, const NoiseSource& noise) {
  const uint32_t lane = threadIdx.x & 31;
  const uint32_t first = tile_index * kSamplingTile;
  const bool aligned = is_aligned(row.logits);
  float logits[kTileValues];
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    const float4 quad = load_quad(row.logits, first + q * 128 + lane * 4, row.count, aligned);
    logits[4 * q] = quad.x;
    logits[4 * q + 1] = quad.y;
    logits[4 * q + 2] = quad.z;
    logits[4 * q + 3] = quad.w;
  }
  float maximum = logits[0];
#pragma unroll
  for (int k = 1; k < kTileValues; ++k) maximum = maximum_of(maximum, logits[k]);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    maximum = maximum_of(maximum, __shfl_xor_sync(kAllLanes, maximum, step));
  }
  if (!(maximum > -infinity())) return {maximum, 0.0F, 0.0F, -1};  // all impossible, or a NaN

  const bool infinite = maximum == infinity();
  const RowView tile{row.logits, row.count, infinite ? 0.0F : maximum, row.scale, infinite};
  if (infinite) {
#pragma unroll
    for (int k = 0; k < kTileValues; ++k) logits[k] = tile.settled(logits[k]);
  }
  const float power_scale = __fmul_rn(sum_scale, kLog2E);
  float sums[4];
#pragma unroll
  for (int k = 0; k < kTileValues; ++k) {
    const float power = exp2_of(__fmul_rn(__fsub_rn(logits[k], tile.maximum), power_scale));
    sums[k % 4] = k < 4 ? power : __fadd_rn(sums[k % 4], power);
  }
  float sum = __fadd_rn(__fadd_rn(sums[0], sums[1]), __fadd_rn(sums[2], sums[3]));
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum = __fadd_rn(sum, __shfl_xor_sync(kAllLanes, sum, step));

  if (choice == Choice::kNoise) {
    const Candidate winner = noisy_winner(logits, noise, tile, first);
    return {maximum, sum, winner.value, winner.id};
  }
  if (choice == Choice::kGreedy) return {maximum, sum, 0.0F, first_maximum(logits, tile.maximum, first)};
  return {maximum, sum, 0.0F, -1};
}

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

// Visits a lane's tiles: l, l + 32, ..., some loads under way at a time.
template <class Visit>
__device__ __forceinline__ void for_each_tile(const SamplingTile* tiles, uint32_t count, Visit visit) {
  constexpr uint32_t kAtOnce = 5;
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
__device__ __forceinline__ RowStatistics fold_tiles(const SamplingTile* tiles, uint32_t count,
                                                    float sum_scale, float choice_scale) {
  float maximum = -infinity();
  for_each_tile(tiles, count, [&](const SamplingTile& tile) { maximum = maximum_of(maximum, tile.maximum); });
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    maximum = maximum_of(maximum, __shfl_xor_sync(kAllLanes, maximum, step));
  }
  const bool infinite = maximum == infinity();
  if (!(maximum > -infinity())) return {maximum, 0.0F, -1, true, infinite};

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
  return {maximum, static_cast<float>(log(sum)), token, false, infinite};
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
