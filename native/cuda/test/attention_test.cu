// Attention against a naive twin in double, and its bits: a row is the same however its sequence was cut and
// whoever else is in the step.
#include "cuda/test/attention_world.cuh"
#include "test/check.h"

namespace kadenz::cuda::attention_test {
namespace {

std::string text_of(const AttentionSequence& sequence) {
  return "slot " + std::to_string(sequence.slot) + " start " + std::to_string(sequence.start_position) +
         " rows " + std::to_string(sequence.num_rows);
}

// Relative error of some rows and heads of each sequence.
void expect_twin(World& world, const std::vector<AttentionSequence>& sequences,
                 const std::vector<uint16_t>& bits, Random& random) {
  const Shape& shape = world.shape();
  const double limit = shape.dtype == Half::kBFloat16 ? 6e-3 : 1e-3;
  for (const AttentionSequence& sequence : sequences) {
    std::vector<int32_t> rows = {0, sequence.num_rows - 1};
    for (int i = 0; i < 4; ++i)
      rows.push_back(static_cast<int32_t>(random.integer(0, sequence.num_rows - 1)));
    for (const int32_t row : rows) {
      const uint32_t head = static_cast<uint32_t>(random.integer(0, shape.num_heads() - 1));
      const std::vector<double> expected = world.twin(sequence.slot, sequence.start_position + row, head);
      const size_t first =
          (static_cast<size_t>(sequence.first_row + row) * shape.num_heads() + head) * shape.head_dim;
      double error = 0;
      double norm = 0;
      for (uint32_t d = 0; d < shape.head_dim; ++d) {
        const double got = static_cast<double>(rows_test::widen_half(shape.dtype, bits[first + d]));
        error += (got - expected[d]) * (got - expected[d]);
        norm += expected[d] * expected[d];
      }
      const double relative = std::sqrt(error / norm);
      EXPECT_NOTE(relative <= limit, "relative error " + std::to_string(relative) + " in row " +
                                         std::to_string(row) + " head " + std::to_string(head) + " of " +
                                         text_of(sequence) + ", first got " +
                                         std::to_string(rows_test::widen_half(shape.dtype, bits[first])) +
                                         " expected " + std::to_string(expected[0]) + "; " + shape.text());
    }
    // Every element of every row is a number.
    const size_t row_elements = static_cast<size_t>(shape.num_heads()) * shape.head_dim;
    for (size_t i = 0; i < row_elements * static_cast<size_t>(sequence.num_rows); ++i) {
      const float value = rows_test::widen_half(
          shape.dtype, bits[static_cast<size_t>(sequence.first_row) * row_elements + i]);
      EXPECT_NOTE(std::isfinite(value), "element " + std::to_string(i) + " of " + text_of(sequence) +
                                            " is not finite; " + shape.text());
    }
  }
}

// One mixed step over all lengths, the cache NaN wherever no row may look.
void check_mixed_step(const Shape& shape, uint64_t stream) {
  const std::vector<int32_t> lengths = {1, 63, 64, 65, 255, 256, 257, 1000, 4100, 1000, 257, 65, 300};
  World world(shape, lengths, stream);
  Random random(stream + 1000);
  std::vector<AttentionSequence> sequences;
  for (size_t slot = 0; slot < lengths.size(); ++slot) {
    const int32_t wanted = random.one_of({1, 1, 2, 16, 40, 300});
    const int32_t num_rows = std::min(wanted, lengths[slot]);
    const int32_t start = lengths[slot] - num_rows;
    sequences.push_back({0, num_rows, start, static_cast<int32_t>(slot)});
    const int32_t window = static_cast<int32_t>(shape.window);
    world.write(slot, window > 0 ? std::max(0, start - window + 1) : 0, lengths[slot]);
  }
  const std::vector<uint16_t> bits = world.run(sequences);
  expect_twin(world, sequences, bits, random);
  rows_test::expect_same_bits(world.run(sequences, 0), bits,
                              "the same step again, planned without a window, " + shape.text());
}

void expect_rows(World& world, std::vector<AttentionSequence> sequences, int32_t slot,
                 const std::vector<uint16_t>& expected, const std::string& what,
                 SplitWay way = SplitWay::kFastest) {
  const std::vector<uint16_t> bits = world.run(sequences, world.shape().window, way);
  const size_t row_elements = static_cast<size_t>(world.shape().num_heads()) * world.shape().head_dim;
  for (const AttentionSequence& sequence : sequences) {
    if (sequence.slot != slot) continue;
    const auto rows = [&](const std::vector<uint16_t>& from, int32_t first) {
      const auto begin = from.begin() + static_cast<int64_t>(static_cast<size_t>(first) * row_elements);
      return std::vector<uint16_t>(
          begin, begin + static_cast<int64_t>(static_cast<size_t>(sequence.num_rows) * row_elements));
    };
    rows_test::expect_same_bits(rows(bits, sequence.first_row), rows(expected, sequence.start_position),
                                what + ", " + text_of(sequence) + ", " + world.shape().text());
  }
}

SplitWay way_of(int i) {
  constexpr SplitWay kWays[] = {SplitWay::kFastest, SplitWay::kWhole, SplitWay::kCut};
  return kWays[i % 3];
}

// Every row of slot 0 by one prefill, then in other ways.
void check_bits(const Shape& shape, int32_t length, uint64_t stream) {
  std::vector<int32_t> lengths = {length};
  Random random(stream + 2000);
  for (int i = 0; i < 200; ++i) lengths.push_back(static_cast<int32_t>(random.integer(1, 90)));
  lengths.push_back(2500);
  World world(shape, lengths, stream);
  world.write_all();
  std::vector<AttentionSequence> whole = {{0, length, 0, 0}};
  const std::vector<uint16_t> expected = world.run(whole);
  expect_twin(world, whole, expected, random);

  for (const int32_t chunk : {16, 64, 512, 1, 2, 37}) {
    // Each chunk as a sequence of its own, all in one step.
    std::vector<AttentionSequence> chunks;
    for (int32_t start = 0; start < length; start += chunk) {
      chunks.push_back({0, std::min(chunk, length - start), start, 0});
    }
    expect_rows(world, chunks, 0, expected, "chunks of " + std::to_string(chunk));
  }
  // Decode steps of this sequence alone: its chunks are spread over workers and folded.
  for (int i = 0; i < 24; ++i) {
    const int32_t position = i == 0 ? length - 1 : static_cast<int32_t>(random.integer(0, length - 1));
    expect_rows(world, {{0, 1, position, 0}}, 0, expected, "decode alone", way_of(i));
  }
  // Among others of all kinds, itself decoding or in the middle of its prompt.
  for (const int32_t num_rows : {1, 2, 90}) {
    std::vector<AttentionSequence> others;
    for (size_t slot = 1; slot < lengths.size(); ++slot) {
      const int32_t rows = std::min(random.one_of({1, 1, 1, 3, 50}), lengths[slot]);
      others.push_back({0, rows, lengths[slot] - rows, static_cast<int32_t>(slot)});
      if (slot == 77) others.push_back({0, num_rows, length - num_rows - 5, 0});
    }
    for (int way = 0; way < 3; ++way) {
      expect_rows(world, others, 0, expected, "among 201 others", way_of(way));
    }
  }
}

}  // namespace

TEST(
    "attention agrees with a naive twin for every group, head dimension, block size, window and length, "
    "beside NaN") {
  constexpr Half kBf = Half::kBFloat16;
  constexpr Half kF = Half::kFloat16;
  const Shape shapes[] = {
      {kBf, 2, 1, 32, 8, 0},     {kF, 1, 4, 32, 16, 100}, {kBf, 2, 6, 64, 16, 0},    {kF, 2, 7, 64, 64, 0},
      {kBf, 1, 8, 64, 8, 100},   {kF, 1, 16, 64, 32, 0},  {kBf, 2, 1, 128, 16, 100}, {kF, 2, 4, 128, 16, 0},
      {kBf, 1, 6, 128, 64, 100}, {kBf, 2, 7, 128, 16, 0}, {kF, 1, 8, 128, 8, 100},   {kBf, 1, 16, 128, 16, 0},
      {kBf, 3, 2, 80, 32, 1},    {kF, 1, 20, 6, 16, 300}, {kBf, 1, 5, 126, 16, 64},
  };
  uint64_t stream = 700;
  for (const Shape& shape : shapes) check_mixed_step(shape, stream++);
}

TEST("a row's attention has the same bits by one prefill, by chunks, by decode steps and among 200 others") {
  check_bits({Half::kBFloat16, 2, 7, 128, 16, 0}, 1100, 801);
  check_bits({Half::kFloat16, 1, 4, 128, 8, 100}, 700, 802);
  check_bits({Half::kBFloat16, 2, 6, 64, 64, 0}, 600, 803);
  check_bits({Half::kFloat16, 1, 16, 32, 16, 300}, 650, 804);
  check_bits({Half::kBFloat16, 1, 1, 128, 32, 0}, 1100, 805);
}

TEST("a long sequence's rows have the same bits whether its chunks are walked by one worker or by many") {
  const Shape shapes[] = {{Half::kBFloat16, 2, 4, 128, 16, 0},
                          {Half::kFloat16, 1, 16, 128, 16, 0},
                          {Half::kBFloat16, 2, 7, 64, 32, 0},
                          {Half::kFloat16, 1, 12, 64, 16, 5000}};
  uint64_t stream = 831;
  for (const Shape& shape : shapes) {
    constexpr int32_t kLength = 9300;
    World world(shape, {kLength}, stream++);
    world.write_all();
    // Alone, a run ends its worker's list; of many, most runs have others behind them.
    for (const int count : {1, 20}) {
      std::vector<AttentionSequence> sequences;
      for (int i = 0; i < count; ++i) sequences.push_back({0, 1, kLength - 1 - 67 * i, 0});
      const std::vector<uint16_t> whole = world.run(sequences, shape.window, SplitWay::kWhole);
      EXPECT(world.plan().num_partials() == 0);
      const std::vector<uint16_t> cut = world.run(sequences, shape.window, SplitWay::kCut);
      EXPECT(world.plan().num_partials() > 0);
      rows_test::expect_same_bits(cut, whole, std::to_string(count) + " sequences, " + shape.text());
    }
  }
}

TEST("a row's attention does not depend on what the cache holds behind its own position") {
  const Shape shape = {Half::kBFloat16, 2, 4, 128, 16, 0};
  World world(shape, {600}, 811);
  world.write(0, 0, 301);
  std::vector<AttentionSequence> sequences = {{0, 1, 300, 0}};
  const std::vector<uint16_t> decoded = world.run(sequences);  // NaN behind
  world.write(0, 301, 600);
  world.forget_device_cache();
  sequences = {{0, 1, 300, 0}};
  rows_test::expect_same_bits(world.run(sequences), decoded, "decode with keys behind");
  std::vector<AttentionSequence> prefill = {{0, 600, 0, 0}};
  const std::vector<uint16_t> all = world.run(prefill);
  const size_t row_elements = static_cast<size_t>(shape.num_heads()) * shape.head_dim;
  const auto begin = all.begin() + static_cast<int64_t>(300 * row_elements);
  rows_test::expect_same_bits(std::vector<uint16_t>(begin, begin + static_cast<int64_t>(row_elements)),
                              decoded, "prefill");
}

TEST(
    "the plan gives each tile of each pair to one worker, partials without gaps, and shares within a chunk, "
    "or whole pairs and shares within the longest") {
  Random random(820);
  for (int round = 0; round < 300; ++round) {
    const uint32_t num_kv_heads = static_cast<uint32_t>(random.integer(1, 8));
    const uint32_t group = static_cast<uint32_t>(random.one_of({1, 4, 7, 16}));
    const uint32_t window = static_cast<uint32_t>(random.one_of({0, 0, 1, 100, 5000}));
    const AttentionLimits limits = {64,           4096,
                                    40000,        num_kv_heads * group,
                                    num_kv_heads, static_cast<uint32_t>(random.one_of({1, 5, 264}))};
    AttentionPlan plan(limits);
    std::vector<AttentionSequence> sequences;
    const int64_t count = random.integer(0, 64);
    const int64_t longest = random.one_of({300, 3000, 39000});
    int32_t rows = 0;
    for (int32_t i = 0; i < count; ++i) {
      const int32_t num_rows = static_cast<int32_t>(random.one_of({1, 1, 1, 2, 60}));
      sequences.push_back({rows, num_rows, static_cast<int32_t>(random.integer(0, longest)), i});
      rows += num_rows;
    }
    const SplitWay way = way_of(round);
    plan.make(sequences, window, way);
    const std::span<const SplitItem> items = plan.split_items();
    const std::span<const uint32_t> offsets = plan.split_offsets();
    EXPECT(offsets.size() == limits.num_workers + 1 && offsets.front() == 0 &&
           offsets.back() == items.size());

    int64_t total = 0;
    int64_t total_chunks = 0;
    int64_t longest_pair = 0;
    size_t at = 0;
    std::vector<int> partial_uses(plan.num_partials(), 0);
    for (const AttentionSequence& sequence : sequences) {
      if (sequence.num_rows * static_cast<int32_t>(group) > 16) continue;
      const int32_t low =
          window == 0 ? 0 : std::max<int32_t>(0, sequence.start_position - static_cast<int32_t>(window) + 1);
      const int32_t end = (sequence.start_position + sequence.num_rows - 1) / 64 + 1;
      longest_pair = std::max<int64_t>(longest_pair, end - low / 64);
      for (uint32_t head = 0; head < num_kv_heads; ++head) {
        int32_t tile = low / 64;
        total_chunks += (end - 1) / 4 - tile / 4 + 1;
        int32_t runs = 0;
        int32_t offset = 0;
        const size_t first = at;
        while (tile < end) {
          EXPECT(at < items.size());
          const SplitItem& item = items[at++];
          EXPECT(item.slot == sequence.slot && item.kv_head == head && item.first_tile == tile);
          EXPECT(item.end_tile > tile && (item.end_tile == end || item.end_tile % 4 == 0));
          EXPECT(item.partial_offset == offset && item.partial == items[first].partial);
          offset += runs == 0 ? 1 : (item.end_tile - 1) / 4 - item.first_tile / 4 + 1;
          total += item.end_tile - tile;
          tile = item.end_tile;
          ++runs;
        }
        EXPECT(tile == end && items[first].num_runs == runs && items[first].num_partials == offset);
        for (int32_t i = 0; runs > 1 && i < offset; ++i) {
          ++partial_uses[static_cast<size_t>(items[first].partial + i)];
        }
      }
    }
    EXPECT(at == items.size());
    EXPECT(std::ranges::all_of(partial_uses, [](int uses) { return uses == 1; }));
    const bool partials_sufficed = plan.num_partials() + 700 < attention_bounds(limits).partials;
    EXPECT(way != SplitWay::kWhole || plan.num_partials() == 0);
    // Of whole pairs, no worker has more than an even share and the longest pair; of cut ones no more than a
    // chunk above the share, of which there are as many as workers or chunks.
    const int64_t shares = std::clamp<int64_t>(total_chunks, 1, limits.num_workers);
    const int64_t cut_limit = total / shares + 4;
    const int64_t whole_limit = total / limits.num_workers + 1 + longest_pair;
    const int64_t limit = way == SplitWay::kCut     ? cut_limit
                          : way == SplitWay::kWhole ? whole_limit
                                                    : std::max(cut_limit, whole_limit);
    for (uint32_t worker = 0; worker < limits.num_workers; ++worker) {
      EXPECT(offsets[worker] <= offsets[worker + 1]);
      int64_t tiles = 0;
      for (uint32_t i = offsets[worker]; i < offsets[worker + 1]; ++i)
        tiles += items[i].end_tile - items[i].first_tile;
      EXPECT_NOTE(!partials_sufficed || tiles <= limit,
                  "worker " + std::to_string(worker) + " has " + std::to_string(tiles) + " of " +
                      std::to_string(total) + " tiles");
    }
  }
}

}  // namespace kadenz::cuda::attention_test
