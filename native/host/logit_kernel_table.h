// The passes of logit_kernels.h, as templates over 16 lanes (lanes_scalar.h, lanes_avx2.h, lanes_avx512.h).
#pragma once

#include <cstdint>

#include "cpu/row_kernels.h"
#include "host/logit_kernels.h"

namespace kadenz {
namespace {

constexpr float kMinusInfinity = -__builtin_inff();

// Groups are read where they lie; the last, partial one from a copy that is filled up with -infinity.
template <class Visit>
void for_each_group(const float* logits, int64_t count, Visit visit) {
  const int64_t whole = count / kLogitGroup;
  for (int64_t group = 0; group < whole; ++group) visit(group, logits + group * kLogitGroup);
  if (whole * kLogitGroup == count) return;
  alignas(64) float rest[kLogitGroup];
  for (int64_t i = 0; i < kLogitGroup; ++i) {
    const int64_t index = whole * kLogitGroup + i;
    rest[i] = index < count ? logits[index] : kMinusInfinity;
  }
  visit(whole, rest);
}

// ln x for positive, normal x, within 1 unit in the last place near 1 and beyond 2 elsewhere:
// x = m 2^k, f = m - 1; ln m = f + f^2 (f p(f) - 1/2), p fitted on sqrt(1/2) - 1 .. sqrt(2) - 1 to a relative
// error of 4e-8.
template <class V>
typename V::Vec log_lanes(typename V::Vec x) {
  auto k = V::zero();
  const auto f = V::subtract(V::split(x, &k), V::broadcast(1.0F));
  auto p = V::broadcast(0x1.645e68p-4F);
  p = V::fma(p, f, V::broadcast(-0x1.2432b4p-3F));
  p = V::fma(p, f, V::broadcast(0x1.317460p-3F));
  p = V::fma(p, f, V::broadcast(-0x1.53824ap-3F));
  p = V::fma(p, f, V::broadcast(0x1.98d7f2p-3F));
  p = V::fma(p, f, V::broadcast(-0x1.000382p-2F));
  p = V::fma(p, f, V::broadcast(0x1.5556d8p-2F));
  const auto tail = V::fma(f, p, V::broadcast(-0.5F));
  const auto mantissa_log = V::fma(V::multiply(f, f), tail, f);
  return V::fma(k, V::broadcast(0x1.62e430p-1F), mantissa_log);
}

// v = (word + 1/2) / 2^32, kept below 1
template <class V>
typename V::Vec uniform_lanes(typename V::Bits words) {
  const auto v = V::fma(V::to_float(words), V::broadcast(0x1p-32F), V::broadcast(0x1p-33F));
  return V::minimum(v, V::broadcast(1.0F - 0x1p-24F));
}

// -ln(-ln(1 - v)). 1 - v is rounded; what the rounding lost is added back, so that a small v keeps all its
// digits.
template <class V>
typename V::Vec gumbel_lanes(typename V::Bits words) {
  const auto one = V::broadcast(1.0F);
  const auto v = uniform_lanes<V>(words);
  const auto rest = V::subtract(one, v);
  const auto lost = V::subtract(V::subtract(one, rest), v);
  const auto exponential = V::subtract(V::zero(), V::add(log_lanes<V>(rest), lost));
  return V::subtract(V::zero(), log_lanes<V>(exponential));
}

template <class V>
float maximum_of_row(const float* logits, int64_t count, bool* has_nan) {
  auto largest = V::broadcast(kMinusInfinity);
  auto nan = V::not_a_number(largest);
  for_each_group(logits, count, [&](int64_t, const float* group) {
    for (int64_t i = 0; i < kLogitGroup; i += 16) {
      const auto v = V::load(group + i);
      nan = V::either(nan, V::not_a_number(v));
      largest = V::maximum(v, largest);
    }
  });
  *has_nan = V::bits_of(nan) != 0;
  return largest_lane<V>(largest);
}

template <class V>
typename V::Vec group_maximum(const float* group) {
  const auto a = V::maximum(V::load(group), V::load(group + 16));
  const auto b = V::maximum(V::load(group + 32), V::load(group + 48));
  return V::maximum(a, b);
}

template <class V>
void group_maxima_of_row(const float* logits, int64_t count, float* maxima) {
  for_each_group(logits, count, [&](int64_t index, const float* group) {
    maxima[index] = largest_lane<V>(group_maximum<V>(group));
  });
}

template <class V>
int64_t find_in_row(const float* logits, int64_t count, float value) {
  const auto wanted = V::broadcast(value);
  int64_t found = count;
  for_each_group(logits, count, [&](int64_t index, const float* group) {
    for (int64_t i = 0; i < kLogitGroup && found == count; i += 16) {
      const uint32_t bits = V::bits_of(V::equal(V::load(group + i), wanted));
      if (bits != 0) found = index * kLogitGroup + i + __builtin_ctz(bits);
    }
  });
  return found < count ? found : count;
}

template <class V>
int64_t count_ahead_in_row(const float* logits, int64_t count, int64_t index) {
  const auto own = V::broadcast(logits[index]);
  int64_t ahead = 0;
  for_each_group(logits, count, [&](int64_t group_index, const float* group) {
    for (int64_t i = 0; i < kLogitGroup; i += 16) {
      const int64_t first = group_index * kLogitGroup + i;
      const auto v = V::load(group + i);
      const uint32_t equal = V::bits_of(V::equal(v, own));
      ahead += __builtin_popcount(V::bits_of(V::greater(v, own)));
      if (equal == 0 || first >= index) continue;
      const uint32_t lower = index - first >= 16 ? 0xffffU : (1U << (index - first)) - 1;
      ahead += __builtin_popcount(equal & lower);
    }
  });
  return ahead;
}

inline double fold_sums(const float* sums) {
  double total = 0;
  for (int64_t i = 0; i < kLogitGroup; ++i) total += sums[i];
  return total;
}

template <class V>
struct ExpSums {
  typename V::Vec sum[4] = {V::zero(), V::zero(), V::zero(), V::zero()};

  double fold() const {
    alignas(64) float lanes[kLogitGroup];
    for (int i = 0; i < 4; ++i) V::store(lanes + 16 * i, sum[i]);
    return fold_sums(lanes);
  }
};

template <class V>
double exp_sum_of_row(const ScaledRow& row) {
  const auto maximum = V::broadcast(row.maximum);
  const auto scale = V::broadcast(row.scale);
  ExpSums<V> sums;
  for_each_group(row.logits, row.count, [&](int64_t, const float* group) {
    for (int i = 0; i < 4; ++i) {
      const auto x = V::multiply(V::subtract(V::load(group + 16 * i), maximum), scale);
      sums.sum[i] = V::add(sums.sum[i], exp_lanes<V>(x));
    }
  });
  return sums.fold();
}

// Most tokens can't win, and that can be seen without their noise's two logarithms: with E = -ln(1 - v) >= v,
// the token's value x - ln E is over `best` only if v < e^x e^-best. So a group is worked out in full only
// when some token of it passes that test (with a margin for rounding), about ten times a row. The outcome is
// that of the full comparison.
template <class V, bool WithSum>
int64_t noisy_argmax_of_row(const ScaledRow& row, const NoiseKey& key, double* exp_sum) {
  constexpr float kMargin = 1.01F;
  const auto maximum = V::broadcast(row.maximum);
  const auto scale = V::broadcast(row.scale);
  // The token at the maximum has x = 0 and noise of at least -ln(-ln 2^-24) > -2.82: whatever wins is over
  // that.
  float best = kMinusInfinity;
  int64_t best_index = row.count;
  auto bound = V::multiply(exp_lanes<V>(V::broadcast(2.82F)), V::broadcast(kMargin));
  const typename V::Noise noise = V::prepare_noise(key);
  ExpSums<V> sums;
  for_each_group(row.logits, row.count, [&](int64_t index, const float* group) {
    typename V::Bits words[4];
    V::noise_words(noise, static_cast<uint32_t>(index), words);
    typename V::Vec x[4];
    auto candidates = V::greater(V::zero(), V::zero());
    for (int i = 0; i < 4; ++i) {
      x[i] = V::multiply(V::subtract(V::load(group + 16 * i), maximum), scale);
      const auto power = exp_lanes<V>(x[i]);
      if constexpr (WithSum) sums.sum[i] = V::add(sums.sum[i], power);
      candidates = V::either(candidates, V::greater(V::multiply(power, bound), uniform_lanes<V>(words[i])));
    }
    if (V::bits_of(candidates) == 0) return;
    alignas(64) float values[kLogitGroup];
    for (int i = 0; i < 4; ++i) V::store(values + 16 * i, V::add(x[i], gumbel_lanes<V>(words[i])));
    const float before = best;
    for (int64_t i = 0; i < kLogitGroup; ++i) {
      if (values[i] > best) {
        best = values[i];
        best_index = index * kLogitGroup + i;
      }
    }
    if (best > before) {
      // best may be under the floor of -2.82 for a while; the bound never needs to be above the floor's
      const auto floored = V::maximum(V::broadcast(best), V::broadcast(-2.82F));
      bound = V::multiply(exp_lanes<V>(V::subtract(V::zero(), floored)), V::broadcast(kMargin));
    }
  });
  if constexpr (WithSum) *exp_sum = sums.fold();
  return best_index;
}

template <class V>
int64_t noisy_argmax_any(const ScaledRow& row, const NoiseKey& key, double* exp_sum) {
  return exp_sum == nullptr ? noisy_argmax_of_row<V, false>(row, key, exp_sum)
                            : noisy_argmax_of_row<V, true>(row, key, exp_sum);
}

template <class V>
void gumbel_of_words(const uint32_t* words, int64_t count, float* output) {
  for (int64_t i = 0; i < count; i += 16) {
    alignas(64) uint32_t chunk[16] = {};
    const int64_t here = count - i < 16 ? count - i : 16;
    for (int64_t k = 0; k < here; ++k) chunk[k] = words[i + k];
    V::store_partial(output + i, gumbel_lanes<V>(V::load_words(chunk)), here);
  }
}

template <class V>
constexpr LogitKernels logit_kernel_table() {
  return {
      .maximum = maximum_of_row<V>,
      .group_maxima = group_maxima_of_row<V>,
      .find = find_in_row<V>,
      .count_ahead = count_ahead_in_row<V>,
      .exp_sum = exp_sum_of_row<V>,
      .noisy_argmax = noisy_argmax_any<V>,
      .exp = exp_row<V>,
      .gumbel = gumbel_of_words<V>,
  };
}

}  // namespace
}  // namespace kadenz
