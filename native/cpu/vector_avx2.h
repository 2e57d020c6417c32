// 16 floats in two 256-bit registers: AVX2, FMA and F16C.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu/float_bits.h"

namespace kadenz {
namespace {

struct Avx2Vector {
  struct Vec {
    __m256 low, high;
  };
  static constexpr int kTileRows = 6;  // 12 sums, 2 weights, 1 broadcast of 16 registers
  static constexpr int kTilePanels = 1;
  static constexpr bool kWidensCheaply =
      false;  // beside the arithmetic that a loaded weight vector serves in a tile
  static constexpr int kScorePanels = 1;

  static __m256 widen(__m128i bits) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static __m128i bits_at(const uint16_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }

  static Vec zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static Vec broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static Vec load_half(const uint16_t* p) {
    return {_mm256_cvtph_ps(bits_at(p)), _mm256_cvtph_ps(bits_at(p + 8))};
  }
  static Vec load_bfloat16(const uint16_t* p) { return {widen(bits_at(p)), widen(bits_at(p + 8))}; }
  static Vec load_split(const float* low, const float* high) {
    return {_mm256_loadu_ps(low), _mm256_loadu_ps(high)};
  }
  static Vec load_split_bfloat16(const uint16_t* low, const uint16_t* high) {
    return {widen(bits_at(low)), widen(bits_at(high))};
  }
  // A loaded vector that serves several multiplications, kept in its registers: left alone, the compiler
  // would load it again for each.
  static Vec held(Vec v) {
    asm("" : "+x"(v.low), "+x"(v.high));
    return v;
  }
  static Vec load_partial(const float* p, int64_t count) {
    alignas(32) float lanes[16] = {};
    for (int64_t i = 0; i < 16 && i < count; ++i) lanes[i] = p[i];
    return load(lanes);
  }
  static void store(float* p, Vec v) {
    _mm256_storeu_ps(p, v.low);
    _mm256_storeu_ps(p + 8, v.high);
  }
  static void store_partial(float* p, Vec v, int64_t count) {
    alignas(32) float lanes[16];
    store(lanes, v);
    for (int64_t i = 0; i < 16 && i < count; ++i) p[i] = lanes[i];
  }
  static Vec fma(Vec a, Vec b, Vec c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
  static Vec subtract(Vec a, Vec b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
  static Vec multiply(Vec a, Vec b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
  static Vec divide(Vec a, Vec b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
  static Vec minimum(Vec a, Vec b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
  static Vec maximum(Vec a, Vec b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
  static Vec zero_where_less(Vec value, Vec x, Vec limit) {
    return {_mm256_andnot_ps(_mm256_cmp_ps(x.low, limit.low, _CMP_LT_OQ), value.low),
            _mm256_andnot_ps(_mm256_cmp_ps(x.high, limit.high, _CMP_LT_OQ), value.high)};
  }
  static __m256 power(__m256 x) {
    const __m256i shifted = _mm256_slli_epi32(_mm256_castps_si256(x), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(shifted, _mm256_set1_epi32(0x3f800000)));
  }
  static Vec power_of_two(Vec x) { return {power(x.low), power(x.high)}; }
};

}  // namespace
}  // namespace kadenz
