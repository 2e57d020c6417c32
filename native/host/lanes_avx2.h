// lanes_scalar.h's operations with AVX2 and FMA: two registers for 16 lanes.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu/vector_avx2.h"
#include "host/philox.h"

namespace kadenz {
namespace {

struct Avx2Lanes : Avx2Vector {
  using Mask = Vec;
  struct Bits {
    __m256i low, high;
  };

  static Mask greater(Vec a, Vec b) {
    return {_mm256_cmp_ps(a.low, b.low, _CMP_GT_OQ), _mm256_cmp_ps(a.high, b.high, _CMP_GT_OQ)};
  }
  static Mask equal(Vec a, Vec b) {
    return {_mm256_cmp_ps(a.low, b.low, _CMP_EQ_OQ), _mm256_cmp_ps(a.high, b.high, _CMP_EQ_OQ)};
  }
  static Mask not_a_number(Vec a) {
    return {_mm256_cmp_ps(a.low, a.low, _CMP_UNORD_Q), _mm256_cmp_ps(a.high, a.high, _CMP_UNORD_Q)};
  }
  static Mask either(Mask a, Mask b) { return {_mm256_or_ps(a.low, b.low), _mm256_or_ps(a.high, b.high)}; }
  static uint32_t bits_of(Mask mask) {
    return static_cast<uint32_t>(_mm256_movemask_ps(mask.low)) |
           static_cast<uint32_t>(_mm256_movemask_ps(mask.high)) << 8;
  }

  static __m256 split(__m256 x, __m256* exponent) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i power = _mm256_srai_epi32(_mm256_sub_epi32(bits, _mm256_set1_epi32(0x3f3504f3)), 23);
    *exponent = _mm256_cvtepi32_ps(power);
    return _mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_slli_epi32(power, 23)));
  }
  static Vec split(Vec x, Vec* exponent) {
    return {split(x.low, &exponent->low), split(x.high, &exponent->high)};
  }

  static Bits load_words(const uint32_t* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8))};
  }
  // Both halves of a word are exact as floats, and one fused operation rounds their sum once.
  static __m256 to_float(__m256i words) {
    const __m256 high = _mm256_cvtepi32_ps(_mm256_srli_epi32(words, 16));
    const __m256 low = _mm256_cvtepi32_ps(_mm256_and_si256(words, _mm256_set1_epi32(0xffff)));
    return _mm256_fmadd_ps(high, _mm256_set1_ps(65536.0F), low);
  }
  static Vec to_float(Bits words) { return {to_float(words.low), to_float(words.high)}; }

  struct Noise {
    __m256i after1_word2, after2_word0, after2_word2, after2_word3;
    __m256i key0[kPhiloxRounds], key1[kPhiloxRounds];
  };

  static Noise prepare_noise(const NoiseKey& key) {
    const NoiseRounds rounds = prepare_rounds(key);
    Noise noise;
    noise.after1_word2 = _mm256_set1_epi64x(rounds.after1_word2);
    noise.after2_word0 = _mm256_set1_epi64x(rounds.after2_word0);
    noise.after2_word2 = _mm256_set1_epi64x(rounds.after2_word2);
    noise.after2_word3 = _mm256_set1_epi64x(rounds.after2_word3);
    for (int i = 0; i < kPhiloxRounds; ++i) {
      noise.key0[i] = _mm256_set1_epi64x(rounds.key0[i]);
      noise.key1[i] = _mm256_set1_epi64x(rounds.key1[i]);
    }
    return noise;
  }

  // Four counters, one in each 64-bit lane, of which the low half counts. Gives the words of counters (first,
  // third) and (second, fourth), each four words in a row.
  static void philox_four(const Noise& noise, __m256i counter, __m256i* even, __m256i* odd) {
    const __m256i multiplier0 = _mm256_set1_epi64x(kPhiloxMultiplier0);
    const __m256i multiplier1 = _mm256_set1_epi64x(kPhiloxMultiplier1);
    const __m256i counter_product = _mm256_mul_epu32(counter, multiplier0);
    const __m256i after1_word2 = _mm256_xor_si256(_mm256_srli_epi64(counter_product, 32), noise.after1_word2);
    __m256i word1 = _mm256_mul_epu32(after1_word2, multiplier1);
    __m256i word0 = _mm256_xor_si256(_mm256_srli_epi64(word1, 32), noise.after2_word0);
    __m256i word2 = _mm256_xor_si256(counter_product, noise.after2_word2);
    __m256i word3 = noise.after2_word3;
    for (int round = 2; round < kPhiloxRounds; ++round) {
      const __m256i product0 = _mm256_mul_epu32(word0, multiplier0);
      const __m256i product1 = _mm256_mul_epu32(word2, multiplier1);
      word0 = _mm256_xor_si256(_mm256_srli_epi64(product1, 32), _mm256_xor_si256(word1, noise.key0[round]));
      word2 = _mm256_xor_si256(_mm256_srli_epi64(product0, 32), _mm256_xor_si256(word3, noise.key1[round]));
      word1 = product1;
      word3 = product0;
    }
    const __m256i pair01 = _mm256_blend_epi32(word0, _mm256_slli_epi64(word1, 32), 0xaa);
    const __m256i pair23 = _mm256_blend_epi32(word2, _mm256_slli_epi64(word3, 32), 0xaa);
    *even = _mm256_unpacklo_epi64(pair01, pair23);
    *odd = _mm256_unpackhi_epi64(pair01, pair23);
  }

  static void noise_words(const Noise& noise, uint32_t group, Bits words[4]) {
    const __m256i first = _mm256_set1_epi64x(group * 16);
    const auto counters = [&](int a, int b, int c, int d) {
      return _mm256_add_epi64(first, _mm256_setr_epi64x(a, b, c, d));
    };
    philox_four(noise, counters(0, 4, 1, 5), &words[0].low, &words[1].low);
    philox_four(noise, counters(2, 6, 3, 7), &words[0].high, &words[1].high);
    philox_four(noise, counters(8, 12, 9, 13), &words[2].low, &words[3].low);
    philox_four(noise, counters(10, 14, 11, 15), &words[2].high, &words[3].high);
  }
};

}  // namespace
}  // namespace kadenz
