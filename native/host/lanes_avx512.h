// lanes_scalar.h's operations with AVX-512.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu/vector_avx512.h"
#include "host/philox.h"

namespace kadenz {
namespace {

struct Avx512Lanes : Avx512Vector {
  using Mask = __mmask16;
  using Bits = __m512i;

  static Mask greater(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
  static Mask equal(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
  static Mask not_a_number(Vec a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
  static Mask either(Mask a, Mask b) { return static_cast<Mask>(a | b); }
  static uint32_t bits_of(Mask mask) { return mask; }

  static Vec split(Vec x, Vec* exponent) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i power = _mm512_srai_epi32(_mm512_sub_epi32(bits, _mm512_set1_epi32(0x3f3504f3)), 23);
    *exponent = _mm512_cvtepi32_ps(power);
    return _mm512_castsi512_ps(_mm512_sub_epi32(bits, _mm512_slli_epi32(power, 23)));
  }

  static Bits load_words(const uint32_t* p) { return _mm512_loadu_si512(p); }
  static Vec to_float(Bits words) { return _mm512_cvtepu32_ps(words); }

  struct Noise {
    __m512i after1_word2, after2_word0, after2_word2, after2_word3;
    __m512i key0[kPhiloxRounds], key1[kPhiloxRounds];
  };

  static Noise prepare_noise(const NoiseKey& key) {
    const NoiseRounds rounds = prepare_rounds(key);
    Noise noise;
    noise.after1_word2 = _mm512_set1_epi64(rounds.after1_word2);
    noise.after2_word0 = _mm512_set1_epi64(rounds.after2_word0);
    noise.after2_word2 = _mm512_set1_epi64(rounds.after2_word2);
    noise.after2_word3 = _mm512_set1_epi64(rounds.after2_word3);
    for (int i = 0; i < kPhiloxRounds; ++i) {
      noise.key0[i] = _mm512_set1_epi64(rounds.key0[i]);
      noise.key1[i] = _mm512_set1_epi64(rounds.key1[i]);
    }
    return noise;
  }

  // Eight counters, one in each 64-bit lane, of which the low half counts: mul_epu32 then gives a whole
  // product, and its high half moves down with one shift. Gives the words of the even and the odd counters,
  // each four words in a row.
  static void philox_eight(const Noise& noise, __m512i counter, __m512i* even, __m512i* odd) {
    constexpr int kExclusiveOr3 = 0x96;
    const __m512i multiplier0 = _mm512_set1_epi64(kPhiloxMultiplier0);
    const __m512i multiplier1 = _mm512_set1_epi64(kPhiloxMultiplier1);
    const __m512i counter_product = _mm512_mul_epu32(counter, multiplier0);
    const __m512i after1_word2 = _mm512_xor_si512(_mm512_srli_epi64(counter_product, 32), noise.after1_word2);
    __m512i word1 = _mm512_mul_epu32(after1_word2, multiplier1);
    __m512i word0 = _mm512_xor_si512(_mm512_srli_epi64(word1, 32), noise.after2_word0);
    __m512i word2 = _mm512_xor_si512(counter_product, noise.after2_word2);
    __m512i word3 = noise.after2_word3;
    for (int round = 2; round < kPhiloxRounds; ++round) {
      const __m512i product0 = _mm512_mul_epu32(word0, multiplier0);
      const __m512i product1 = _mm512_mul_epu32(word2, multiplier1);
      word0 =
          _mm512_ternarylogic_epi64(_mm512_srli_epi64(product1, 32), word1, noise.key0[round], kExclusiveOr3);
      word2 =
          _mm512_ternarylogic_epi64(_mm512_srli_epi64(product0, 32), word3, noise.key1[round], kExclusiveOr3);
      word1 = product1;
      word3 = product0;
    }
    constexpr __mmask16 kHighHalves = 0xaaaa;
    const __m512i pair01 = _mm512_mask_blend_epi32(kHighHalves, word0, _mm512_slli_epi64(word1, 32));
    const __m512i pair23 = _mm512_mask_blend_epi32(kHighHalves, word2, _mm512_slli_epi64(word3, 32));
    *even = _mm512_unpacklo_epi64(pair01, pair23);
    *odd = _mm512_unpackhi_epi64(pair01, pair23);
  }

  static void noise_words(const Noise& noise, uint32_t group, Bits words[4]) {
    const __m512i first =
        _mm512_add_epi64(_mm512_set1_epi64(group * 16), _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7));
    philox_eight(noise, first, &words[0], &words[1]);
    philox_eight(noise, _mm512_add_epi64(first, _mm512_set1_epi64(8)), &words[2], &words[3]);
  }
};

}  // namespace
}  // namespace kadenz
