// What the tests of the matmuls share: operands and poisoned, guarded outputs on the device, runs of a
// Matmul, the naive twin in double, and the comparison of rows bit for bit.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "cuda/check.h"
#include "cuda/half.h"
#include "cuda/matmul.h"
#include "cuda/scratch_memory.h"
#include "random.h"

namespace kadenz::cuda::matmul_test {

using ::kadenz::test::base_seed;
using ::kadenz::test::fail;
using ::kadenz::test::Random;

inline constexpr uint64_t kGuardBytes = 4096;

inline uint16_t half_bits(Half dtype, float value) {
  if (dtype == Half::kBFloat16) return __bfloat16_as_ushort(__float2bfloat16_rn(value));
  return __half_as_ushort(__float2half_rn(value));
}

inline float widened(Half dtype, uint16_t bits) {
  return dtype == Half::kBFloat16 ? __bfloat162float(__ushort_as_bfloat16(bits))
                                  : __half2float(__ushort_as_half(bits));
}

struct Operand {
  Half dtype;
  std::vector<uint16_t> bits;
  ScratchMemory device;

  Operand(Half dtype_, Random& random, uint64_t count) : dtype(dtype_), bits(count), device(count * 2) {
    for (uint16_t& value : bits) value = half_bits(dtype, random.uniform());
    check(cudaMemcpy(device.get(), bits.data(), count * 2, cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  float at(uint64_t index) const { return widened(dtype, bits[index]); }
};

struct Shape {
  Half dtype;
  uint32_t rows, outputs, inputs;

  std::string words() const {
    return std::to_string(rows) + " rows x " + std::to_string(outputs) + " outputs x " +
           std::to_string(inputs) + " inputs, " + (dtype == Half::kBFloat16 ? "bfloat16" : "float16") +
           ", seed " + std::to_string(base_seed());
  }
};

// A Matmul with its workspace.
struct Fixture {
  ScratchMemory workspace{Matmul::kWorkspaceBytes};
  Matmul matmul;
  explicit Fixture(Half dtype) : matmul(dtype, Matmul::kWorkspaceBytes, workspace.get()) {}
};

// A poisoned output with a guard behind it.
struct Output {
  uint64_t bytes;
  ScratchMemory device;

  explicit Output(uint64_t bytes_) : bytes(bytes_), device(bytes_ + kGuardBytes) {
    check(cudaMemset(device.get(), 0xFF, bytes + kGuardBytes), "cudaMemset");
  }
  std::vector<uint8_t> read(const std::string& note) const {
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    std::vector<uint8_t> all(bytes + kGuardBytes);
    check(cudaMemcpy(all.data(), device.get(), all.size(), cudaMemcpyDeviceToHost), "cudaMemcpy");
    for (uint64_t i = 0; i < kGuardBytes; ++i) {
      EXPECT_NOTE(all[bytes + i] == 0xFF, "guard byte " + std::to_string(i) + " behind the output: " + note);
    }
    all.resize(bytes);
    return all;
  }
};

// The float32 result [rows][outputs] of run(), the partials of its slices added in order.
inline std::vector<float> run_float(Matmul& matmul, const Shape& shape, const void* weight,
                                    const void* input) {
  const uint64_t padded = Matmul::padded_rows(shape.rows);
  const uint32_t parts = matmul.slices_written(shape.rows, shape.outputs, shape.inputs);
  const Output output(parts * padded * shape.outputs * 4);
  matmul.run(weight, input, shape.rows, shape.outputs, shape.inputs, output.device.get(),
             MatmulOutput::kFloat32, nullptr);
  const std::vector<uint8_t> bytes = output.read(shape.words());
  std::vector<float> partials(bytes.size() / 4);
  std::memcpy(partials.data(), bytes.data(), bytes.size());
  std::vector<float> sums(partials.begin(), partials.begin() + uint64_t{shape.rows} * shape.outputs);
  for (uint32_t part = 1; part < parts; ++part) {
    for (uint64_t i = 0; i < sums.size(); ++i) sums[i] += partials[part * padded * shape.outputs + i];
  }
  return sums;
}

inline std::vector<uint16_t> run_half(Matmul& matmul, const Shape& shape, const void* weight,
                                      const void* input) {
  const Output output(uint64_t{Matmul::padded_rows(shape.rows)} * shape.outputs * 2);
  matmul.run(weight, input, shape.rows, shape.outputs, shape.inputs, output.device.get(), MatmulOutput::kHalf,
             nullptr);
  const std::vector<uint8_t> bytes = output.read(shape.words());
  std::vector<uint16_t> values(uint64_t{shape.rows} * shape.outputs);
  std::memcpy(values.data(), bytes.data(), values.size() * 2);
  return values;
}

// Holds up to 24 of the rows, the first and last among them, against sums in double.
inline void expect_near_twin(const Shape& shape, const Operand& weight, const Operand& input,
                             const std::vector<float>& got, double limit, Random& random) {
  std::vector<uint32_t> rows{0, shape.rows - 1};
  for (int i = 0; i < 22; ++i) rows.push_back(static_cast<uint32_t>(random.integer(0, shape.rows - 1)));
  double error = 0.0;
  double size = 0.0;
  double worst = -1.0;
  std::string worst_words;
  for (const uint32_t row : rows) {
    for (uint32_t n = 0; n < shape.outputs; ++n) {
      double expected = 0.0;
      for (uint32_t k = 0; k < shape.inputs; ++k) {
        expected += double{input.at(uint64_t{row} * shape.inputs + k)} *
                    double{weight.at(uint64_t{n} * shape.inputs + k)};
      }
      const float value = got[uint64_t{row} * shape.outputs + n];
      const std::string place = "row " + std::to_string(row) + " output " + std::to_string(n) + " got " +
                                std::to_string(value) + " expected " + std::to_string(expected);
      EXPECT_NOTE(std::isfinite(value), place + ": " + shape.words());
      const double difference = std::fabs(value - expected);
      error += difference * difference;
      size += expected * expected;
      if (difference > worst) {
        worst = difference;
        worst_words = place;
      }
    }
  }
  const double relative = std::sqrt(error / size);
  EXPECT_NOTE(relative <= limit, "relative error " + std::to_string(relative) + ", worst at " + worst_words +
                                     ": " + shape.words());
}

// The rows of `part` are those of `whole` from first_row on, bit for bit.
template <class T>
void expect_same_rows(const std::vector<T>& part, const std::vector<T>& whole, uint64_t first_row,
                      const Shape& shape, const char* what) {
  for (uint64_t i = 0; i < part.size(); ++i) {
    const T& expected = whole[first_row * shape.outputs + i];
    if (std::memcmp(&part[i], &expected, sizeof(T)) == 0) continue;
    EXPECT_NOTE(false, std::string(what) + ": row " + std::to_string(i / shape.outputs) + " (" +
                           std::to_string(first_row + i / shape.outputs) + " of the whole), output " +
                           std::to_string(i % shape.outputs) + " got " + std::to_string(part[i]) +
                           " expected " + std::to_string(expected) + ": " + shape.words());
  }
}

}  // namespace kadenz::cuda::matmul_test
