// A paged cache, its sequences and queries for the attention tests, and a naive twin in double.
#pragma once

#include <algorithm>
#include <memory>
#include <numeric>
#include <span>

#include "cuda/attention_plan.h"
#include "cuda/kernels/attention.h"
#include "cuda/test/rows_device.cuh"
#include "test/random.h"

namespace kadenz::cuda::attention_test {

using ::kadenz::test::Random;
using rows_test::DeviceArray;

struct Shape {
  Half dtype;
  uint32_t num_kv_heads, group, head_dim, block_size, window;

  uint32_t num_heads() const { return num_kv_heads * group; }
  uint32_t padded() const { return head_dim <= 64 ? 64 : 128; }
  std::string text() const {
    return std::string(rows_test::name_of(dtype)) + " kv_heads " + std::to_string(num_kv_heads) + " group " +
           std::to_string(group) + " head_dim " + std::to_string(head_dim) + " block_size " +
           std::to_string(block_size) + " window " + std::to_string(window);
  }
};

inline uint32_t num_multiprocessors() {
  int device = 0;
  int count = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
  return static_cast<uint32_t>(count);
}

class World {
 public:
  static constexpr uint32_t kMaxRows = 8192;

  World(const Shape& shape, const std::vector<int32_t>& lengths, uint64_t stream)
      : shape_(shape), random_(stream), lengths_(lengths), keys_(lengths.size()), values_(lengths.size()) {
    const int32_t longest = *std::ranges::max_element(lengths);
    stride_ = (longest + shape.block_size - 1) / shape.block_size + 1;
    uint32_t num_blocks = 0;
    for (const int32_t length : lengths) num_blocks += (length + shape.block_size - 1) / shape.block_size;
    std::vector<int32_t> blocks(num_blocks);
    std::iota(blocks.begin(), blocks.end(), 0);
    for (size_t i = blocks.size(); i > 1; --i) {
      std::swap(blocks[i - 1], blocks[static_cast<size_t>(random_.integer(0, static_cast<int64_t>(i) - 1))]);
    }
    blocks_.assign(lengths.size() * stride_, -1);
    size_t next = 0;
    for (size_t slot = 0; slot < lengths.size(); ++slot) {
      for (uint32_t i = 0; i * shape.block_size < static_cast<uint32_t>(lengths[slot]); ++i) {
        blocks_[slot * stride_ + i] = blocks[next++];
      }
    }
    tables_.assign(blocks_.size(), -1);
    cache_.assign(
        static_cast<size_t>(num_blocks) * 2 * shape.num_kv_heads * shape.block_size * shape.padded(),
        0xffff);  // NaN in both formats
    for (size_t slot = 0; slot < lengths.size(); ++slot) {
      keys_[slot] = halves(static_cast<size_t>(lengths[slot]) * shape.num_kv_heads * shape.head_dim, 1.0F);
      values_[slot] = halves(keys_[slot].size(), 1.0F);
    }
    queries_ = halves(static_cast<size_t>(kPool) * shape.head_dim, 2.0F);
    limits_ = {
        kMaxRows,          kMaxRows,           static_cast<uint32_t>(longest),
        shape.num_heads(), shape.num_kv_heads, attention_workers(num_multiprocessors(), shape.padded())};
    plan_ = AttentionPlan(limits_);
    prepare_attention();
  }

  const Shape& shape() const { return shape_; }
  int32_t length(size_t slot) const { return lengths_[slot]; }

  // Positions first .. end - 1 of the slot get their keys and values, and their blocks get known.
  void write(size_t slot, int32_t first, int32_t end) {
    for (int32_t position = first; position < end; ++position) {
      const size_t entry = slot * stride_ + static_cast<size_t>(position) / shape_.block_size;
      tables_[entry] = blocks_[entry];
      for (uint32_t head = 0; head < shape_.num_kv_heads; ++head) {
        const size_t from = (static_cast<size_t>(position) * shape_.num_kv_heads + head) * shape_.head_dim;
        for (uint32_t half = 0; half < 2; ++half) {
          const size_t to = (((static_cast<size_t>(tables_[entry]) * 2 + half) * shape_.num_kv_heads + head) *
                                 shape_.block_size +
                             static_cast<size_t>(position) % shape_.block_size) *
                            shape_.padded();
          std::fill_n(cache_.begin() + static_cast<int64_t>(to), shape_.padded(), uint16_t{0});
          const std::vector<float>& source = half == 0 ? keys_[slot] : values_[slot];
          for (uint32_t d = 0; d < shape_.head_dim; ++d) {
            cache_[to + d] = rows_test::round_half(shape_.dtype, source[from + d]);
          }
        }
      }
    }
  }
  void write_all() {
    for (size_t slot = 0; slot < lengths_.size(); ++slot) write(slot, 0, lengths_[slot]);
  }

  // Runs one step (first_row of the sequences is set here) and some padding rows, checks that nothing but the
  // sequences' rows was written; gives their bits.
  std::vector<uint16_t> run(std::vector<AttentionSequence>& sequences) {
    return run(sequences, shape_.window);
  }
  std::vector<uint16_t> run(std::vector<AttentionSequence>& sequences, uint32_t plan_window,
                            SplitWay way = SplitWay::kFastest) {
    constexpr size_t kPaddingRows = 3;
    int32_t rows = 0;
    for (AttentionSequence& sequence : sequences) {
      sequence.first_row = rows;
      rows += sequence.num_rows;
    }
    const size_t all_rows = static_cast<size_t>(rows) + kPaddingRows;
    std::vector<uint16_t> q(all_rows * shape_.num_heads() * shape_.padded(), 0);
    for (const AttentionSequence& sequence : sequences) {
      for (int32_t i = 0; i < sequence.num_rows; ++i) {
        for (uint32_t head = 0; head < shape_.num_heads(); ++head) {
          const float* source = query(sequence.slot, sequence.start_position + i, head);
          uint16_t* target =
              &q[(static_cast<size_t>(sequence.first_row + i) * shape_.num_heads() + head) * shape_.padded()];
          for (uint32_t d = 0; d < shape_.head_dim; ++d) {
            target[d] = rows_test::round_half(shape_.dtype, source[d]);
          }
        }
      }
    }
    plan_.make(sequences, plan_window, way);
    send();
    const DeviceArray<uint16_t> device_q(q);
    const DeviceArray<AttentionSequence> device_sequences(sequences);
    const DeviceArray<SplitItem> split_items(padded(plan_.split_items()));
    const DeviceArray<uint32_t> split_offsets(padded(plan_.split_offsets()));
    const DeviceArray<BlockItem> block_items(padded(plan_.block_items()));
    const size_t row_elements = static_cast<size_t>(shape_.num_heads()) * shape_.head_dim;
    const DeviceArray<uint16_t> output(all_rows * row_elements);
    AttentionArgs args = {};
    args.dtype = shape_.dtype;
    args.q = device_q.data();
    args.cache_layer = device_cache_->data();
    args.output = output.data();
    args.sequences = device_sequences.data();
    args.block_tables = device_tables_->data();
    args.table_stride = stride_;
    args.split_items = split_items.data();
    args.split_offsets = split_offsets.data();
    args.block_items = block_items.data();
    args.num_block_items = static_cast<uint32_t>(plan_.block_items().size());
    args.partials = partials_->data();
    args.counters = counters_->data();
    args.num_heads = shape_.num_heads();
    args.num_kv_heads = shape_.num_kv_heads;
    args.head_dim = shape_.head_dim;
    args.head_dim_padded = shape_.padded();
    args.block_size = shape_.block_size;
    args.window = shape_.window;
    attend(args, num_multiprocessors(), nullptr);
    std::vector<uint16_t> bits = output.read("output, " + shape_.text());
    for (size_t i = static_cast<size_t>(rows) * row_elements; i < bits.size(); ++i) {
      EXPECT_NOTE(bits[i] == 0xffff, "a padding row was written, element " + std::to_string(i));
    }
    const std::vector<uint32_t> counters = counters_->read("counters");
    for (size_t i = 0; i < counters.size(); ++i) {
      EXPECT_NOTE(counters[i] == 0,
                  "counter " + std::to_string(i) + " was left at " + std::to_string(counters[i]));
    }
    bits.resize(static_cast<size_t>(rows) * row_elements);
    return bits;
  }
  const AttentionPlan& plan() const { return plan_; }
  void forget_device_cache() { device_cache_.reset(); }

  // The row's output for one query head, in double.
  std::vector<double> twin(int32_t slot, int32_t position, uint32_t head) const {
    const uint32_t kv_head = head / shape_.group;
    const float* q = query(slot, position, head);
    const int32_t window = static_cast<int32_t>(shape_.window);
    const int32_t low = window > 0 ? std::max(0, position - window + 1) : 0;
    std::vector<double> scores;
    double top = -1e300;
    for (int32_t j = low; j <= position; ++j) {
      const float* k =
          &keys_[slot][(static_cast<size_t>(j) * shape_.num_kv_heads + kv_head) * shape_.head_dim];
      double sum = 0;
      for (uint32_t d = 0; d < shape_.head_dim; ++d)
        sum += static_cast<double>(q[d]) * static_cast<double>(k[d]);
      scores.push_back(sum / std::sqrt(static_cast<double>(shape_.head_dim)));
      top = std::max(top, scores.back());
    }
    double total = 0;
    std::vector<double> result(shape_.head_dim, 0.0);
    for (int32_t j = low; j <= position; ++j) {
      const float* v =
          &values_[slot][(static_cast<size_t>(j) * shape_.num_kv_heads + kv_head) * shape_.head_dim];
      const double weight = std::exp(scores[static_cast<size_t>(j - low)] - top);
      total += weight;
      for (uint32_t d = 0; d < shape_.head_dim; ++d) result[d] += weight * static_cast<double>(v[d]);
    }
    for (double& value : result) value /= total;
    return result;
  }

 private:
  static constexpr size_t kPool = 997;  // queries are taken from a pool of this many

  std::vector<float> halves(size_t count, float scale) {
    std::vector<float> values = random_.floats(count, scale);
    for (float& value : values) {
      value = rows_test::widen_half(shape_.dtype, rows_test::round_half(shape_.dtype, value));
    }
    return values;
  }
  const float* query(int32_t slot, int32_t position, uint32_t head) const {
    const size_t index = static_cast<size_t>(slot) * 7919 + static_cast<size_t>(position) * 31 + head * 17;
    return &queries_[index % kPool * shape_.head_dim];
  }
  template <class T>
  static std::vector<T> padded(std::span<const T> list) {  // an empty list gets an address, too
    std::vector<T> copy(list.begin(), list.end());
    copy.emplace_back();
    return copy;
  }
  void send() {
    if (device_cache_ != nullptr) return;
    device_cache_ = std::make_unique<DeviceArray<uint16_t>>(cache_);
    device_tables_ = std::make_unique<DeviceArray<int32_t>>(tables_);
    if (partials_ != nullptr) return;
    const uint64_t max_partials = attention_bounds(limits_).partials;
    partials_ =
        std::make_unique<DeviceArray<float>>(attention_partial_bytes(max_partials, shape_.padded()) / 4);
    counters_ = std::make_unique<DeviceArray<uint32_t>>(std::vector<uint32_t>(max_partials, 0));
  }

  Shape shape_;
  Random random_;
  std::vector<int32_t> lengths_;
  uint32_t stride_ = 0;
  std::vector<int32_t> blocks_;  // of every position, known to the kernels or not
  std::vector<int32_t> tables_;
  std::vector<uint16_t> cache_;
  std::vector<std::vector<float>> keys_;  // [slot][position][kv_head][head_dim]
  std::vector<std::vector<float>> values_;
  std::vector<float> queries_;
  AttentionLimits limits_ = {};
  AttentionPlan plan_;
  std::unique_ptr<DeviceArray<uint16_t>> device_cache_;
  std::unique_ptr<DeviceArray<int32_t>> device_tables_;
  std::unique_ptr<DeviceArray<float>> partials_;
  std::unique_ptr<DeviceArray<uint32_t>> counters_;
};

}  // namespace kadenz::cuda::attention_test
