// A step's integers, read back from where the kernels find them.
#include "cuda/step_inputs.h"

#include <cstring>
#include <string>
#include <vector>

#include "cuda/test/rows_device.cuh"
#include "test/check.h"
#include "test/random.h"

namespace kadenz::cuda::rows_test {
namespace {

using ::kadenz::test::Random;

template <typename T>
std::vector<T> random_values(Random& random, int64_t most) {
  std::vector<T> values(static_cast<size_t>(random.integer(0, most)));
  for (T& value : values) {
    for (size_t i = 0; i < sizeof(T); ++i) reinterpret_cast<uint8_t*>(&value)[i] = static_cast<uint8_t>(random.bits());
  }
  return values;
}

// Byte for byte
template <typename T>
void expect_there(const T* device, const std::vector<T>& expected, const std::string& what) {
  const size_t bytes = expected.size() * sizeof(T);
  std::vector<uint8_t> got(bytes), sent(bytes);
  if (bytes > 0) {
    check(cudaMemcpy(got.data(), device, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
    std::memcpy(sent.data(), expected.data(), bytes);
  }
  expect_same_bits(got, sent, what + " of " + std::to_string(sizeof(T)) + " bytes each, by byte");
}

}  // namespace

TEST("a step's inputs lie where its kernels read them, step after step, whatever the steps before held") {
  Random random(1300);
  const StepInputs::Sizes most{40, 2, 70, 300};
  StepInputs inputs(most, nullptr);
  StepUpload upload(nullptr);
  for (uint32_t step = 0; step < 3 * kStepsInFlight; ++step) {
    const std::string what = "step " + std::to_string(step) + ", ";
    const int64_t size = step % 5 == 3 ? 9000 : 40;  // the larger ones need a larger buffer
    std::vector<int32_t> token_ids;
    std::vector<SequenceSpan> spans;
    std::vector<RowInput> rows;
    for (int64_t left = random.integer(0, 40); left > 0; --left) {
      const uint32_t num_rows = static_cast<uint32_t>(random.integer(1, size / 40));
      const uint32_t start = static_cast<uint32_t>(random.integer(0, 5000));
      const uint32_t slot = static_cast<uint32_t>(random.integer(0, 39));
      spans.push_back({static_cast<uint32_t>(token_ids.size()), num_rows, start, nullptr, 0, slot});
      for (uint32_t i = 0; i < num_rows; ++i) {
        token_ids.push_back(static_cast<int32_t>(random.integer(-40, 150000)));
        rows.push_back({token_ids.back(), static_cast<int32_t>(slot), static_cast<int32_t>(start + i)});
      }
    }
    const uint32_t run_rows = static_cast<uint32_t>(token_ids.size()) + static_cast<uint32_t>(random.integer(0, 9));
    rows.resize(run_rows, RowInput{0, 0, -1});
    const auto copies = random_values<BlockCopy>(random, 5);
    const auto output_rows = random_values<uint32_t>(random, size);
    const auto updates = random_values<TableUpdate>(random, size);
    const auto sequences = random_values<AttentionSequence>(random, 40);
    const auto block_items = random_values<BlockItem>(random, size);
    const std::vector<uint32_t> offsets[] = {random_values<uint32_t>(random, 70), random_values<uint32_t>(random, 70)};
    const std::vector<SplitItem> items[] = {random_values<SplitItem>(random, 300),
                                            random_values<SplitItem>(random, 300)};
    const AttentionWork work{sequences, {{offsets[0], items[0]}, {offsets[1], items[1]}}, block_items};
    inputs.write({token_ids, spans, copies, output_rows, updates}, run_rows, work, upload);
    upload.send();
    inputs.end_step();
    check(cudaDeviceSynchronize(), "upload");
    expect_there(inputs.rows(), rows, what + "rows");
    expect_there(inputs.copies(), copies, what + "copies");
    expect_there(inputs.output_rows(), output_rows, what + "output rows");
    expect_there(inputs.table_updates(), updates, what + "table updates");
    expect_there(inputs.block_items(), block_items, what + "block items");
    expect_there(inputs.sequences(), sequences, what + "sequences");
    for (size_t list = 0; list < 2; ++list) {
      expect_there(inputs.split_offsets(list), offsets[list], what + "offsets of list " + std::to_string(list));
      expect_there(inputs.split_items(list), items[list], what + "items of list " + std::to_string(list));
    }
  }
}

TEST("a step with more attention items than the device was set up for is refused") {
  StepInputs inputs({4, 1, 8, 16}, nullptr);
  StepUpload upload(nullptr);
  const std::vector<SplitItem> items(17);
  const std::vector<uint32_t> offsets(8);
  const AttentionWork work{{}, {{offsets, items}}, {}};
  EXPECT(test::code_of([&] { inputs.write({}, 1, work, upload); }) == "step_failed");
}

}  // namespace kadenz::cuda::rows_test
