// 16 floats in one 512-bit register.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu/float_bits.h"

namespace kadenz {
namespace {

struct Avx512Vector {
  using Vec = __m512;
  static constexpr int kTileRows = 8;  // 24 sums, 3 weights, 1 broadcast of 32 registers
  static constexpr int kTilePanels = 3;
  static constexpr bool kWidensCheaply =
      true;  // beside the arithmetic that a loaded weight vector serves in a tile
  static constexpr int kScorePanels = 4;

  static __m256i bits_at(const uint16_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static __m512 widen(__m256i bits) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static __mmask16 first(int64_t count) {
    return static_cast<__mmask16>(count >= 16 ? 0xffff : (1U << count) - 1);
  }

  static Vec zero() { return _mm512_setzero_ps(); }
  static Vec broadcast(float x) { return _mm512_set1_ps(x); }
  static Vec load(const float* p) { return _mm512_loadu_ps(p); }
  static Vec load_half(const uint16_t* p) { return _mm512_cvtph_ps(bits_at(p)); }
  static Vec load_bfloat16(const uint16_t* p) { return widen(bits_at(p)); }
  static Vec load_split(const float* low, const float* high) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(low)), _mm256_loadu_ps(high), 1);
  }
  static Vec load_split_bfloat16(const uint16_t* low, const uint16_t* high) {
    return widen(
        _mm256_loadu2_m128i(reinterpret_cast<const __m128i*>(high), reinterpret_cast<const __m128i*>(low)));
  }
  // A loaded vector that serves several multiplications, kept in its register: left alone, the compiler would
  // load it again for each.
  static Vec held(Vec v) {
    asm("" : "+v"(v));
    return v;
  }
  static Vec load_partial(const float* p, int64_t count) { return _mm512_maskz_loadu_ps(first(count), p); }
  static void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
  static void store_partial(float* p, Vec v, int64_t count) { _mm512_mask_storeu_ps(p, first(count), v); }
  static Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
  static Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
  static Vec subtract(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
  static Vec multiply(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
  static Vec divide(Vec a, Vec b) { return _mm512_div_ps(a, b); }
  static Vec minimum(Vec a, Vec b) { return _mm512_min_ps(a, b); }
  static Vec maximum(Vec a, Vec b) { return _mm512_max_ps(a, b); }
  static Vec zero_where_less(Vec value, Vec x, Vec limit) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), value);
  }
  static Vec power_of_two(Vec x) {
    const __m512i shifted = _mm512_slli_epi32(_mm512_castps_si512(x), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(shifted, _mm512_set1_epi32(0x3f800000)));
  }
};

}  // namespace
}  // namespace kadenz
