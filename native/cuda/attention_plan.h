// Cuts a step's attention into the work lists of the kernels. Plain C++; runs on the CPU each step, allocates
// nothing after reserve().
//
// Sequences of at most 16 packed rows (rows * query heads a key-value head) go to the split list: all
// (sequence, key-value head) pairs stand in one line, which is shared out in one of two ways.
//   whole: each worker takes the next pairs while they fit into a bound. No partials, nothing is folded; some
//          workers get less than others, or nothing. What many pairs want.
//   cut:   the line is cut in equal shares at chunk borders, so that no worker has more than a chunk above
//          its share. Pairs that are cut leave partials, whose fold ends the launch. What few long pairs
//          want.
// The way that should end first is taken. Longer sequences go to the block list, heaviest first. How work is
// cut moves no bit of any result (kernels/attention_fold.cuh).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cuda/kernels/attention_items.h"

namespace kadenz::cuda {

struct AttentionLimits {
  uint32_t max_num_sequences;
  uint32_t max_num_batched_tokens;
  uint32_t max_model_len;
  uint32_t num_heads;
  uint32_t num_kv_heads;
  uint32_t num_workers;  // attention_workers()
};

// How much a step can need at most; what the device's buffers are sized for.
struct AttentionBounds {
  uint64_t split_items;
  uint64_t split_offsets;
  uint64_t block_items;
  uint64_t partials;  // also the counters
};
AttentionBounds attention_bounds(const AttentionLimits& limits);

enum class SplitWay : uint8_t { kFastest, kWhole, kCut };

class AttentionPlan {
 public:
  AttentionPlan() = default;
  explicit AttentionPlan(const AttentionLimits& limits);

  // The lists for layers with this window (0 = none). The sequences must keep the limits. Lists made for a
  // larger window, or for none, serve a smaller one with the same bits, but share its work out less evenly.
  // Another way than the fastest is for tests and benchmarks.
  void make(std::span<const AttentionSequence> sequences, uint32_t window,
            SplitWay way = SplitWay::kFastest);

  std::span<const SplitItem> split_items() const { return split_items_; }
  std::span<const uint32_t> split_offsets() const { return split_offsets_; }  // num_workers + 1
  std::span<const BlockItem> block_items() const { return block_items_; }
  uint64_t num_partials() const { return num_partials_; }  // used by this step

 private:
  struct HeavyBlock {
    int32_t tiles;
    BlockItem item;
  };

  // Consecutive sequences of the split list that have equally many tiles.
  struct Stretch {
    int64_t tiles;  // of one pair
    int64_t num_pairs;
  };
  struct Packing {
    int64_t bound;  // tiles of a worker, at most
    int64_t num_workers;
  };

  bool is_split(const AttentionSequence& sequence) const;
  void measure_split(std::span<const AttentionSequence> sequences, int32_t window);
  Packing pack() const;
  int64_t workers_for(int64_t bound) const;
  bool whole_is_faster(const Packing& packing) const;
  void place_whole(std::span<const AttentionSequence> sequences, int32_t window, int64_t bound);
  void place_cut(std::span<const AttentionSequence> sequences, int32_t window);
  void cut_blocks(std::span<const AttentionSequence> sequences, int32_t window);
  void number_partials(size_t first_item);

  AttentionLimits limits_ = {};
  AttentionBounds bounds_ = {};
  int32_t group_ = 1;
  // Of the split list
  std::vector<Stretch> stretches_;
  int64_t total_tiles_ = 0;
  int64_t total_chunks_ = 0;
  int64_t longest_tiles_ = 0;  // of a pair
  std::vector<SplitItem> split_items_;
  std::vector<uint32_t> split_offsets_;
  std::vector<HeavyBlock> heavy_blocks_;
  std::vector<BlockItem> block_items_;
  uint64_t num_partials_ = 0;
};

}  // namespace kadenz::cuda
