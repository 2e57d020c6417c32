#include "cuda/attention_plan.h"

#include <algorithm>
#include <cstdlib>

namespace kadenz::cuda {
namespace {

// Partials are needed by pairs that are spread over workers: then there are few pairs or they are very long.
// When they run out, the pair is walked whole by one worker: slower, the same bits.
constexpr uint64_t kMaxPartials = 8192;
constexpr uint64_t kMaxPairPartials = UINT16_MAX;

struct TileRange {
  int32_t first;
  int32_t end;
};

int32_t first_visible(int32_t position, int32_t window) {
  return window > 0 && position >= window ? position - window + 1 : 0;
}

// What rows at positions first .. last see.
TileRange tiles_seen(int32_t first, int32_t last, int32_t window) {
  return {first_visible(first, window) / kAttentionTile, last / kAttentionTile + 1};
}

}  // namespace

AttentionBounds attention_bounds(const AttentionLimits& limits) {
  const uint64_t group = limits.num_heads / limits.num_kv_heads;
  const uint64_t pairs = static_cast<uint64_t>(limits.max_num_sequences) * limits.num_kv_heads;
  const uint64_t chunks =
      (static_cast<uint64_t>(limits.max_model_len) + kAttentionChunk - 1) / kAttentionChunk;
  AttentionBounds bounds = {};
  bounds.split_items = pairs + limits.num_workers;
  bounds.split_offsets = static_cast<uint64_t>(limits.num_workers) + 1;
  bounds.block_items = limits.max_num_batched_tokens * group / kAttentionBlockRows + limits.max_num_sequences;
  bounds.partials = std::max<uint64_t>(1, std::min(pairs * chunks, kMaxPartials));
  return bounds;
}

AttentionPlan::AttentionPlan(const AttentionLimits& limits)
    : limits_(limits),
      bounds_(attention_bounds(limits)),
      group_(static_cast<int32_t>(limits.num_heads / limits.num_kv_heads)) {
  split_items_.reserve(bounds_.split_items);
  split_offsets_.reserve(bounds_.split_offsets);
  heavy_blocks_.reserve(bounds_.block_items);
  block_items_.reserve(bounds_.block_items);
}

void AttentionPlan::make(std::span<const AttentionSequence> sequences, uint32_t window) {
  // No position reaches a window above this, so it is as good as any larger one.
  const int32_t effective_window = static_cast<int32_t>(std::min<uint32_t>(window, INT32_MAX));
  cut_split(sequences, effective_window);
  cut_blocks(sequences, effective_window);
  const bool bounds_hold = split_items_.size() <= bounds_.split_items &&
                           split_offsets_.size() == bounds_.split_offsets &&
                           block_items_.size() <= bounds_.block_items && num_partials_ <= bounds_.partials;
  if (!bounds_hold) std::abort();
}

bool AttentionPlan::is_split(const AttentionSequence& sequence) const {
  return static_cast<int64_t>(sequence.num_rows) * group_ <= kAttentionSplitRows;
}

void AttentionPlan::cut_split(std::span<const AttentionSequence> sequences, int32_t window) {
  split_items_.clear();
  split_offsets_.clear();
  num_partials_ = 0;
  const int64_t num_workers = limits_.num_workers;
  int64_t total = 0;
  for (const AttentionSequence& sequence : sequences) {
    if (!is_split(sequence)) continue;
    const TileRange seen =
        tiles_seen(sequence.start_position, sequence.start_position + sequence.num_rows - 1, window);
    total += static_cast<int64_t>(seen.end - seen.first) * limits_.num_kv_heads;
  }

  int64_t placed = 0;  // tiles given to workers so far
  int64_t share_end = total / num_workers;
  split_offsets_.push_back(0);
  const auto next_worker = [&] {
    split_offsets_.push_back(static_cast<uint32_t>(split_items_.size()));
    // The last share ends at the total exactly.
    share_end = total * static_cast<int64_t>(split_offsets_.size()) / num_workers;
  };
  for (const AttentionSequence& sequence : sequences) {
    if (!is_split(sequence)) continue;
    const TileRange seen =
        tiles_seen(sequence.start_position, sequence.start_position + sequence.num_rows - 1, window);
    const uint64_t chunks = (seen.end - 1) / kAttentionChunkTiles - seen.first / kAttentionChunkTiles + 1;
    for (uint32_t head = 0; head < limits_.num_kv_heads; ++head) {
      const size_t first_item = split_items_.size();
      const bool may_cut = num_partials_ + chunks <= bounds_.partials && chunks <= kMaxPairPartials;
      for (int32_t tile = seen.first; tile < seen.end;) {
        int32_t end = seen.end;
        if (may_cut && share_end - placed < seen.end - tile) {
          // The chunk border nearest to the share's end.
          const int64_t wanted = tile + (share_end - placed) + kAttentionChunkTiles / 2;
          end = static_cast<int32_t>(
              std::clamp<int64_t>(wanted - wanted % kAttentionChunkTiles, tile, seen.end));
        } else if (!may_cut && share_end - placed <= 0) {
          end = tile;
        }
        if (end <= tile && static_cast<int64_t>(split_offsets_.size()) < num_workers) {
          next_worker();
          continue;
        }
        if (end <= tile) end = seen.end;
        SplitItem& item = split_items_.emplace_back();
        item.first_row = sequence.first_row;
        item.start_position = sequence.start_position;
        item.slot = sequence.slot;
        item.first_tile = tile;
        item.end_tile = end;
        item.num_rows = static_cast<uint8_t>(sequence.num_rows);
        item.kv_head = static_cast<uint8_t>(head);
        placed += end - tile;
        tile = end;
      }
      finish_pair(first_item);
    }
  }
  while (split_offsets_.size() <= static_cast<size_t>(num_workers)) next_worker();
}

// Now that a pair's runs are known: their partials.
void AttentionPlan::finish_pair(size_t first_item) {
  const size_t num_runs = split_items_.size() - first_item;
  if (num_runs == 1) {
    SplitItem& item = split_items_[first_item];
    item.partial = 0;
    item.partial_offset = 0;
    item.num_partials = 1;
    item.num_runs = 1;
    return;
  }
  uint16_t offset = 0;
  for (size_t i = first_item; i < split_items_.size(); ++i) {
    SplitItem& item = split_items_[i];
    item.partial = static_cast<int32_t>(num_partials_);
    item.partial_offset = offset;
    item.num_runs = static_cast<uint16_t>(num_runs);
    const int32_t chunks =
        (item.end_tile - 1) / kAttentionChunkTiles - item.first_tile / kAttentionChunkTiles + 1;
    offset = static_cast<uint16_t>(offset + (i == first_item ? 1 : chunks));
  }
  for (size_t i = first_item; i < split_items_.size(); ++i) split_items_[i].num_partials = offset;
  num_partials_ += offset;
}

void AttentionPlan::cut_blocks(std::span<const AttentionSequence> sequences, int32_t window) {
  heavy_blocks_.clear();
  block_items_.clear();
  for (size_t i = 0; i < sequences.size(); ++i) {
    const AttentionSequence& sequence = sequences[i];
    if (is_split(sequence)) continue;
    const int64_t packed_rows = static_cast<int64_t>(sequence.num_rows) * group_;
    if (packed_rows > INT32_MAX - kAttentionBlockRows) std::abort();  // the kernels count them in 32 bits
    for (int64_t first = 0; first < packed_rows; first += kAttentionBlockRows) {
      const int64_t last = std::min(first + kAttentionBlockRows, packed_rows) - 1;
      const TileRange seen =
          tiles_seen(static_cast<int32_t>(sequence.start_position + first / group_),
                     static_cast<int32_t>(sequence.start_position + last / group_), window);
      heavy_blocks_.push_back(
          {seen.end - seen.first, {static_cast<int32_t>(i), static_cast<int32_t>(first)}});
    }
  }
  std::ranges::sort(heavy_blocks_, [](const HeavyBlock& a, const HeavyBlock& b) {
    if (a.tiles != b.tiles) return a.tiles > b.tiles;
    if (a.item.sequence != b.item.sequence) return a.item.sequence < b.item.sequence;
    return a.item.first_packed_row < b.item.first_packed_row;
  });
  for (const HeavyBlock& block : heavy_blocks_) block_items_.push_back(block.item);
}

}  // namespace kadenz::cuda
