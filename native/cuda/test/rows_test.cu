// Embedding, gated activation and gathering against plain loops in double, and their bits whatever ran beside
// a row. norm_test.cu has residual + RMSNorm.
#include "cuda/kernels/rows.h"

#include <limits>
#include <stdexcept>

#include "cuda/test/rows_device.cuh"
#include "test/check.h"
#include "test/random.h"

namespace kadenz::cuda::rows_test {

using ::kadenz::test::Random;

TEST("embed widens the rows of the table exactly") {
  Random random(510);
  for (const Half dtype : kHalves) {
    for (const uint32_t columns : {1U, 7U, 40U, 576U, 896U, 4096U, 5000U}) {
      const uint32_t vocabulary = 33;
      const std::vector<uint16_t> table =
          round_half(dtype, random.floats(static_cast<uint64_t>(vocabulary) * columns));
      std::vector<int32_t> ids = {0, 32};
      for (int i = 0; i < 9; ++i) ids.push_back(static_cast<int32_t>(random.integer(0, 32)));
      const DeviceArray<uint16_t> device_table(table);
      const DeviceArray<int32_t> device_ids(ids);
      const DeviceArray<float> residual(ids.size() * columns);
      embed(dtype, device_table.data(), device_ids.data(), static_cast<uint32_t>(ids.size()), columns,
            residual.data(), nullptr);
      std::vector<float> expected;
      for (const int32_t id : ids) {
        for (uint32_t column = 0; column < columns; ++column) {
          expected.push_back(widen_half(dtype, table[static_cast<size_t>(id) * columns + column]));
        }
      }
      expect_same_bits(residual.read("embed"), expected,
                       std::string("embed ") + name_of(dtype) + " columns " + std::to_string(columns));
    }
  }
}

namespace {

// gate_up as float32 values; rounded to Half first where the kernel reads Half.
std::vector<uint16_t> run_silu_mul(Half dtype, const std::vector<float>& gate_up, bool in_float,
                                   const std::vector<float>& bias, uint32_t rows, uint32_t inner,
                                   uint32_t shift = 0) {
  const DeviceArray<float> floats(gate_up, shift);
  const DeviceArray<uint16_t> halves(round_half(dtype, gate_up), shift);
  const DeviceArray<float> device_bias(bias.empty() ? std::vector<float>(1) : bias, shift);
  const DeviceArray<uint16_t> out(static_cast<size_t>(rows) * inner, shift);
  const void* input = in_float ? static_cast<const void*>(floats.data()) : halves.data();
  silu_mul(dtype, input, in_float, bias.empty() ? nullptr : device_bias.data(), rows, inner, out.data(),
           nullptr);
  return out.read("silu_mul");
}

}  // namespace

TEST("silu_mul is silu(gate) * up rounded once, from Half and from float32, with and without bias") {
  Random random(520);
  for (const Half dtype : kHalves) {
    for (const uint32_t inner : {1U, 7U, 8U, 100U, 1536U, 4864U, 4870U, 18944U}) {
      for (const int variant : {0, 1, 2, 3}) {
        const bool in_float = variant % 2 == 1;
        const uint32_t rows = 5;
        const std::vector<float> gate_up = random.floats(static_cast<uint64_t>(rows) * 2 * inner, 9.0F);
        const std::vector<float> bias = variant < 2 ? std::vector<float>{} : random.floats(2 * inner);
        const std::vector<uint16_t> out = run_silu_mul(dtype, gate_up, in_float, bias, rows, inner);
        const auto value = [&](uint32_t row, uint32_t column) {
          const float raw = gate_up[static_cast<size_t>(row) * 2 * inner + column];
          const float input = in_float ? raw : widen_half(dtype, round_half(dtype, raw));
          return static_cast<double>(bias.empty() ? input : input + bias[column]);
        };
        for (uint32_t row = 0; row < rows; ++row) {
          for (uint32_t column = 0; column < inner; ++column) {
            const double gate = value(row, column);
            const double exact = gate / (1.0 + std::exp(-gate)) * value(row, inner + column);
            const size_t i = static_cast<size_t>(row) * inner + column;
            if (!is_rounded(dtype, out[i], exact, 2e-6 * std::fabs(exact))) {
              fail(__FILE__, __LINE__,
                   difference(std::string("silu_mul ") + name_of(dtype) + " inner " + std::to_string(inner) +
                                  " variant " + std::to_string(variant),
                              i, widen_half(dtype, out[i]), exact));
            }
          }
        }
      }
    }
  }
}

TEST("silu_mul gives a row the same bits alone, elsewhere and in unaligned buffers") {
  Random random(530);
  for (const Half dtype : kHalves) {
    for (const bool in_float : {false, true}) {
      const uint32_t rows = 6;
      const uint32_t inner = 4864;
      const std::vector<float> gate_up = random.floats(static_cast<uint64_t>(rows) * 2 * inner, 9.0F);
      const std::vector<float> bias = random.floats(2 * inner);
      const std::vector<uint16_t> all = run_silu_mul(dtype, gate_up, in_float, bias, rows, inner);
      expect_same_bits(run_silu_mul(dtype, gate_up, in_float, bias, rows, inner, 1), all, "unaligned");
      for (uint32_t row = 0; row < rows; ++row) {
        expect_same_bits(run_silu_mul(dtype, row_of(gate_up, row, 2 * inner), in_float, bias, 1, inner),
                         row_of(all, row, inner), "silu_mul of row " + std::to_string(row) + " alone");
      }
    }
  }
}

TEST("silu_mul is 0 far below, the product far above, and NaN for NaN") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  // gates, then ups
  const std::vector<float> gate_up = {-200.0F, -88.0F, -0.0F, 100.0F, nan,  1.0F, 0.0F, -1e4F,
                                      3.0F,    3.0F,   3.0F,  3.0F,   3.0F, nan,  3.0F, 3.0F};
  for (const Half dtype : kHalves) {
    const std::vector<uint16_t> out = run_silu_mul(dtype, gate_up, true, {}, 1, 8);
    for (const size_t zero : {0U, 1U, 2U, 6U, 7U}) {
      EXPECT_NOTE(std::fabs(widen_half(dtype, out[zero])) < 1e-30F, std::to_string(zero));
    }
    EXPECT(widen_half(dtype, out[3]) == 300.0F);
    EXPECT(std::isnan(widen_half(dtype, out[4])) && std::isnan(widen_half(dtype, out[5])));
  }
}

TEST("gather_rows copies the named rows byte for byte, whatever their size") {
  Random random(540);
  for (const uint64_t row_bytes : {1U, 6U, 12U, 16U, 80U, 1792U, 8192U, 16384U, 20002U}) {
    const uint32_t rows = 21;
    std::vector<uint8_t> input(rows * row_bytes);
    for (uint8_t& byte : input) byte = static_cast<uint8_t>(random.bits());
    std::vector<uint32_t> picked = {20, 0, 20};
    for (int i = 0; i < 10; ++i) picked.push_back(static_cast<uint32_t>(random.integer(0, rows - 1)));
    const DeviceArray<uint8_t> device_input(input);
    const DeviceArray<uint32_t> device_rows(picked);
    const DeviceArray<uint8_t> output(picked.size() * row_bytes);
    gather_rows(device_input.data(), row_bytes, device_rows.data(), static_cast<uint32_t>(picked.size()),
                output.data(), nullptr);
    std::vector<uint8_t> expected;
    for (const uint32_t row : picked) {
      const auto first = input.begin() + static_cast<int64_t>(row * row_bytes);
      expected.insert(expected.end(), first, first + static_cast<int64_t>(row_bytes));
    }
    expect_same_bits(output.read("gather_rows"), expected, "row_bytes " + std::to_string(row_bytes));
  }
}

TEST("row kernels launch nothing for no rows, and a row too wide for add_norm is refused") {
  embed(Half::kBFloat16, nullptr, nullptr, 0, 64, nullptr, nullptr);
  add_norm(Half::kBFloat16, {}, nullptr, nullptr, 1e-5F, 0, 64, nullptr, nullptr);
  silu_mul(Half::kBFloat16, nullptr, false, nullptr, 0, 64, nullptr, nullptr);
  gather_rows(nullptr, 64, nullptr, 0, nullptr, nullptr);
  check(cudaDeviceSynchronize(), "no rows");
  bool refused = false;
  try {
    add_norm(Half::kBFloat16, {}, nullptr, nullptr, 1e-5F, 1, kMaxNormColumns + 1, nullptr, nullptr);
  } catch (const std::logic_error&) {
    refused = true;
  }
  EXPECT(refused);
}

}  // namespace kadenz::cuda::rows_test
