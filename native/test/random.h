// Numbers for tests: the same on every machine for one seed. KADENZ_NATIVE_SEED sets it.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <vector>

namespace kadenz::test {

inline uint64_t base_seed() {
  const char* text = std::getenv("KADENZ_NATIVE_SEED");
  return text == nullptr ? 20 : std::strtoull(text, nullptr, 10);
}

class Random {
 public:
  explicit Random(uint64_t stream) : state_(base_seed() * 0x9e3779b97f4a7c15ULL + stream) {}

  uint64_t bits() {
    state_ += 0x9e3779b97f4a7c15ULL;
    uint64_t mixed = state_;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9ULL;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebULL;
    return mixed ^ (mixed >> 31);
  }
  int64_t integer(int64_t low, int64_t high) {  // both ends included
    return low + static_cast<int64_t>(bits() % static_cast<uint64_t>(high - low + 1));
  }
  float uniform() {
    return static_cast<float>(static_cast<double>(bits() >> 40) / 8388608.0 - 1.0);
  }  // -1 .. 1
  std::vector<float> floats(uint64_t count, float scale = 1.0F) {
    std::vector<float> values(count);
    for (float& value : values) value = uniform() * scale;
    return values;
  }
  template <class T>
  T one_of(std::initializer_list<T> choices) {
    return choices.begin()[bits() % choices.size()];
  }

 private:
  uint64_t state_;
};

}  // namespace kadenz::test
