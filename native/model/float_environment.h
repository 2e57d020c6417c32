// Rounding to nearest, subnormals kept: what our bits assume, whatever the calling thread was set to.
// Restored on leaving.
#pragma once

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace kadenz {

class FloatEnvironment {
 public:
#if defined(__x86_64__)
  FloatEnvironment() : saved_(_mm_getcsr()) {
    _mm_setcsr(0x1f80);
  }  // exceptions masked, nearest, no flush to zero
  ~FloatEnvironment() { _mm_setcsr(saved_); }
#else
  FloatEnvironment() = default;
  ~FloatEnvironment() {}
#endif
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;

 private:
  unsigned saved_ = 0;
};

}  // namespace kadenz
