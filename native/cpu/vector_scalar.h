// 16 floats, one after the other: the vector of machines without AVX2 and FMA, and the plainest statement of
// what the others must do. __builtin_fmaf is one rounding everywhere (the C library computes it where the
// machine can't).
#pragma once

#include <cstdint>

#include "cpu/float_bits.h"

namespace kadenz {
namespace {

struct ScalarVector {
  struct Vec {
    float lane[16];
  };
  static constexpr int kTileRows = 4;
  static constexpr int kTilePanels = 1;
  static constexpr bool kWidensCheaply =
      false;  // beside the arithmetic that a loaded weight vector serves in a tile
  static constexpr int kScorePanels = 1;

  template <class F>
  static Vec each(F lane_value) {
    Vec result;
    for (int i = 0; i < 16; ++i) result.lane[i] = lane_value(i);
    return result;
  }

  static Vec zero() { return broadcast(0.0F); }
  static Vec broadcast(float x) {
    return each([&](int) { return x; });
  }
  static Vec load(const float* p) {
    return each([&](int i) { return p[i]; });
  }
  static Vec load_half(const uint16_t* p) {
    return each([&](int i) { return widen_float16(p[i]); });
  }
  static Vec load_bfloat16(const uint16_t* p) {
    return each([&](int i) { return widen_bfloat16(p[i]); });
  }
  static Vec load_split(const float* low, const float* high) {
    return each([&](int i) { return i < 8 ? low[i] : high[i - 8]; });
  }
  static Vec load_split_bfloat16(const uint16_t* low, const uint16_t* high) {
    return each([&](int i) { return widen_bfloat16(i < 8 ? low[i] : high[i - 8]); });
  }
  // Keeps a vector that was loaded in its register (see the wider ones); nothing to keep here.
  static Vec held(Vec v) { return v; }
  static Vec load_partial(const float* p, int64_t count) {
    return each([&](int i) { return i < count ? p[i] : 0.0F; });
  }
  static void store(float* p, Vec v) {
    for (int i = 0; i < 16; ++i) p[i] = v.lane[i];
  }
  static void store_partial(float* p, Vec v, int64_t count) {
    for (int i = 0; i < 16 && i < count; ++i) p[i] = v.lane[i];
  }
  static Vec fma(Vec a, Vec b, Vec c) {
    return each([&](int i) { return __builtin_fmaf(a.lane[i], b.lane[i], c.lane[i]); });
  }
  static Vec add(Vec a, Vec b) {
    return each([&](int i) { return a.lane[i] + b.lane[i]; });
  }
  static Vec subtract(Vec a, Vec b) {
    return each([&](int i) { return a.lane[i] - b.lane[i]; });
  }
  static Vec multiply(Vec a, Vec b) {
    return each([&](int i) { return a.lane[i] * b.lane[i]; });
  }
  static Vec divide(Vec a, Vec b) {
    return each([&](int i) { return a.lane[i] / b.lane[i]; });
  }
  // The second operand where one is NaN, as the machine's own minimum and maximum
  static Vec minimum(Vec a, Vec b) {
    return each([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static Vec maximum(Vec a, Vec b) {
    return each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  // value where !(x < limit), else 0
  static Vec zero_where_less(Vec value, Vec x, Vec limit) {
    return each([&](int i) { return x.lane[i] < limit.lane[i] ? 0.0F : value.lane[i]; });
  }
  // 2^n where the low bits of x hold the integer n, -126 .. 127
  static Vec power_of_two(Vec x) {
    return each([&](int i) { return float_from_bits((bits_from_float(x.lane[i]) << 23) + 0x3f800000U); });
  }
};

}  // namespace
}  // namespace kadenz
