// What the tests of the row kernels share: device arrays that are poisoned and guarded, Half on the host, and
// comparisons that say which element differs.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "cuda/check.h"
#include "cuda/half.h"
#include "test/check.h"

namespace kadenz::cuda::rows_test {

using ::kadenz::test::fail;

inline constexpr Half kHalves[] = {Half::kBFloat16, Half::kFloat16};

// `count` elements in device memory between two guard zones, filled with 0xFF bytes (NaN as float32 or Half)
// until written. `shift` moves the first element that many elements away from its 256-byte alignment.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count, size_t shift = 0) : count_(count), before_(kGuard + shift * sizeof(T)) {
    check(cudaMalloc(reinterpret_cast<void**>(&base_), bytes()), "cudaMalloc");
    check(cudaMemset(base_, kGuardByte, bytes()), "cudaMemset");
    check(cudaMemset(data(), 0xff, count_ * sizeof(T)), "cudaMemset");
  }
  explicit DeviceArray(const std::vector<T>& values, size_t shift = 0) : DeviceArray(values.size(), shift) {
    write(values);
  }
  ~DeviceArray() { cudaFree(base_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return reinterpret_cast<T*>(base_ + before_); }

  void write(const std::vector<T>& values) {
    check(cudaMemcpy(data(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
  }

  // Waits for the device, and fails the test where a guard zone was written.
  std::vector<T> read(const std::string& what) const {
    check(cudaDeviceSynchronize(), what.c_str());
    std::vector<uint8_t> all(bytes());
    check(cudaMemcpy(all.data(), base_, bytes(), cudaMemcpyDeviceToHost), "cudaMemcpy");
    for (size_t i = 0; i < all.size(); ++i) {
      const bool guard = i < before_ || i >= before_ + count_ * sizeof(T);
      if (guard && all[i] != kGuardByte) {
        fail(__FILE__, __LINE__,
             what + ": wrote outside, at byte " +
                 std::to_string(static_cast<int64_t>(i) - static_cast<int64_t>(before_)));
      }
    }
    std::vector<T> values(count_);
    std::memcpy(values.data(), all.data() + before_, count_ * sizeof(T));
    return values;
  }

 private:
  static constexpr size_t kGuard = 256;
  static constexpr int kGuardByte = 0xa5;
  size_t bytes() const { return before_ + count_ * sizeof(T) + kGuard; }

  char* base_ = nullptr;
  size_t count_;
  size_t before_;
};

inline const char* name_of(Half dtype) { return dtype == Half::kBFloat16 ? "bfloat16" : "float16"; }

inline uint16_t round_half(Half dtype, float value) {
  uint16_t bits = 0;
  if (dtype == Half::kBFloat16) {
    const __nv_bfloat16 rounded = __float2bfloat16_rn(value);
    std::memcpy(&bits, &rounded, 2);
  } else {
    const __half rounded = __float2half_rn(value);
    std::memcpy(&bits, &rounded, 2);
  }
  return bits;
}

inline float widen_half(Half dtype, uint16_t bits) {
  if (dtype == Half::kBFloat16) {
    __nv_bfloat16 value;
    std::memcpy(&value, &bits, 2);
    return __bfloat162float(value);
  }
  __half value;
  std::memcpy(&value, &bits, 2);
  return __half2float(value);
}

inline std::vector<uint16_t> round_half(Half dtype, const std::vector<float>& values) {
  std::vector<uint16_t> bits(values.size());
  for (size_t i = 0; i < values.size(); ++i) bits[i] = round_half(dtype, values[i]);
  return bits;
}

// Within one rounding to Half of the exact value, and `slack` for float32 arithmetic. NaN fails.
inline bool is_rounded(Half dtype, uint16_t got, double exact, double slack) {
  const double rounding =
      dtype == Half::kBFloat16 ? std::fabs(exact) * 0x1.02p-8 : std::fabs(exact) * 0x1.02p-11 + 0x1p-25;
  return std::fabs(static_cast<double>(widen_half(dtype, got)) - exact) <= rounding + slack;
}

inline std::string difference(const std::string& what, size_t index, double got, double expected) {
  return what + ": index " + std::to_string(index) + ", got " + std::to_string(got) + ", expected " +
         std::to_string(expected);
}

template <typename T>
void expect_same_bits(const std::vector<T>& got, const std::vector<T>& expected, const std::string& what) {
  if (got.size() != expected.size()) {
    fail(__FILE__, __LINE__,
         what + ": " + std::to_string(got.size()) + " elements, expected " + std::to_string(expected.size()));
  }
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::memcmp(&got[i], &expected[i], sizeof(T)) == 0) continue;
    uint64_t got_bits = 0;
    uint64_t expected_bits = 0;
    std::memcpy(&got_bits, &got[i], sizeof(T));
    std::memcpy(&expected_bits, &expected[i], sizeof(T));
    char text[64];
    std::snprintf(text, sizeof text, "got bits %llx, expected %llx",
                  static_cast<unsigned long long>(got_bits), static_cast<unsigned long long>(expected_bits));
    fail(__FILE__, __LINE__, what + ": index " + std::to_string(i) + ", " + text);
  }
}

template <typename T>
std::vector<T> row_of(const std::vector<T>& values, size_t row, uint32_t columns) {
  const auto first = values.begin() + static_cast<int64_t>(row * columns);
  return {first, first + columns};
}

}  // namespace kadenz::cuda::rows_test
