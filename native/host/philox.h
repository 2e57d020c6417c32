// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", 2011): a counter
// and a key in, four random words out, no state. A token's noise is therefore a pure function of who asks for
// it:
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

namespace {  // in each translation unit on its own: one compiled for a wider instruction set must not serve
             // the others

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
    counter = {
        {static_cast<uint32_t>(product1 >> 32) ^ counter.word[1] ^ key0, static_cast<uint32_t>(product1),
         static_cast<uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1, static_cast<uint32_t>(product0)}};
    key0 += kPhiloxKeyStep0;
    key1 += kPhiloxKeyStep1;
  }
  return counter;
}

// What the rounds of one key have in common for all counters (c, position, sample, 0): of the first two
// rounds only what depends on c is left to do, the rest are plain.
//   round 1: (uniform, uniform, high(M0 c) ^ after1_word2, low(M0 c))
//   round 2: (high(M1 word2) ^ after2_word0, low(M1 word2), word3 ^ after2_word2, after2_word3)
struct NoiseRounds {
  uint32_t after1_word2;
  uint32_t after2_word0, after2_word2, after2_word3;
  uint32_t key0[kPhiloxRounds], key1[kPhiloxRounds];
};

inline NoiseRounds prepare_rounds(const NoiseKey& key) {
  NoiseRounds rounds;
  for (uint32_t i = 0; i < kPhiloxRounds; ++i) {
    rounds.key0[i] = static_cast<uint32_t>(key.seed) + i * kPhiloxKeyStep0;
    rounds.key1[i] = static_cast<uint32_t>(key.seed >> 32) + i * kPhiloxKeyStep1;
  }
  const uint64_t sample_product = uint64_t{kPhiloxMultiplier1} * key.sample;
  const uint32_t word0 = static_cast<uint32_t>(sample_product >> 32) ^ key.position ^ rounds.key0[0];
  const uint64_t word0_product = uint64_t{kPhiloxMultiplier0} * word0;
  rounds.after1_word2 = rounds.key1[0];
  rounds.after2_word0 = static_cast<uint32_t>(sample_product) ^ rounds.key0[1];
  rounds.after2_word2 = static_cast<uint32_t>(word0_product >> 32) ^ rounds.key1[1];
  rounds.after2_word3 = static_cast<uint32_t>(word0_product);
  return rounds;
}

inline uint32_t noise_word(const NoiseKey& key, uint32_t vocabulary_index) {
  const PhiloxBlock block = philox({{vocabulary_index / 4, key.position, key.sample, 0}},
                                   static_cast<uint32_t>(key.seed), static_cast<uint32_t>(key.seed >> 32));
  return block.word[vocabulary_index % 4];
}

}  // namespace
}  // namespace kadenz
