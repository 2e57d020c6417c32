// What the CPU's operations share: how rows are handed out to threads, and how a broken invariant ends.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace kadenz {

constexpr uint32_t kRowsPerTask = 8;  // of the operations that go row by row

inline uint32_t ceil_divide(uint32_t a, uint32_t b) { return (a + b - 1) / b; }

inline void expect(bool condition, const char* what) {  // stops before memory is harmed
  if (condition) return;
  std::fprintf(stderr, "kadenz cpu: broken invariant: %s\n", what);
  std::abort();
}

}  // namespace kadenz
