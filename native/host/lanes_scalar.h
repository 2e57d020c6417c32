// What sampling needs beside the decoder's vector of 16 floats: comparisons, the exponent of a float, and the
// noise words of 64 neighbouring vocabulary indices. Lane after lane; lanes_avx2.h and lanes_avx512.h do the
// same.
#pragma once

#include <cstdint>

#include "cpu/vector_scalar.h"
#include "host/philox.h"

namespace kadenz {
namespace {

struct ScalarLanes : ScalarVector {
  using Mask = uint32_t;  // one bit a lane
  struct Bits {
    uint32_t lane[16];
  };

  template <class F>
  static Mask where(F holds) {
    Mask mask = 0;
    for (int i = 0; i < 16; ++i) mask |= holds(i) ? 1U << i : 0U;
    return mask;
  }

  static Mask greater(Vec a, Vec b) {
    return where([&](int i) { return a.lane[i] > b.lane[i]; });
  }
  static Mask equal(Vec a, Vec b) {
    return where([&](int i) { return a.lane[i] == b.lane[i]; });
  }
  static Mask not_a_number(Vec a) {
    return where([&](int i) { return a.lane[i] != a.lane[i]; });
  }
  static Mask either(Mask a, Mask b) { return a | b; }
  static uint32_t bits_of(Mask mask) { return mask; }

  // x = result * 2^exponent with the result in [sqrt(1/2), sqrt(2)); x positive and normal
  static Vec split(Vec x, Vec* exponent) {
    Vec mantissa;
    for (int i = 0; i < 16; ++i) {
      const uint32_t bits = bits_from_float(x.lane[i]);
      const int32_t power = static_cast<int32_t>(bits - 0x3f3504f3U) >> 23;
      exponent->lane[i] = static_cast<float>(power);
      mantissa.lane[i] = float_from_bits(bits - (static_cast<uint32_t>(power) << 23));
    }
    return mantissa;
  }

  static Bits load_words(const uint32_t* p) {
    Bits words;
    for (int i = 0; i < 16; ++i) words.lane[i] = p[i];
    return words;
  }
  // Unsigned, rounded to nearest even
  static Vec to_float(Bits words) {
    return each([&](int i) { return static_cast<float>(words.lane[i]); });
  }

  // A key made ready for many groups
  using Noise = NoiseKey;
  static Noise prepare_noise(const NoiseKey& key) { return key; }
  // The words of vocabulary indices 64 * group .. 64 * group + 63, in order
  static void noise_words(const Noise& key, uint32_t group, Bits words[4]) {
    for (uint32_t counter = 0; counter < 16; ++counter) {
      const PhiloxBlock block =
          philox({{group * 16 + counter, key.position, key.sample, 0}}, static_cast<uint32_t>(key.seed),
                 static_cast<uint32_t>(key.seed >> 32));
      for (uint32_t j = 0; j < 4; ++j) words[counter / 4].lane[counter % 4 * 4 + j] = block.word[j];
    }
  }
};

}  // namespace
}  // namespace kadenz
