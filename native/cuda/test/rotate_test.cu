// rotate_and_store against plain loops in double, its writes into the paged cache one by one, and its bits.
#include "cuda/kernels/rotate.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>

#include "cuda/test/rows_device.cuh"
#include "test/check.h"
#include "test/random.h"

namespace kadenz::cuda::rows_test {
namespace {

using ::kadenz::test::Random;

constexpr float kEpsilon = 1e-6F;
constexpr uint32_t kMaxPositions = 300;

struct RotateShape {
  uint32_t num_heads, num_kv_heads, head_dim, head_dim_padded, block_size;
};

constexpr RotateShape kShapes[] = {
    {32, 8, 128, 128, 16}, {14, 2, 64, 64, 16}, {5, 1, 6, 64, 8},  {4, 2, 40, 64, 32}, {3, 3, 80, 128, 64},
    {2, 1, 2, 64, 8},      {9, 3, 96, 128, 16}, {1, 1, 64, 64, 8}, {7, 1, 34, 64, 16}, {2, 2, 126, 128, 16},
};

struct RotateInputs {
  Half dtype;
  RotateShape shape;
  uint32_t rows, slices;
  bool has_bias, has_query_norm, has_key_norm;
  std::vector<std::vector<float>> partials;  // [slice][row * columns]
  std::vector<float> bias, query_norm, key_norm, cos_sin;
  std::vector<int32_t> positions;  // -1: a padding row

  uint32_t heads() const { return shape.num_heads + 2 * shape.num_kv_heads; }
  uint32_t columns() const { return heads() * shape.head_dim; }
  std::string name() const {
    return std::string(name_of(dtype)) + " heads " + std::to_string(shape.num_heads) + "/" +
           std::to_string(shape.num_kv_heads) + " dim " + std::to_string(shape.head_dim) + " block " +
           std::to_string(shape.block_size) + " slices " + std::to_string(slices) +
           (has_bias ? " bias" : "") + (has_query_norm ? " q-norm" : "") + (has_key_norm ? " k-norm" : "");
  }
};

RotateInputs rotate_inputs(uint64_t stream, Half dtype, const RotateShape& shape, uint32_t rows,
                           uint32_t slices) {
  Random random(stream);
  RotateInputs in = {};
  in.dtype = dtype;
  in.shape = shape;
  in.rows = rows;
  in.slices = slices;
  in.has_bias = random.bits() % 2 == 0;
  in.has_query_norm = random.bits() % 2 == 0;
  in.has_key_norm = random.bits() % 4 == 0 ? !in.has_query_norm : in.has_query_norm;
  for (uint32_t slice = 0; slice < slices; ++slice) {
    in.partials.push_back(random.floats(static_cast<uint64_t>(rows) * in.columns(), 2.0F));
  }
  in.bias = random.floats(in.columns());
  in.query_norm = random.floats(shape.head_dim, 1.5F);
  in.key_norm = random.floats(shape.head_dim, 1.5F);
  for (uint32_t i = 0; i < kMaxPositions * (shape.head_dim / 2); ++i) {
    const double angle = 3.0 * static_cast<double>(random.uniform());
    in.cos_sin.push_back(static_cast<float>(std::cos(angle)));
    in.cos_sin.push_back(static_cast<float>(std::sin(angle)));
  }
  for (uint32_t row = 0; row < rows; ++row) {
    const bool padding = rows > 1 && random.bits() % 5 == 0;
    in.positions.push_back(padding ? -1 : static_cast<int32_t>(random.integer(0, kMaxPositions - 1)));
  }
  return in;
}

struct RotatePlacement {
  std::vector<uint32_t> rows;  // of the inputs, in the order in which they run
  uint64_t slot_stream = 1;    // which KV slots they get
  uint32_t block_size = 16;
  uint32_t shift = 0;  // of the float32 buffers, in floats
};

struct RotateRun {
  std::vector<uint16_t> query;  // [row][num_heads * head_dim_padded]
  std::vector<uint16_t> cache;
  std::vector<int64_t> kv_slots;
};

uint64_t cache_index(const RotateShape& shape, uint32_t block_size, int64_t slot, uint32_t value,
                     uint32_t head) {
  const uint64_t block = static_cast<uint64_t>(slot) / block_size;
  const uint64_t offset = static_cast<uint64_t>(slot) % block_size;
  return (((block * 2 + value) * shape.num_kv_heads + head) * block_size + offset) * shape.head_dim_padded;
}

RotateRun run_rotate(const RotateInputs& in, const RotatePlacement& placement) {
  const uint32_t rows = static_cast<uint32_t>(placement.rows.size());
  const uint32_t columns = in.columns();
  const uint64_t stride = static_cast<uint64_t>(rows) * columns + 4;  // a gap between the slices
  std::vector<float> partials(in.slices * stride, std::numeric_limits<float>::quiet_NaN());
  std::vector<int32_t> positions;
  std::vector<int64_t> kv_slots;
  Random random(placement.slot_stream);
  const uint32_t num_blocks = rows / placement.block_size + 3;
  std::vector<int64_t> free_slots(static_cast<size_t>(num_blocks) * placement.block_size);
  std::iota(free_slots.begin(), free_slots.end(), 0);
  for (size_t i = free_slots.size(); i > 1; --i) std::swap(free_slots[i - 1], free_slots[random.bits() % i]);
  for (uint32_t i = 0; i < rows; ++i) {
    const uint32_t row = placement.rows[i];
    positions.push_back(in.positions[row]);
    kv_slots.push_back(in.positions[row] < 0 ? -1 : free_slots[i]);
    if (in.positions[row] < 0) continue;  // a padding row's sums stay NaN
    for (uint32_t slice = 0; slice < in.slices; ++slice) {
      std::copy_n(
          in.partials[slice].begin() + static_cast<int64_t>(row) * columns, columns,
          partials.begin() + static_cast<int64_t>(slice * stride + static_cast<uint64_t>(i) * columns));
    }
  }
  const DeviceArray<float> device_partials(partials, placement.shift);
  const DeviceArray<float> bias(in.bias, placement.shift);
  const DeviceArray<float> query_norm(in.query_norm, placement.shift);
  const DeviceArray<float> key_norm(in.key_norm, placement.shift);
  const DeviceArray<float> cos_sin(in.cos_sin, placement.shift);
  const DeviceArray<int32_t> device_positions(positions);
  const DeviceArray<int64_t> device_slots(kv_slots);
  const DeviceArray<uint16_t> query(static_cast<size_t>(rows) * in.shape.num_heads *
                                    in.shape.head_dim_padded);
  const DeviceArray<uint16_t> cache(static_cast<size_t>(num_blocks) * 2 * in.shape.num_kv_heads *
                                    placement.block_size * in.shape.head_dim_padded);
  RotateArgs args;
  args.dtype = in.dtype;
  args.qkv = {device_partials.data(), in.slices, stride, in.has_bias ? bias.data() : nullptr};
  args.rows = rows;
  args.num_heads = in.shape.num_heads;
  args.num_kv_heads = in.shape.num_kv_heads;
  args.head_dim = in.shape.head_dim;
  args.head_dim_padded = in.shape.head_dim_padded;
  args.block_size = placement.block_size;
  args.query_norm = in.has_query_norm ? query_norm.data() : nullptr;
  args.key_norm = in.has_key_norm ? key_norm.data() : nullptr;
  args.epsilon = kEpsilon;
  args.cos_sin = cos_sin.data();
  args.positions = device_positions.data();
  args.kv_slots = device_slots.data();
  args.q_out = query.data();
  args.cache_layer = cache.data();
  rotate_and_store(args, nullptr);
  return {query.read("q of " + in.name()), cache.read("cache of " + in.name()), kv_slots};
}

struct ExactHead {
  std::vector<double> values;  // [head_dim]
  double slack;                // for float32 arithmetic
};

// One head of [q | k | v] of one row, in double.
ExactHead exact_head(const RotateInputs& in, uint32_t row, uint32_t head) {
  const uint32_t dim = in.shape.head_dim;
  std::vector<double> values(dim);
  for (uint32_t i = 0; i < dim; ++i) {
    const size_t column = static_cast<size_t>(head) * dim + i;
    for (const std::vector<float>& partial : in.partials) {
      values[i] += partial[static_cast<size_t>(row) * in.columns() + column];
    }
    if (in.has_bias) values[i] += in.bias[column];
  }
  const bool is_query = head < in.shape.num_heads;
  const bool is_value = head >= in.shape.num_heads + in.shape.num_kv_heads;
  double amplification = 1.0;
  if (!is_value && (is_query ? in.has_query_norm : in.has_key_norm)) {
    double squares = 0;
    for (const double value : values) squares += value * value;
    const double scale = 1.0 / std::sqrt(squares / dim + static_cast<double>(kEpsilon));
    const std::vector<float>& weight = is_query ? in.query_norm : in.key_norm;
    for (uint32_t i = 0; i < dim; ++i) values[i] *= scale * weight[i];
    amplification = std::max(1.0, 2.0 * scale);
  }
  if (!is_value) {
    const uint32_t half = dim / 2;
    for (uint32_t i = 0; i < half; ++i) {
      const size_t turn = (static_cast<size_t>(in.positions[row]) * half + i) * 2;
      const double cosine = in.cos_sin[turn];
      const double sine = in.cos_sin[turn + 1];
      const double low = values[i];
      const double high = values[i + half];
      values[i] = low * cosine - high * sine;
      values[i + half] = high * cosine + low * sine;
    }
  }
  return {values, 4e-6 * amplification};
}

void expect_head(const RotateInputs& in, const std::vector<uint16_t>& got, uint64_t first,
                 const std::optional<ExactHead>& exact, const std::string& what) {
  for (uint32_t i = 0; i < in.shape.head_dim_padded; ++i) {
    const uint16_t bits = got[first + i];
    const bool right = exact.has_value() && i < in.shape.head_dim
                           ? is_rounded(in.dtype, bits, exact->values[i], exact->slack)
                           : bits == 0;
    if (!right) {
      fail(__FILE__, __LINE__,
           difference(what + " of " + in.name(), i, widen_half(in.dtype, bits),
                      exact.has_value() && i < in.shape.head_dim ? exact->values[i] : 0.0));
    }
  }
}

void expect_right(const RotateInputs& in, const RotatePlacement& placement, const RotateRun& run) {
  std::vector<uint8_t> written(run.cache.size(), 0);
  for (size_t i = 0; i < placement.rows.size(); ++i) {
    const uint32_t row = placement.rows[i];
    const bool padding = in.positions[row] < 0;
    const std::string where = " row " + std::to_string(row) + " head ";
    for (uint32_t head = 0; head < in.shape.num_heads; ++head) {
      const uint64_t first = (i * in.shape.num_heads + head) * in.shape.head_dim_padded;
      expect_head(in, run.query, first, padding ? std::nullopt : std::optional(exact_head(in, row, head)),
                  "q" + where + std::to_string(head));
    }
    if (padding) continue;
    for (uint32_t kv = 0; kv < 2 * in.shape.num_kv_heads; ++kv) {
      const uint32_t value = kv / in.shape.num_kv_heads;
      const uint32_t kv_head = kv % in.shape.num_kv_heads;
      const uint64_t first = cache_index(in.shape, placement.block_size, run.kv_slots[i], value, kv_head);
      expect_head(in, run.cache, first, exact_head(in, row, in.shape.num_heads + kv),
                  (value == 1 ? "v" : "k") + where + std::to_string(kv_head));
      std::fill_n(written.begin() + static_cast<int64_t>(first), in.shape.head_dim_padded, uint8_t{1});
    }
  }
  for (size_t i = 0; i < run.cache.size(); ++i) {
    if (written[i] == 0 && run.cache[i] != 0xffff) {
      fail(__FILE__, __LINE__,
           "wrote into a slot of no row: cache element " + std::to_string(i) + " of " + in.name());
    }
  }
}

// All that a row left behind: q, then k and v of each head.
std::vector<uint16_t> bits_of_row(const RotateInputs& in, const RotatePlacement& placement,
                                  const RotateRun& run, size_t place) {
  const uint64_t width = static_cast<uint64_t>(in.shape.num_heads) * in.shape.head_dim_padded;
  const auto query = run.query.begin() + static_cast<int64_t>(place * width);
  std::vector<uint16_t> bits(query, query + static_cast<int64_t>(width));
  if (run.kv_slots[place] < 0) return bits;
  for (uint32_t kv = 0; kv < 2 * in.shape.num_kv_heads; ++kv) {
    const auto head = run.cache.begin() + static_cast<int64_t>(cache_index(
                                              in.shape, placement.block_size, run.kv_slots[place],
                                              kv / in.shape.num_kv_heads, kv % in.shape.num_kv_heads));
    bits.insert(bits.end(), head, head + in.shape.head_dim_padded);
  }
  return bits;
}

std::vector<uint32_t> every_row(uint32_t rows) {
  std::vector<uint32_t> indices(rows);
  std::iota(indices.begin(), indices.end(), 0U);
  return indices;
}

}  // namespace

TEST("rotate_and_store sums, norms and rotates q and k and fills only the slots of its rows") {
  uint64_t stream = 600;
  for (const Half dtype : {Half::kBFloat16, Half::kFloat16}) {
    for (const RotateShape& shape : kShapes) {
      for (const uint32_t slices : {1U, 2U, 3U, 4U}) {
        for (const uint32_t rows : {1U, 23U}) {
          const RotateInputs in = rotate_inputs(++stream, dtype, shape, rows, slices);
          const RotatePlacement placement = {every_row(rows), stream, shape.block_size, 0};
          expect_right(in, placement, run_rotate(in, placement));
        }
      }
    }
  }
}

TEST(
    "rotate_and_store gives a row the same bits alone, elsewhere, in other blocks and in unaligned buffers") {
  uint64_t stream = 900;
  for (const Half dtype : {Half::kBFloat16, Half::kFloat16}) {
    for (const RotateShape& shape : kShapes) {
      for (const uint32_t slices : {1U, 2U, 4U}) {
        const uint32_t rows = 11;
        const RotateInputs in = rotate_inputs(++stream, dtype, shape, rows, slices);
        const RotatePlacement together = {every_row(rows), 5, shape.block_size, 0};
        const RotateRun all = run_rotate(in, together);
        RotatePlacement reversed = {every_row(rows), 6, shape.block_size == 8 ? 64U : 8U, 0};
        std::reverse(reversed.rows.begin(), reversed.rows.end());
        const RotateRun backwards = run_rotate(in, reversed);
        const RotatePlacement shifted = {every_row(rows), 7, shape.block_size, 1};
        const RotateRun unaligned = run_rotate(in, shifted);
        for (uint32_t row = 0; row < rows; ++row) {
          const std::string what = "row " + std::to_string(row) + " of " + in.name();
          const std::vector<uint16_t> expected = bits_of_row(in, together, all, row);
          expect_same_bits(bits_of_row(in, reversed, backwards, rows - 1 - row), expected,
                           "elsewhere, " + what);
          expect_same_bits(bits_of_row(in, shifted, unaligned, row), expected, "unaligned, " + what);
          if (row % 4 != 0) continue;
          const RotatePlacement single = {{row}, 8, 32, 0};
          expect_same_bits(bits_of_row(in, single, run_rotate(in, single), 0), expected, "alone, " + what);
        }
      }
    }
  }
}

TEST("rotate_and_store refuses head sizes and block sizes that it has no layout for") {
  RotateArgs args;
  const float partial = 0.0F;
  args.qkv.partials = &partial;
  args.rows = 0;
  args.head_dim = 64;
  args.head_dim_padded = 64;
  args.block_size = 16;
  rotate_and_store(args, nullptr);  // no rows: nothing launched, nothing refused
  const auto refuses = [](const RotateArgs& wrong) {
    try {
      rotate_and_store(wrong, nullptr);
    } catch (const std::logic_error&) {
      return true;
    }
    return false;
  };
  RotateArgs odd = args;
  odd.head_dim = 7;
  RotateArgs wide = args;
  wide.head_dim = 80;
  RotateArgs padded = args;
  padded.head_dim_padded = 96;
  RotateArgs blocks = args;
  blocks.block_size = 24;
  EXPECT(refuses(odd) && refuses(wide) && refuses(padded) && refuses(blocks));
}

}  // namespace kadenz::cuda::rows_test
