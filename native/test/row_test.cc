// exp, RMSNorm, rotary embedding and attention: bits between instruction sets, and against double arithmetic.
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "check.h"
#include "cpu/float_bits.h"
#include "cpu/memory.h"
#include "kernel_tables.h"
#include "random.h"

namespace kadenz::test {
namespace {

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

TEST("exp is within 1.5 units in the last place, 0 far below, NaN for NaN, and equal in bits everywhere") {
  Random random(11);
  std::vector<float> inputs = random.floats(40001, 87.0F);
  const std::vector<float> small = random.floats(20001, 1.0F);
  inputs.insert(inputs.end(), small.begin(), small.end());
  std::vector<float> first;
  for (const NamedKernels& table : runnable_kernels()) {
    std::vector<float> outputs(inputs.size());
    table.kernels->exp(inputs.data(), static_cast<int64_t>(inputs.size()), outputs.data());
    for (size_t i = 0; i < inputs.size(); ++i) {
      const double exact = std::exp(static_cast<double>(inputs[i]));
      const double unit = std::ldexp(1.0, std::ilogb(exact) - 23);
      EXPECT_NOTE(std::fabs(static_cast<double>(outputs[i]) - exact) <= 1.5 * unit,
                  std::to_string(inputs[i]));
    }
    if (first.empty()) first = outputs;
    EXPECT_NOTE(same_bits(first, outputs), table.name);
    const float infinity = std::numeric_limits<float>::infinity();
    std::vector<float> edges = {
        0.0F, -0.0F, -infinity, -200.0F, -87.4F, std::numeric_limits<float>::quiet_NaN(), 200.0F};
    table.kernels->exp(edges.data(), 7, edges.data());
    EXPECT(edges[0] == 1.0F && edges[1] == 1.0F && edges[2] == 0.0F && edges[3] == 0.0F && edges[4] == 0.0F);
    EXPECT(std::isnan(edges[5]) && edges[6] > 1e38F);
  }
}

TEST(
    "RMSNorm agrees with double arithmetic and in bits between instruction sets, for any number of columns") {
  Random random(12);
  for (int64_t columns : {1, 2, 15, 16, 17, 64, 575, 576, 577}) {
    const std::vector<float> x = random.floats(static_cast<uint64_t>(columns), 3.0F);
    const std::vector<float> weight = random.floats(static_cast<uint64_t>(columns));
    std::vector<float> first;
    for (const NamedKernels& table : runnable_kernels()) {
      std::vector<float> y(x.size());
      table.kernels->rms_norm(x.data(), weight.data(), 1e-5F, columns, y.data());
      double squares = 0;
      for (const float value : x) squares += static_cast<double>(value) * static_cast<double>(value);
      for (size_t i = 0; i < x.size(); ++i) {
        const double exact = static_cast<double>(x[i]) * static_cast<double>(weight[i]) /
                             std::sqrt(squares / static_cast<double>(columns) + 1e-5);
        EXPECT(std::fabs(static_cast<double>(y[i]) - exact) < 1e-6 * (1 + std::fabs(exact)));
      }
      if (first.empty()) first = y;
      EXPECT_NOTE(same_bits(first, y), table.name);
    }
  }
}

namespace {

// A paged cache with every slot poisoned until it is written, and one sequence in it.
struct Paged {
  AttentionLayout layout;
  std::vector<uint32_t> table;
  std::vector<float> floats;
  std::vector<uint16_t> halves;

  Paged(Random& random, int64_t heads, int64_t kv_heads, int64_t dim, int64_t block_size, DType storage,
        int64_t positions) {
    const int64_t value_stride = (dim + 15) / 16 * 16;
    const int64_t key_elements = kv_heads * dim * block_size;
    const int64_t layer = key_elements + kv_heads * block_size * value_stride;
    const int64_t blocks = (positions + block_size - 1) / block_size;
    for (int64_t i = 0; i < blocks; ++i) table.push_back(static_cast<uint32_t>(i));
    for (size_t i = table.size(); i > 1; --i) std::swap(table[i - 1], table[random.bits() % i]);
    floats.assign(static_cast<size_t>(blocks * layer), std::numeric_limits<float>::quiet_NaN());
    halves.assign(static_cast<size_t>(blocks * layer), 0x7fc0);
    layout = {heads,
              kv_heads,
              dim,
              value_stride,
              block_size,
              storage,
              storage == DType::kFloat32 ? static_cast<void*>(floats.data()) : halves.data(),
              layer,
              key_elements};
  }
};

struct AttentionCase {
  int64_t heads, kv_heads, dim, block_size, positions, window;
  DType storage;
};

struct AttentionRun {
  std::vector<float> qkv;     // after rotation
  std::vector<float> output;  // [position][heads * dim]
};

// Writes all positions, then attends in tiles of the given heights.
AttentionRun attend_all(const CpuKernels& kernels, const AttentionCase& c, uint64_t stream, int64_t tile) {
  Random random(stream);
  Paged paged(random, c.heads, c.kv_heads, c.dim, c.block_size, c.storage, c.positions);
  const int64_t stride = (c.heads + 2 * c.kv_heads) * c.dim;
  const std::vector<float> norm = random.floats(static_cast<uint64_t>(c.dim));
  AttentionRun run;
  run.qkv = random.floats(static_cast<uint64_t>(c.positions * stride), 2.0F);
  run.output.assign(static_cast<size_t>(c.positions * c.heads * c.dim), 0.0F);
  for (int64_t position = 0; position < c.positions; ++position) {
    const std::vector<float> cosine = random.floats(static_cast<uint64_t>(c.dim / 2));
    const std::vector<float> sine = random.floats(static_cast<uint64_t>(c.dim / 2));
    kernels.rotate_and_store(
        paged.layout,
        {run.qkv.data() + position * stride, cosine.data(), sine.data(), norm.data(), nullptr, 1e-6F, 0.25F,
         paged.table[static_cast<size_t>(position / c.block_size)], position % c.block_size});
  }
  PageBuffer scratch(
      static_cast<uint64_t>(attend_scratch_floats(paged.layout, tile, c.positions)) * sizeof(float),
      "scratch");
  std::vector<AttendTask> tasks;
  for (int64_t row = 0; row < c.positions; row += tile) {
    for (int64_t head = 0; head < c.kv_heads; ++head) {
      tasks.push_back({run.qkv.data() + row * stride, stride, run.output.data() + row * c.heads * c.dim,
                       c.heads * c.dim, std::min(tile, c.positions - row), row, c.window, paged.table.data(),
                       head, scratch.floats()});
    }
  }
  kernels.attend(paged.layout, tasks.data(), static_cast<int64_t>(tasks.size()));
  return run;
}

AttentionCase draw_case(Random& random) {
  const int64_t kv_heads = random.integer(1, 3);
  return {kv_heads * random.integer(1, 9),
          kv_heads,
          random.one_of<int64_t>({2, 8, 20, 64, 80, 96, 128}),
          random.one_of<int64_t>({8, 16, 32, 64}),
          random.integer(1, 150),
          random.one_of<int64_t>({0, 0, 1, 5, 37}),
          random.one_of({DType::kFloat32, DType::kBFloat16})};
}

}  // namespace

TEST("rotation, cache writes and attention give the same bits on every instruction set") {
  Random random(13);
  for (int round = 0; round < 25; ++round) {
    const AttentionCase c = draw_case(random);
    const uint64_t stream = random.bits();
    const AttentionRun expected = attend_all(scalar_kernels(), c, stream, 1);
    for (const NamedKernels& table : runnable_kernels()) {
      const AttentionRun got = attend_all(*table.kernels, c, stream, random.integer(1, 9));
      EXPECT_NOTE(same_bits(expected.qkv, got.qkv), table.name);
      EXPECT_NOTE(same_bits(expected.output, got.output), table.name);
    }
  }
}

TEST("attention agrees with double arithmetic and never reads a slot that is not visible") {
  Random random(14);
  for (int round = 0; round < 15; ++round) {
    const AttentionCase c = draw_case(random);
    const int64_t stride = (c.heads + 2 * c.kv_heads) * c.dim;
    for (const NamedKernels& table : runnable_kernels()) {
      const AttentionRun run = attend_all(*table.kernels, c, random.bits(), 4);
      const auto stored = [&](float value) {
        return static_cast<double>(c.storage == DType::kFloat32 ? value
                                                                : widen_bfloat16(narrow_bfloat16(value)));
      };
      for (int64_t position = 0; position < c.positions; ++position) {
        for (int64_t head = 0; head < c.heads; ++head) {
          const int64_t kv = head / (c.heads / c.kv_heads);
          const float* query = run.qkv.data() + position * stride + head * c.dim;
          const int64_t first = c.window == 0 ? 0 : std::max<int64_t>(0, position - c.window + 1);
          std::vector<double> scores;
          double largest = -1e300;
          for (int64_t j = first; j <= position; ++j) {
            double score = 0;
            for (int64_t d = 0; d < c.dim; ++d) {
              score += static_cast<double>(query[d]) *
                       stored(run.qkv[static_cast<size_t>(j * stride + (c.heads + kv) * c.dim + d)]);
            }
            scores.push_back(score);
            largest = std::max(largest, score);
          }
          double sum = 0;
          for (double& score : scores) sum += (score = std::exp(score - largest));
          for (int64_t d = 0; d < c.dim; ++d) {
            double expected = 0;
            for (int64_t j = first; j <= position; ++j) {
              expected +=
                  scores[static_cast<size_t>(j - first)] / sum *
                  stored(run.qkv[static_cast<size_t>(j * stride + (c.heads + c.kv_heads + kv) * c.dim + d)]);
            }
            const double got =
                static_cast<double>(run.output[static_cast<size_t>((position * c.heads + head) * c.dim + d)]);
            EXPECT_NOTE(std::fabs(got - expected) < 1e-4, table.name);
          }
        }
      }
    }
  }
}

TEST("rotation turns pairs half a head apart, after the norm, and scales queries only") {
  for (const NamedKernels& table : runnable_kernels()) {
    Random random(15);
    Paged paged(random, 2, 1, 6, 16, DType::kFloat32, 1);
    std::vector<float> qkv = random.floats(4 * 6);
    const std::vector<float> before = qkv;
    const std::vector<float> cosine = {0.5F, 0.25F, -1.0F}, sine = {0.75F, -0.5F, 0.125F};
    table.kernels->rotate_and_store(
        paged.layout, {qkv.data(), cosine.data(), sine.data(), nullptr, nullptr, 1e-6F, 0.5F, 0, 3});
    for (size_t head = 0; head < 3; ++head) {
      const float scale = head < 2 ? 0.5F : 1.0F;
      for (size_t i = 0; i < 3; ++i) {
        const float x = before[head * 6 + i], y = before[head * 6 + i + 3];
        EXPECT(std::fabs(qkv[head * 6 + i] - scale * (x * cosine[i] - y * sine[i])) < 1e-6F);
        EXPECT(std::fabs(qkv[head * 6 + i + 3] - scale * (y * cosine[i] + x * sine[i])) < 1e-6F);
      }
    }
    for (size_t d = 0; d < 6; ++d) {
      EXPECT(paged.floats[d * 16 + 3] == qkv[12 + d]);
      EXPECT(paged.floats[6 * 16 + 3 * 16 + d] == before[18 + d]);
    }
  }
}

}  // namespace kadenz::test
