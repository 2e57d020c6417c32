// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", 2011): a counter and a key in,
// four random words out, no state. A token's noise is therefore a pure function of who asks for it:
//
//   key     = the request's seed, low word first
//   counter = (vocabulary index / 4, position of the new token, index of the sample in its request, stream)
//   word    = vocabulary index % 4
//
// Stream 0 is sampling. This is the plain form; lanes_*.h hold the same function for 16 counters at a time.
#pragma once

#include <cstdint>

namespace kadenz {

struct NoiseKey {
  uint64_t seed;
  uint32_t position;
  uint32_t sample;
};

namespace {  // in each translation unit on its own: one compiled for a wider instruction set must not serve the others

constexpr uint32_t kPhiloxMultiplier0 = 0xd2511f53;
constexpr uint32_t kPhiloxMultiplier1 = 0xcd9e8d57;
constexpr uint32_t kPhiloxKeyStep0 = 0x9e3779b9;
constexpr uint32_t kPhiloxKeyStep1 = 0xbb67ae85;
constexpr int kPhiloxRounds = 10;

struct PhiloxBlock {
  uint32_t word[4];
};

inline PhiloxBlock philox(PhiloxBlock counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t product0 = uint64_t{kPhiloxMultiplier0} * counter.word[0];
    const uint64_t product1 = uint64_t{kPhiloxMultiplier1} * counter.word[2];
    counter = {{static_cast<uint32_t>(product1 >> 32) ^ counter.word[1] ^ key0, static_cast<uint32_t>(product1),
                static_cast<uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1, static_cast<uint32_t>(product0)}};
    key0 += kPhiloxKeyStep0;
    key1 += kPhiloxKeyStep1;
  }
  return counter;
}

inline uint32_t noise_word(const NoiseKey& key, uint32_t vocabulary_index) {
  const PhiloxBlock block = philox({{vocabulary_index / 4, key.position, key.sample, 0}}, static_cast<uint32_t>(key.seed),
                                   static_cast<uint32_t>(key.seed >> 32));
  return block.word[vocabulary_index % 4];
}

}  // namespace
}  // namespace kadenz
