// Sizes in 64 bits that can't wrap: every product and sum of numbers from a file, a config or an instruction
// goes through here before it becomes an address.
#pragma once

#include <cstdint>
#include <string>

#include "model/error.h"

namespace kadenz {

inline uint64_t checked_multiply(uint64_t a, uint64_t b, const char* what) {
  uint64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) {
    throw HostError("size_overflow", std::string(what) + ": " + std::to_string(a) + " x " +
                                         std::to_string(b) + " does not fit 64 bits.");
  }
  return product;
}

inline uint64_t checked_add(uint64_t a, uint64_t b, const char* what) {
  uint64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) {
    throw HostError("size_overflow", std::string(what) + ": " + std::to_string(a) + " + " +
                                         std::to_string(b) + " does not fit 64 bits.");
  }
  return sum;
}

}  // namespace kadenz
