// Residual + RMSNorm against plain loops in double, and its bits: alone, among others, elsewhere, in
// unaligned buffers, in a graph, and with launches that overlap.
#include "cuda/kernels/rows.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "cuda/test/rows_device.cuh"
#include "test/check.h"
#include "test/random.h"

namespace kadenz::cuda::rows_test {
namespace {

using ::kadenz::test::Random;

struct NormInputs {
  Half dtype;
  uint32_t rows, columns, slices;  // slices 0: nothing to add
  bool has_bias;
  std::vector<float> residual, weight, bias;
  std::vector<std::vector<float>> partials;  // [slice][row * columns]

  std::string name() const {
    return std::string(name_of(dtype)) + " rows " + std::to_string(rows) + " columns " +
           std::to_string(columns) + " slices " + std::to_string(slices) + (has_bias ? " bias" : "");
  }
};

NormInputs norm_inputs(uint64_t stream, Half dtype, uint32_t rows, uint32_t columns, uint32_t slices,
                       bool has_bias) {
  Random random(stream);
  const uint64_t count = static_cast<uint64_t>(rows) * columns;
  NormInputs in = {dtype,
                   rows,
                   columns,
                   slices,
                   has_bias,
                   random.floats(count),
                   random.floats(columns, 1.5F),
                   random.floats(columns),
                   {}};
  for (uint32_t slice = 0; slice < slices; ++slice) in.partials.push_back(random.floats(count));
  return in;
}

struct NormPlacement {
  std::vector<uint32_t> rows;  // of the inputs, in the order in which they run
  uint32_t padding = 0;        // rows of NaN after them, which run too
  uint32_t shift = 0;          // of every float32 buffer, in floats
};

struct NormRun {
  std::vector<float> residual;
  std::vector<uint16_t> normed;
};

constexpr float kEpsilon = 1e-5F;

NormRun run_add_norm(const NormInputs& in, const NormPlacement& placement) {
  const uint32_t run_rows = static_cast<uint32_t>(placement.rows.size()) + placement.padding;
  const uint64_t count = static_cast<uint64_t>(run_rows) * in.columns;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto placed = [&](const std::vector<float>& values, std::vector<float>& target, uint64_t base) {
    for (size_t i = 0; i < placement.rows.size(); ++i) {
      std::copy_n(values.begin() + static_cast<int64_t>(placement.rows[i]) * in.columns, in.columns,
                  target.begin() + static_cast<int64_t>(base + i * in.columns));
    }
  };
  std::vector<float> residual(count, nan);
  placed(in.residual, residual, 0);
  std::vector<float> partials(std::max<uint64_t>(count * in.slices, 1), nan);
  for (uint32_t slice = 0; slice < in.slices; ++slice) placed(in.partials[slice], partials, slice * count);

  const DeviceArray<float> device_residual(residual, placement.shift);
  const DeviceArray<float> device_partials(partials, placement.shift);
  const DeviceArray<float> device_weight(in.weight, placement.shift);
  const DeviceArray<float> device_bias(in.bias, placement.shift);
  const DeviceArray<uint16_t> normed(count);
  const SumSource source = {in.slices == 0 ? nullptr : device_partials.data(), in.slices, count,
                            in.has_bias ? device_bias.data() : nullptr};
  add_norm(in.dtype, source, device_residual.data(), device_weight.data(), kEpsilon, run_rows, in.columns,
           normed.data(), nullptr);
  NormRun run = {device_residual.read("residual " + in.name()), normed.read("normed " + in.name())};
  run.residual.resize(placement.rows.size() * in.columns);
  run.normed.resize(placement.rows.size() * in.columns);
  return run;
}

std::vector<uint32_t> all_rows(uint32_t rows) {
  std::vector<uint32_t> indices(rows);
  std::iota(indices.begin(), indices.end(), 0U);
  return indices;
}

void expect_right(const NormInputs& in, const NormRun& run) {
  for (uint32_t row = 0; row < in.rows; ++row) {
    double squares = 0;
    for (uint32_t column = 0; column < in.columns; ++column) {
      const size_t i = static_cast<size_t>(row) * in.columns + column;
      double exact = in.residual[i];
      for (const std::vector<float>& partial : in.partials) exact += partial[i];
      if (in.has_bias && in.slices > 0) exact += in.bias[column];
      const double got = run.residual[i];
      if (!(std::fabs(got - exact) <= 3e-6)) {
        fail(__FILE__, __LINE__, difference("residual of " + in.name(), i, got, exact));
      }
      squares += got * got;
    }
    const double scale = 1.0 / std::sqrt(squares / in.columns + static_cast<double>(kEpsilon));
    for (uint32_t column = 0; column < in.columns; ++column) {
      const size_t i = static_cast<size_t>(row) * in.columns + column;
      const double exact =
          static_cast<double>(run.residual[i]) * scale * static_cast<double>(in.weight[column]);
      if (!is_rounded(in.dtype, run.normed[i], exact, 2e-6 * std::fabs(exact))) {
        fail(__FILE__, __LINE__,
             difference("normed of " + in.name(), i, widen_half(in.dtype, run.normed[i]), exact));
      }
    }
  }
}

struct Chain {  // add_norm again and again on one residual
  NormInputs in = norm_inputs(71, Half::kBFloat16, 64, 2048, 2, false);
  uint64_t count = static_cast<uint64_t>(in.rows) * in.columns;
  DeviceArray<float> residual{in.residual};
  DeviceArray<float> partials{2 * count};
  DeviceArray<float> weight{in.weight};
  DeviceArray<uint16_t> normed{count};
  DeviceArray<uint16_t> activated{count / 2};

  Chain() {
    std::vector<float> both = in.partials[0];
    both.insert(both.end(), in.partials[1].begin(), in.partials[1].end());
    partials.write(both);
  }
  void step(cudaStream_t stream) {
    add_norm(in.dtype, {partials.data(), 2, count, nullptr}, residual.data(), weight.data(), kEpsilon,
             in.rows, in.columns, normed.data(), stream);
    silu_mul(in.dtype, normed.data(), false, nullptr, in.rows, in.columns / 2, activated.data(), stream);
  }
  void restart() { residual.write(in.residual); }
};

}  // namespace

TEST("add_norm adds the slices and the bias to the residual and norms it, for any number of columns") {
  uint64_t stream = 100;
  for (const Half dtype : kHalves) {
    for (const uint32_t columns : {1U, 3U, 8U, 40U, 127U, 576U, 896U, 1536U, 2047U, 2048U, 2052U, 3584U,
                                   4096U, 5120U, 8192U, 8200U, 11007U, 16384U}) {
      for (const uint32_t slices : {0U, 1U, 2U, 3U, 4U, 9U}) {
        const bool has_bias = ++stream % 2 == 0;
        const NormInputs in =
            norm_inputs(stream, dtype, columns > 5000 ? 3 : 7, columns, slices, has_bias);
        expect_right(in, run_add_norm(in, {all_rows(in.rows)}));
      }
    }
  }
}

TEST(
    "add_norm gives a row the same bits alone, among others, elsewhere, beside NaN and in unaligned "
    "buffers") {
  uint64_t stream = 300;
  for (const Half dtype : kHalves) {
    for (const uint32_t columns : {40U, 41U, 576U, 1536U, 4096U, 5120U, 12288U}) {
      for (const uint32_t slices : {0U, 1U, 2U, 4U}) {
        const uint32_t rows = 9;
        const bool has_bias = ++stream % 2 == 1;
        const NormInputs in = norm_inputs(stream, dtype, rows, columns, slices, has_bias);
        const NormRun all = run_add_norm(in, {all_rows(rows)});
        const NormRun shifted = run_add_norm(in, {all_rows(rows), 0, 1});
        expect_same_bits(shifted.residual, all.residual, "unaligned residual " + in.name());
        expect_same_bits(shifted.normed, all.normed, "unaligned normed " + in.name());
        std::vector<uint32_t> backwards = all_rows(rows);
        std::reverse(backwards.begin(), backwards.end());
        const NormRun reversed = run_add_norm(in, {backwards, 7});
        for (uint32_t row = 0; row < rows; ++row) {
          const std::string what = "row " + std::to_string(row) + " of " + in.name();
          expect_same_bits(row_of(reversed.residual, rows - 1 - row, columns),
                           row_of(all.residual, row, columns), "reversed residual " + what);
          expect_same_bits(row_of(reversed.normed, rows - 1 - row, columns), row_of(all.normed, row, columns),
                           "reversed normed " + what);
        }
        for (const uint32_t row : {0U, 4U, 8U}) {
          const NormRun alone = run_add_norm(in, {{row}});
          expect_same_bits(alone.residual, row_of(all.residual, row, columns), "residual alone " + in.name());
          expect_same_bits(alone.normed, row_of(all.normed, row, columns), "normed alone " + in.name());
        }
      }
    }
  }
}

TEST("add_norm of slices added beforehand has the bits of the slices added here") {
  const NormInputs in = norm_inputs(500, Half::kBFloat16, 5, 4096, 4, true);
  NormInputs added = in;
  added.slices = 1;
  added.partials.resize(1);
  for (size_t i = 0; i < added.partials[0].size(); ++i) {
    for (uint32_t slice = 1; slice < in.slices; ++slice) added.partials[0][i] += in.partials[slice][i];
  }
  const NormRun here = run_add_norm(in, {all_rows(in.rows)});
  const NormRun beforehand = run_add_norm(added, {all_rows(in.rows)});
  expect_same_bits(here.residual, beforehand.residual, "residual");
  expect_same_bits(here.normed, beforehand.normed, "normed");
}

TEST("add_norm keeps a NaN in its row") {
  NormInputs in = norm_inputs(501, Half::kFloat16, 3, 896, 2, false);
  const NormRun clean = run_add_norm(in, {all_rows(3)});
  in.partials[1][896 + 5] = std::numeric_limits<float>::quiet_NaN();
  const NormRun run = run_add_norm(in, {all_rows(3)});
  for (uint32_t column = 0; column < 896; ++column) {
    EXPECT_NOTE(std::isnan(widen_half(in.dtype, run.normed[896 + column])), std::to_string(column));
  }
  for (const uint32_t row : {0U, 2U}) {
    expect_same_bits(row_of(run.normed, row, 896), row_of(clean.normed, row, 896), "beside NaN");
  }
}

TEST("kernels that overlap their launches or replay in a graph give the bits of kernels run one by one") {
  constexpr int kSteps = 40;
  Chain chain;
  for (int step = 0; step < kSteps; ++step) {
    chain.step(nullptr);
    check(cudaDeviceSynchronize(), "chain");
  }
  const std::vector<float> residual = chain.residual.read("residual");
  const std::vector<uint16_t> activated = chain.activated.read("activated");

  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  chain.restart();
  check(cudaDeviceSynchronize(), "restart");
  for (int step = 0; step < kSteps; ++step) chain.step(stream);
  expect_same_bits(chain.residual.read("residual"), residual, "overlapped residual");
  expect_same_bits(chain.activated.read("activated"), activated, "overlapped activated");

  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  for (int step = 0; step < kSteps; ++step) chain.step(stream);
  check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
  for (int replay = 0; replay < 3; ++replay) {
    chain.restart();
    check(cudaDeviceSynchronize(), "restart");
    check(cudaGraphLaunch(executable, stream), "cudaGraphLaunch");
    expect_same_bits(chain.residual.read("residual"), residual, "replayed residual");
    expect_same_bits(chain.activated.read("activated"), activated, "replayed activated");
  }
  check(cudaGraphExecDestroy(executable), "cudaGraphExecDestroy");
  check(cudaGraphDestroy(graph), "cudaGraphDestroy");
  check(cudaStreamDestroy(stream), "cudaStreamDestroy");
}

}  // namespace kadenz::cuda::rows_test
