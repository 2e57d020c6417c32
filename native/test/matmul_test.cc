// The matmul kernels: bits between instruction sets, bits against one chain of fused multiply-adds, batch
// size, dtypes.
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "check.h"
#include "cpu/float_bits.h"
#include "cpu/packed_weights.h"
#include "kernel_tables.h"
#include "random.h"
#include "tiny_model.h"

namespace kadenz::test {
namespace {

struct Problem {
  int64_t rows, inputs, outputs;
  DType dtype;
  std::vector<float> x, weight, second_weight, bias, before;
  std::string weight_bytes, second_bytes;

  Problem(Random& random, int64_t rows_, int64_t inputs_, int64_t outputs_, DType dtype_)
      : rows(rows_), inputs(inputs_), outputs(outputs_), dtype(dtype_) {
    x = random.floats(static_cast<uint64_t>(rows * inputs));
    weight = random.floats(static_cast<uint64_t>(outputs * inputs));
    second_weight = random.floats(static_cast<uint64_t>(outputs * inputs));
    bias = random.floats(static_cast<uint64_t>(outputs));
    before = random.floats(static_cast<uint64_t>(rows * outputs));
    weight_bytes = encode(weight, dtype);
    second_bytes = encode(second_weight, dtype);
  }
  TensorView view(const std::string& bytes) const {
    return {"w", dtype, {outputs, inputs}, reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()};
  }
};

Problem draw(Random& random) {
  return Problem(random, random.integer(1, 45), random.one_of<int64_t>({1, 7, 64, 255, 256, 257, 600}),
                 random.integer(1, 130), random.one_of({DType::kFloat32, DType::kFloat16, DType::kBFloat16}));
}

enum class Kind { kLinear, kLinearAdd, kGated };

// The whole product, cut into tasks of `task_panels` panels and `task_rows` rows.
std::vector<float> run(const CpuKernels& kernels, const Problem& problem, Kind kind, bool with_bias,
                       int64_t task_panels, int64_t task_rows) {
  ThreadPool pool(1);
  PageArena arena;
  const TensorView views[2] = {problem.view(problem.weight_bytes), problem.view(problem.second_bytes)};
  const PackedMatrix first(std::span(&views[0], 1), WeightPrecision::kExact, MatrixUse::kLinear, pool, arena);
  const PackedMatrix second(std::span(&views[1], 1), WeightPrecision::kExact, MatrixUse::kLinear, pool,
                            arena);
  const float* bias = with_bias ? problem.bias.data() : nullptr;
  std::vector<float> output = problem.before;
  PageBuffer scratch(kMatmulScratch * sizeof(float), "scratch");
  for (int64_t row = 0; row < problem.rows; row += task_rows) {
    for (int64_t panel = 0; panel < first.num_panels(); panel += task_panels) {
      const MatmulTask task{problem.x.data(),
                            problem.inputs,
                            output.data(),
                            problem.outputs,
                            row,
                            std::min(problem.rows, row + task_rows),
                            panel,
                            std::min(first.num_panels(), panel + task_panels),
                            scratch.floats()};
      if (kind == Kind::kLinear) kernels.linear(task, first.view(bias));
      if (kind == Kind::kLinearAdd) kernels.linear_add(task, first.view(bias));
      if (kind == Kind::kGated) kernels.gated_linear(task, first.view(bias), second.view(nullptr));
    }
  }
  return output;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

float chain(const Problem& problem, const std::vector<float>& weight, int64_t row, int64_t output) {
  float sum = 0.0F;
  for (int64_t k = 0; k < problem.inputs; ++k) {
    sum = std::fmaf(problem.x[static_cast<size_t>(row * problem.inputs + k)],
                    weight[static_cast<size_t>(output * problem.inputs + k)], sum);
  }
  return sum;
}

}  // namespace

TEST(
    "a matmul element is one chain of fused multiply-adds in increasing inner index, on every instruction "
    "set") {
  Random random(1);
  for (int round = 0; round < 12; ++round) {
    const Problem problem = draw(random);
    for (const NamedKernels& table : runnable_kernels()) {
      const std::vector<float> plain = run(*table.kernels, problem, Kind::kLinear, false, 3, kMatmulRows);
      const std::vector<float> added = run(*table.kernels, problem, Kind::kLinearAdd, true, 3, kMatmulRows);
      for (int64_t row = 0; row < problem.rows; ++row) {
        for (int64_t output = 0; output < problem.outputs; ++output) {
          const size_t at = static_cast<size_t>(row * problem.outputs + output);
          const float sum = chain(problem, problem.weight, row, output);
          EXPECT_NOTE(std::bit_cast<uint32_t>(plain[at]) == std::bit_cast<uint32_t>(sum), table.name);
          const float with_bias = sum + problem.bias[static_cast<size_t>(output)];
          EXPECT_NOTE(
              std::bit_cast<uint32_t>(added[at]) == std::bit_cast<uint32_t>(problem.before[at] + with_bias),
              table.name);
        }
      }
    }
  }
}

TEST("matmuls give the same bits on every instruction set, however they are cut into tasks") {
  Random random(2);
  for (int round = 0; round < 12; ++round) {
    const Problem problem = draw(random);
    for (const Kind kind : {Kind::kLinear, Kind::kLinearAdd, Kind::kGated}) {
      const std::vector<float> expected = run(scalar_kernels(), problem, kind, true, 1, kMatmulRows);
      for (const NamedKernels& table : runnable_kernels()) {
        EXPECT_NOTE(same_bits(expected, run(*table.kernels, problem, kind, true, kMatmulPanels, kMatmulRows)),
                    table.name);
        EXPECT_NOTE(same_bits(expected, run(*table.kernels, problem, kind, true, 2, random.integer(1, 20))),
                    table.name);
      }
    }
  }
}

TEST("a row of a matmul has the same bits alone and among others") {
  Random random(3);
  for (int round = 0; round < 8; ++round) {
    const Problem problem = draw(random);
    for (const NamedKernels& table : runnable_kernels()) {
      for (const Kind kind : {Kind::kLinear, Kind::kLinearAdd, Kind::kGated}) {
        EXPECT_NOTE(same_bits(run(*table.kernels, problem, kind, true, 3, kMatmulRows),
                              run(*table.kernels, problem, kind, true, 3, 1)),
                    table.name);
      }
    }
  }
}

TEST("a gated matmul is silu(gate) * up within float rounding") {
  Random random(4);
  for (int round = 0; round < 6; ++round) {
    const Problem problem = draw(random);
    for (const NamedKernels& table : runnable_kernels()) {
      const std::vector<float> output = run(*table.kernels, problem, Kind::kGated, true, 3, kMatmulRows);
      for (int64_t row = 0; row < problem.rows; ++row) {
        for (int64_t n = 0; n < problem.outputs; ++n) {
          double gate = static_cast<double>(problem.bias[static_cast<size_t>(n)]);
          double up = 0;
          for (int64_t k = 0; k < problem.inputs; ++k) {
            const double x = static_cast<double>(problem.x[static_cast<size_t>(row * problem.inputs + k)]);
            gate += x * static_cast<double>(problem.weight[static_cast<size_t>(n * problem.inputs + k)]);
            up += x * static_cast<double>(problem.second_weight[static_cast<size_t>(n * problem.inputs + k)]);
          }
          const double expected = gate / (1.0 + std::exp(-gate)) * up;
          const double got = static_cast<double>(output[static_cast<size_t>(row * problem.outputs + n)]);
          EXPECT_NOTE(std::fabs(got - expected) < 2e-4 * (1.0 + std::fabs(expected)), table.name);
        }
      }
    }
  }
}

TEST("every float16 and bfloat16 number is widened exactly on every instruction set") {
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    std::vector<uint16_t> bits(65536);
    for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
    const TensorView view{"w", dtype, {65536, 1}, reinterpret_cast<const std::byte*>(bits.data()), 131072};
    ThreadPool pool(1);
    PageArena arena;
    const PackedMatrix matrix(std::span(&view, 1), WeightPrecision::kExact, MatrixUse::kLinear, pool, arena);
    for (const NamedKernels& table : runnable_kernels()) {
      for (const int64_t rows : {1, 20}) {  // widened in registers, and into a block
        const std::vector<float> ones(static_cast<size_t>(rows), 1.0F);
        std::vector<float> output(static_cast<size_t>(rows) * 65536);
        PageBuffer scratch(kMatmulScratch * sizeof(float), "scratch");
        for (int64_t panel = 0; panel < 4096; panel += kMatmulPanels) {
          table.kernels->linear({ones.data(), 1, output.data(), 65536, 0, rows, panel,
                                 std::min<int64_t>(4096, panel + kMatmulPanels), scratch.floats()},
                                matrix.view(nullptr));
        }
        for (size_t i = 0; i < 65536; ++i) {
          double expected = 0;  // by the definition of the format
          const int exponent = dtype == DType::kFloat16 ? (i >> 10) & 0x1f : (i >> 7) & 0xff;
          const int mantissa_bits = dtype == DType::kFloat16 ? 10 : 7;
          const int bias = dtype == DType::kFloat16 ? 15 : 127;
          const double mantissa = static_cast<double>(i & ((1U << mantissa_bits) - 1));
          if (exponent == (dtype == DType::kFloat16 ? 0x1f : 0xff)) {
            if (mantissa != 0) {
              EXPECT(std::isnan(output[i]));
              continue;
            }
            expected = HUGE_VAL;
          } else if (exponent == 0) {
            expected = std::ldexp(mantissa, 1 - bias - mantissa_bits);
          } else {
            expected = std::ldexp(mantissa + std::ldexp(1.0, mantissa_bits), exponent - bias - mantissa_bits);
          }
          if (i >= 32768) expected = -expected;
          EXPECT_NOTE(static_cast<double>(output[i]) == expected, table.name + " " + std::to_string(i));
        }
      }
    }
  }
}

TEST("weights asked for in bfloat16 are rounded to nearest even") {
  const float one = 1.0F;
  const float step = 0x1p-7F;
  std::vector<float> values = {one + step / 2, one + step + step / 2, one + step * 0.51F, -one - step / 2,
                               3.0F};
  const std::vector<float> expected = {one, one + 2 * step, one + step, -one, 3.0F};
  const std::string bytes = encode(values, DType::kFloat32);
  const TensorView view{
      "w", DType::kFloat32, {5, 1}, reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()};
  ThreadPool pool(1);
  PageArena arena;
  const PackedMatrix matrix(std::span(&view, 1), WeightPrecision::kBFloat16, MatrixUse::kEmbedding, pool,
                            arena);
  std::vector<float> read(5);
  scalar_kernels().widen(matrix.row(0), matrix.dtype(), 5, read.data());
  EXPECT(read == expected);
}

TEST("the rows of stacked parts of different dtypes come back exactly") {
  Random random(5);
  std::vector<float> a = random.floats(3 * 5), b = random.floats(20 * 5), c = random.floats(2 * 5);
  const std::string bytes[3] = {encode(a, DType::kFloat16), encode(b, DType::kFloat32),
                                encode(c, DType::kBFloat16)};
  const auto view = [&](int i, DType dtype, int64_t rows) {
    return TensorView{
        "w", dtype, {rows, 5}, reinterpret_cast<const std::byte*>(bytes[i].data()), bytes[i].size()};
  };
  const TensorView parts[3] = {view(0, DType::kFloat16, 3), view(1, DType::kFloat32, 20),
                               view(2, DType::kBFloat16, 2)};
  ThreadPool pool(2);
  PageArena arena;
  const PackedMatrix matrix(parts, WeightPrecision::kExact, MatrixUse::kLinearAndEmbedding, pool, arena);
  std::vector<float> all = a;
  all.insert(all.end(), b.begin(), b.end());
  all.insert(all.end(), c.begin(), c.end());
  for (const NamedKernels& table : runnable_kernels()) {
    for (int64_t row = 0; row < 25; ++row) {
      std::vector<float> read(5);
      table.kernels->read_panel_row(matrix.view(nullptr), row, read.data());
      EXPECT(std::equal(read.begin(), read.end(), all.begin() + row * 5));
    }
  }
}

}  // namespace kadenz::test
