// Tiles of a row, worked out by one warp, up to 8 in a go: each one's largest logit, sum and winner. What the
// lanes have to say of a tile is gathered by four of them, its owners, and the few tokens that may win are
// worked out at the end of the go, for all its tiles at once. A tile's bits depend on the tile alone.
//
// The race. The winner has the largest x - ln E, E = -ln(1 - v), v the token's noise in (0, 1). Nearly no
// token needs that in full. Since E >= v, a token's
//
//   start = log2(word) unit - (logit - maximum),   unit = ln 2 / scale, v = word / 2^32 but for rounding
//
// is never behind its true place ln E - x, both in logits and from the same zero (32 units), by more than
// rounding: scale * start - 32 ln 2 <= ln E - x + kRounding. The winner is then among the tokens whose start
// isn't over `bound`, whatever the bound, if one of them is found to have a true place of bound - kRounding
// or less: all others are behind it. That is looked up once the candidates are worked out; where it doesn't
// hold, all tokens of the tile are. So a bound need only be good, not proven. The one taken: for any token
// ln E <= ln v + ln(1 - v) / -2, with v known from above by its start and the largest logit of its lane.
//
// kRounding, in units of x: log2's error of 2^-17 5.3e-6, unit's 5.3e-6, the start's own rounding 3.6e-6, x's
// 1.8e-6, the noise's two logarithms 3e-6, the sum x + noise 1e-6, v's cut below 1 and its rounding 2e-7:
// 2.1e-5 in all where scale * start < 60 and |x| < 30. Further behind, errors grow in proportion (by 1e-6 of
// the start), while no bound is over 32 ln 2 + 3: such tokens stay behind.
#pragma once

#include "cuda/kernels/sampling_row.cuh"

namespace kadenz::cuda {
namespace {

constexpr int kTileValues = kSamplingTile / 32;  // of a lane: 4 quads, 128 tokens apart
constexpr uint32_t kTilesAtOnce = 8;             // four owners each
constexpr float kLn2 = 0x1.62e43p-1F;
constexpr float kRounding = 1e-4F;
constexpr float kMargin = 3e-4F;  // what a bound allows for rounding, so that nearly all hold

struct Race {
  float scale;
  float unit;
  float margin;      // infinite where scale leaves float32 no room: all tokens are candidates
  float log2_scale;  // octaves to a logit

  __device__ __forceinline__ float start_of(uint32_t word, float behind) const {
    return start_of(log2_of(__uint2float_rn(word)), behind);
  }
  // -infinity where the word is 0
  __device__ __forceinline__ float start_of(float log2_word, float behind) const {
    return __fmaf_rn(log2_word, unit, -behind);
  }
  // How far behind its start a lane's first token can truly be; `behind`: of the lane's largest logit.
  __device__ __forceinline__ float bound_of(float start, float behind) const {
    const float log2_v = __fmaf_rn(start, log2_scale, __fmaf_rn(behind, log2_scale, -32.0F));
    const float rest = __fsub_rn(1.0F, exp2_of(log2_v));
    // E <= -ln 2^-24 < 2^4.1; fminf drops the NaN of v over 1.
    const float octaves = fminf(__fmul_rn(log2_of(rest), -0.5F), 4.1F);
    return __fadd_rn(start, __fmaf_rn(unit, octaves, margin));
  }
  __device__ __forceinline__ bool holds(float bound, float best) const {
    return best >= __fmaf_rn(-scale, bound, 32.0F * kLn2 + kRounding);
  }
};

__device__ __forceinline__ Race race_of(float scale) {
  const bool has_room = scale > 0x1p-60F && scale < 0x1p60F;
  return {scale, has_room ? __fdividef(kLn2, scale) : 1.0F,
          has_room ? __fdividef(kMargin, scale) : infinity(), __fmul_rn(scale, kLog2E)};
}

// What the four owners of a tile know of it.
struct OwnTile {
  float maximum = -infinity();
  float sum = 0;
  float bound = infinity();
  uint32_t lanes = 0;  // those with candidates
  int32_t greedy_id = -1;
};

__device__ __forceinline__ void load_tile(const RowView& row, uint32_t first, bool aligned,
                                          float (&logits)[kTileValues]) {
  const uint32_t own = first + (threadIdx.x & 31) * 4;
  float4 quads[4];
  if (aligned && first + kSamplingTile <= row.count) {
#pragma unroll
    for (int q = 0; q < 4; ++q) quads[q] = *reinterpret_cast<const float4*>(row.logits + own + q * 128);
  } else {
#pragma unroll
    for (int q = 0; q < 4; ++q) quads[q] = load_quad(row.logits, own + q * 128, row.count, aligned);
  }
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    logits[4 * q] = quads[q].x;
    logits[4 * q + 1] = quads[q].y;
    logits[4 * q + 2] = quads[q].z;
    logits[4 * q + 3] = quads[q].w;
  }
}

__device__ __forceinline__ void log2_words(const NoiseSource& noise, uint32_t first,
                                           float (&logs)[kTileValues]) {
  uint32_t quads[4], words[4][4];
#pragma unroll
  for (int q = 0; q < 4; ++q) quads[q] = first / 4 + q * 32 + (threadIdx.x & 31);
  noise_words(noise, quads, words);
#pragma unroll
  for (int k = 0; k < kTileValues; ++k) logs[k] = log2_of(__uint2float_rn(words[k / 4][k % 4]));
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

// The candidates among a quad's tokens, in full.
__device__ __forceinline__ void meet_quad(const RowView& tile, bool aligned, const NoiseSource& noise,
                                          const Race& race, float bound, uint32_t first, Candidate& winner) {
  const float4 loaded = load_quad(tile.logits, first, tile.count, aligned);
  const float logits[4] = {tile.settled(loaded.x), tile.settled(loaded.y), tile.settled(loaded.z),
                           tile.settled(loaded.w)};
  const uint32_t quad[1] = {first / 4};
  uint32_t words[1][4];
  noise_words(noise, quad, words);
  uint32_t candidates = 0;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const bool late = race.start_of(words[0][k], __fsub_rn(logits[k], tile.maximum)) > bound;
    candidates |= logits[k] > -infinity() && !late ? 1U << k : 0U;
  }
  while (candidates != 0) {
    const uint32_t k = __ffs(candidates) - 1;
    candidates &= candidates - 1;
    const float logit = k < 2 ? (k == 0 ? logits[0] : logits[1]) : (k == 2 ? logits[2] : logits[3]);
    const uint32_t word = k < 2 ? (k == 0 ? words[0][0] : words[0][1]) : (k == 2 ? words[0][2] : words[0][3]);
    winner.meet(__fadd_rn(tile.x_of(logit), gumbel_of(word)), static_cast<int32_t>(first + k));
  }
}

// The winner of the tile that starts at `first`, in its four owners: each takes one quad of every lane that
// has candidates.
__device__ __forceinline__ Candidate noisy_winner(const RowView& row, bool aligned, const NoiseSource& noise,
                                                  const Race& race, const OwnTile& own, uint32_t first) {
  const bool infinite = own.maximum == infinity();
  const RowView tile{row.logits, row.count, infinite ? 0.0F : own.maximum, row.scale, infinite};
  const uint32_t place = threadIdx.x & 3;
  uint32_t lanes = own.lanes;
  float bound = own.bound;
  Candidate winner{-infinity(), -1};
  while (true) {
#pragma unroll 1
    while (lanes != 0) {
      const uint32_t from = __ffs(lanes) - 1;
      lanes &= lanes - 1;
      meet_quad(tile, aligned, noise, race, bound, first + place * 128 + from * 4, winner);
    }
    __syncwarp();
#pragma unroll
    for (int step = 2; step > 0; step /= 2) {
      const float value = __shfl_xor_sync(kAllLanes, winner.value, step);
      const int32_t id = __shfl_xor_sync(kAllLanes, winner.id, step);
      winner.meet(value, id);
    }
    const bool found = bound == infinity() || race.holds(bound, winner.value);
    if (__all_sync(kAllLanes, found)) return winner;
    if (found) continue;
    lanes = kAllLanes;
    bound = infinity();
  }
}

// Tiles first_tile, first_tile + stride, ... (`count` of them, at most kTilesAtOnce) into `tiles`. The row's
// maximum isn't known yet: row.maximum and row.infinite mean nothing.
template <bool kNoise>
__device__ __forceinline__ void work_out_tiles(const RowView& row, uint32_t first_tile, uint32_t stride,
                                               uint32_t count, float sum_scale, bool greedy,
                                               const NoiseSource& noise, SamplingTile* tiles) {
  const uint32_t lane = threadIdx.x & 31;
  const bool aligned = is_aligned(row.logits);
  const float power_scale = __fmul_rn(sum_scale, kLog2E);
  const Race race = kNoise ? race_of(row.scale) : Race{};
  OwnTile own;
#pragma unroll 1
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t first = (first_tile + i * stride) * kSamplingTile;
    float logits[kTileValues], logs[kTileValues];
    load_tile(row, first, aligned, logits);
    if constexpr (kNoise) log2_words(noise, first, logs);  // while the logits are under way
    float largest = logits[0];
#pragma unroll
    for (int k = 1; k < kTileValues; ++k) largest = maximum_of(largest, logits[k]);
    const float maximum = warp_maximum(largest);
    const bool is_own = lane / 4 == i;
    if (is_own) own.maximum = maximum;
    if (!(maximum > -infinity())) continue;  // all impossible, or a NaN

    const bool infinite = maximum == infinity();
    const RowView tile{row.logits, row.count, infinite ? 0.0F : maximum, row.scale, infinite};
    if (infinite) {
      largest = tile.settled(largest);
#pragma unroll
      for (int k = 0; k < kTileValues; ++k) logits[k] = tile.settled(logits[k]);
    }
    float sums[4], behind[kTileValues];
#pragma unroll
    for (int k = 0; k < kTileValues; ++k) {
      behind[k] = __fsub_rn(logits[k], tile.maximum);
      const float power = exp2_of(__fmul_rn(behind[k], power_scale));
      sums[k % 4] = k < 4 ? power : __fadd_rn(sums[k % 4], power);
    }
    float sum = __fadd_rn(__fadd_rn(sums[0], sums[1]), __fadd_rn(sums[2], sums[3]));
#pragma unroll
    for (int step = 16; step > 0; step /= 2) sum = __fadd_rn(sum, __shfl_xor_sync(kAllLanes, sum, step));
    if (is_own) own.sum = sum;

    if constexpr (kNoise) {
      float start = infinity();
#pragma unroll
      for (int k = 0; k < kTileValues; ++k) start = fminf(start, race.start_of(logs[k], behind[k]));
      // Bounds are no less than 0, or -infinity: they order as integers.
      const float lane_bound = race.bound_of(start, __fsub_rn(largest, tile.maximum));
      const float bound = __int_as_float(__reduce_min_sync(kAllLanes, __float_as_int(lane_bound)));
      const uint32_t lanes = __ballot_sync(kAllLanes, !(start > bound));
      if (is_own) own.bound = bound, own.lanes = lanes;
    } else if (greedy) {
      const int32_t id = first_maximum(logits, tile.maximum, first);
      if (is_own) own.greedy_id = id;
    }
  }

  const uint32_t own_tile = first_tile + lane / 4 * stride;
  SamplingTile said{own.maximum, own.sum, 0.0F, own.greedy_id};
  if constexpr (kNoise) {
    const Candidate winner = noisy_winner(row, aligned, noise, race, own, own_tile * kSamplingTile);
    if (winner.id >= 0) said.best = winner.value, said.best_id = winner.id;
  }
  if (lane % 4 == 0 && lane / 4 < count) tiles[own_tile] = said;
}

// The same for a choice known at run time.
__device__ __forceinline__ void work_out_tiles(const RowView& row, uint32_t first_tile, uint32_t stride,
                                               uint32_t count, float sum_scale, Choice choice,
                                               const NoiseSource& noise, SamplingTile* tiles) {
  if (choice == Choice::kNoise) {
    work_out_tiles<true>(row, first_tile, stride, count, sum_scale, false, noise, tiles);
  } else {
    work_out_tiles<false>(row, first_tile, stride, count, sum_scale, choice == Choice::kGreedy, noise, tiles);
  }
}

}  // namespace
}  // namespace kadenz::cuda
