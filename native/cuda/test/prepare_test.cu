// A step's bookkeeping on the device against plain loops: equal element for element.
#include "cuda/kernels/prepare.h"

#include <numeric>

#include "cuda/test/rows_device.cuh"
#include "test/check.h"
#include "test/random.h"

namespace kadenz::cuda::rows_test {
namespace {

using ::kadenz::test::Random;

struct Step {
  std::vector<RowInput> input;
  std::vector<int32_t> sampled;
  std::vector<int32_t> tables;
  uint32_t table_stride;
  uint32_t block_size;
};

struct Prepared {
  std::vector<int32_t> token_ids, positions;
  std::vector<int64_t> kv_slots;
  std::vector<uint8_t> poisoned;
};

// What rows should become, row by row with the failure carried along.
Prepared expected_rows(const Step& step) {
  Prepared out;
  bool carried = false;
  for (size_t row = 0; row < step.input.size(); ++row) {
    const RowInput& input = step.input[row];
    if (input.position < 0) {
      out.token_ids.push_back(0);
      out.positions.push_back(-1);
      out.kv_slots.push_back(-1);
      out.poisoned.push_back(0);
      carried = false;
      continue;
    }
    const bool first = row == 0 || step.input[row - 1].position < 0 || step.input[row - 1].slot != input.slot;
    if (first) carried = false;
    int32_t token = input.token;
    if (token < 0) token = step.sampled[static_cast<size_t>(-1 - static_cast<int64_t>(token))];
    if (token < 0) {
      token = 0;
      carried = true;
    }
    const uint32_t index = static_cast<uint32_t>(input.position) / step.block_size;
    const int32_t block = index < step.table_stride
                              ? step.tables[static_cast<size_t>(input.slot) * step.table_stride + index]
                              : -1;
    if (block < 0) carried = true;
    out.token_ids.push_back(token);
    out.positions.push_back(block < 0 ? -1 : input.position);
    out.kv_slots.push_back(block < 0 ? -1
                                     : static_cast<int64_t>(block) * step.block_size +
                                           static_cast<uint32_t>(input.position) % step.block_size);
    out.poisoned.push_back(carried ? 1 : 0);
  }
  return out;
}

Prepared run_prepare(const Step& step) {
  const size_t rows = step.input.size();
  const DeviceArray<RowInput> input(step.input);
  const DeviceArray<int32_t> sampled(step.sampled);
  const DeviceArray<int32_t> tables(step.tables);
  const DeviceArray<int32_t> token_ids(rows);
  const DeviceArray<int32_t> positions(rows);
  const DeviceArray<int64_t> kv_slots(rows);
  const DeviceArray<uint8_t> poisoned(rows);
  prepare_rows({input.data(), static_cast<uint32_t>(rows), sampled.data(), tables.data(), step.table_stride,
                step.block_size},
               {token_ids.data(), positions.data(), kv_slots.data(), poisoned.data()}, nullptr);
  return {token_ids.read("token_ids"), positions.read("positions"), kv_slots.read("kv_slots"),
          poisoned.read("poisoned")};
}

void expect_right(const Step& step, const std::string& what) {
  const Prepared got = run_prepare(step);
  const Prepared expected = expected_rows(step);
  expect_same_bits(got.token_ids, expected.token_ids, "token_ids, " + what);
  expect_same_bits(got.positions, expected.positions, "positions, " + what);
  expect_same_bits(got.kv_slots, expected.kv_slots, "kv_slots, " + what);
  expect_same_bits(got.poisoned, expected.poisoned, "poisoned, " + what);
}

// Runs of rows of random lengths, one slot each, with samples, failed samples and padding strewn in.
Step random_step(Random& random, uint32_t rows, uint32_t longest_run) {
  const uint32_t block_size = random.one_of<uint32_t>({8, 16, 32, 64});
  const uint32_t slots = 97;
  const uint32_t table_stride = 40;
  Step step = {
      {}, std::vector<int32_t>(64), std::vector<int32_t>(slots * table_stride), table_stride, block_size};
  for (int32_t& token : step.sampled) {
    token = random.bits() % 4 == 0 ? -1 : static_cast<int32_t>(random.integer(0, 150000));
  }
  for (int32_t& block : step.tables) {
    block = random.bits() % 200 == 0 ? -1 : static_cast<int32_t>(random.integer(0, 2000000));
  }
  int32_t slot = 0;
  while (step.input.size() < rows) {
    slot = (slot + static_cast<int32_t>(random.integer(1, 50))) % static_cast<int32_t>(slots);
    if (random.bits() % 6 == 0) {
      step.input.push_back({static_cast<int32_t>(random.integer(-9, 9)), slot, -1});
      continue;
    }
    const int64_t length = random.integer(1, longest_run);
    int32_t position = static_cast<int32_t>(random.integer(0, table_stride * block_size - longest_run));
    for (int64_t i = 0; i < length && step.input.size() < rows; ++i) {
      const bool refers = random.bits() % (i == 0 ? 2 : 40) == 0;
      const int32_t token =
          static_cast<int32_t>(refers ? -1 - random.integer(0, 63) : random.integer(0, 150000));
      step.input.push_back({token, slot, position++});
    }
  }
  return step;
}

}  // namespace

TEST("prepare_rows finds each row's token and slot, and poisons a sequence from its failed sample on") {
  Random random(700);
  for (const uint32_t rows : {1U, 2U, 31U, 33U, 256U, 1024U, 1025U, 5000U}) {
    for (const uint32_t longest_run : {1U, 5U, 200U}) {
      expect_right(random_step(random, rows, longest_run),
                   "rows " + std::to_string(rows) + " runs up to " + std::to_string(longest_run));
    }
  }
}

TEST("prepare_rows poisons a whole chunk behind one failed sample, and neither its neighbour nor padding") {
  Step step = {{}, {-1, 7}, std::vector<int32_t>(3 * 300), 300, 16};
  std::iota(step.tables.begin(), step.tables.end(), 0);
  step.input.push_back({-2, 0, 40});
  for (int32_t i = 0; i < 3000; ++i) step.input.push_back({i == 0 ? -1 : i, 1, i});
  step.input.push_back({-1, 1, -1});
  step.input.push_back({5, 2, 0});
  expect_right(step, "one long chunk");
  const Prepared got = run_prepare(step);
  EXPECT(got.poisoned.front() == 0 && got.token_ids.front() == 7);
  EXPECT(got.poisoned[1] == 1 && got.token_ids[1] == 0 && got.poisoned[3000] == 1);
  EXPECT(got.poisoned[3001] == 0 && got.positions[3001] == -1 && got.poisoned[3002] == 0);
}

TEST("prepare_rows turns a row without a block into poisoned padding, so that it writes over nobody") {
  const Step step = {
      {{3, 0, 15}, {4, 0, 16}, {5, 0, 17}, {6, 1, 4000}, {8, 1, 2}}, {0}, {9, -1, 11, 12}, 2, 16};
  const Prepared got = run_prepare(step);
  expect_same_bits(got.positions, {15, -1, -1, -1, 2}, "positions");
  expect_same_bits(got.kv_slots, {9 * 16 + 15, -1, -1, -1, 11 * 16 + 2}, "kv_slots");
  expect_same_bits(got.poisoned, {0, 1, 1, 1, 1}, "poisoned");
}

TEST("update_tables changes the named entries and no other") {
  Random random(720);
  for (const uint32_t count : {1U, 255U, 257U, 3000U}) {
    const uint32_t slots = 64;
    const uint32_t stride = 130;
    std::vector<int32_t> tables(slots * stride, -1);
    std::vector<uint32_t> entries(tables.size());
    std::iota(entries.begin(), entries.end(), 0U);
    for (size_t i = entries.size(); i > 1; --i) std::swap(entries[i - 1], entries[random.bits() % i]);
    const DeviceArray<int32_t> device_tables(tables);
    std::vector<TableUpdate> updates;
    for (uint32_t i = 0; i < count; ++i) {
      const uint32_t block = static_cast<uint32_t>(random.integer(0, 1 << 30));
      updates.push_back({entries[i] / stride, entries[i] % stride, block});
      tables[entries[i]] = static_cast<int32_t>(block);
    }
    const DeviceArray<TableUpdate> device_updates(updates);
    update_tables(device_updates.data(), count, device_tables.data(), stride, nullptr);
    expect_same_bits(device_tables.read("tables"), tables, "count " + std::to_string(count));
  }
}

TEST("copy_blocks copies whole blocks in every layer and touches nothing else") {
  Random random(730);
  for (const uint64_t block_bytes :
       {uint64_t{16}, uint64_t{2048}, uint64_t{16384}, uint64_t{65536}, uint64_t{40976}}) {
    for (const uint32_t pairs_count : {1U, 7U}) {
      const uint32_t layers = 3;
      const uint32_t blocks = 19;
      const uint64_t layer_bytes = blocks * block_bytes + 48;
      std::vector<uint64_t> cache(layers * layer_bytes / 8);
      for (uint64_t& word : cache) word = random.bits();
      std::vector<uint32_t> order(blocks);
      std::iota(order.begin(), order.end(), 0U);
      for (size_t i = blocks; i > 1; --i) std::swap(order[i - 1], order[random.bits() % i]);
      std::vector<BlockCopy> pairs;  // one source serves several targets
      for (uint32_t i = 0; i < pairs_count; ++i) pairs.push_back({order[i / 2], order[blocks - 1 - i]});
      const DeviceArray<uint64_t> device_cache(cache);
      const DeviceArray<BlockCopy> device_pairs(pairs);
      copy_blocks(device_cache.data(), layers, layer_bytes, block_bytes, device_pairs.data(), pairs_count,
                  nullptr);
      for (uint32_t layer = 0; layer < layers; ++layer) {
        for (const BlockCopy& pair : pairs) {
          char* base = reinterpret_cast<char*>(cache.data()) + layer * layer_bytes;
          std::memcpy(base + pair.target * block_bytes, base + pair.source * block_bytes, block_bytes);
        }
      }
      expect_same_bits(device_cache.read("copy_blocks"), cache, "block_bytes " + std::to_string(block_bytes));
    }
  }
}

}  // namespace kadenz::cuda::rows_test
