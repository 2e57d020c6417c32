#include "cuda/attention_plan.h"

#include <algorithm>
#include <cstdlib>

namespace kadenz::cuda {
namespace {

// Partials are needed by pairs that are spread over workers: then there are few pairs or they are very long.
// When they run out, the pair is walked whole by one worker: slower, the same bits.
constexpr uint64_t kMaxPartials = 8192;
constexpr uint64_t kMaxPairPartials = UINT16_MAX;

// What a step's split launch takes, in the time in which a worker walks a tile while all workers do so:
// memory is then the limit. A worker alone walks a tile in kAloneTime. Runs that are cut end with kFoldTime,
// each of a pair's partials adds kPartialTime. Measured on an H200; they decide between ways of equal bits.
constexpr double kAloneTime = 0.55;
constexpr double kFoldTime = 2.5;
constexpr double kPartialTime = 0.03;

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
TileRange tiles_seen(const AttentionSequence& sequence, int32_t window) {
  return tiles_seen(sequence.start_position, sequence.start_position + sequence.num_rows - 1, window);
}

int64_t chunks_of(const TileRange& range) {
  return (range.end - 1) / kAttentionChunkTiles - range.first / kAttentionChunkTiles + 1;
}

SplitItem item_of(const AttentionSequence& sequence, uint32_t head, const TileRange& run) {
  SplitItem item = {};
  item.first_row = sequence.first_row;
  item.start_position = sequence.start_position;
  item.slot = sequence.slot;
  item.first_tile = run.first;
  item.end_tile = run.end;
  item.num_rows = static_cast<uint8_t>(sequence.num_rows);
  item.kv_head = static_cast<uint8_t>(head);
  item.num_partials = 1;
  item.num_runs = 1;
  return item;
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
  stretches_.reserve(limits.max_num_sequences);
  heavy_blocks_.reserve(bounds_.block_items);
  block_items_.reserve(bounds_.block_items);
}

void AttentionPlan::make(std::span<const AttentionSequence> sequences, uint32_t window, SplitWay way) {
  // No position reaches a window above this, so it is as good as any larger one.
  const int32_t effective_window = static_cast<int32_t>(std::min<uint32_t>(window, INT32_MAX));
  split_items_.clear();
  split_offsets_.clear();
  num_partials_ = 0;
  measure_split(sequences, effective_window);
  const Packing packing = way == SplitWay::kCut ? Packing{} : pack();
  if (way == SplitWay::kWhole || (way == SplitWay::kFastest && whole_is_faster(packing))) {
    place_whole(sequences, effective_window, packing.bound);
  } else {
    place_cut(sequences, effective_window);
  }
  cut_blocks(sequences, effective_window);
  const bool bounds_hold = split_items_.size() <= bounds_.split_items &&
                           split_offsets_.size() == bounds_.split_offsets &&
                           block_items_.size() <= bounds_.block_items && num_partials_ <= bounds_.partials;
  if (!bounds_hold) std::abort();
}

bool AttentionPlan::is_split(const AttentionSequence& sequence) const {
  return static_cast<int64_t>(sequence.num_rows) * group_ <= kAttentionSplitRows;
}

void AttentionPlan::measure_split(std::span<const AttentionSequence> sequences, int32_t window) {
  stretches_.clear();
  total_tiles_ = 0;
  total_chunks_ = 0;
  longest_tiles_ = 0;
  for (const AttentionSequence& sequence : sequences) {
    if (!is_split(sequence)) continue;
    const TileRange seen = tiles_seen(sequence, window);
    const int64_t tiles = seen.end - seen.first;
    if (stretches_.empty() || stretches_.back().tiles != tiles) stretches_.push_back({tiles, 0});
    stretches_.back().num_pairs += limits_.num_kv_heads;
    total_tiles_ += tiles * limits_.num_kv_heads;
    total_chunks_ += chunks_of(seen) * limits_.num_kv_heads;
    longest_tiles_ = std::max(longest_tiles_, tiles);
  }
}

// Workers that take whole pairs in order while they fit. Above num_workers it stops counting.
int64_t AttentionPlan::workers_for(int64_t bound) const {
  int64_t workers = 0;
  int64_t room = 0;
  for (const Stretch& stretch : stretches_) {
    const int64_t fitting = room / stretch.tiles;
    if (stretch.num_pairs <= fitting) {
      room -= stretch.num_pairs * stretch.tiles;
      continue;
    }
    const int64_t others = stretch.num_pairs - fitting;
    const int64_t each = bound / stretch.tiles;
    const int64_t more = (others + each - 1) / each;
    workers += more;
    if (workers > limits_.num_workers) break;
    room = bound - (others - (more - 1) * each) * stretch.tiles;
  }
  return workers;
}

// The smallest bound under which the whole pairs find a worker, but for a sixteenth of the longest pair.
AttentionPlan::Packing AttentionPlan::pack() const {
  const int64_t num_workers = limits_.num_workers;
  const auto fits = [&](Packing& packing, int64_t bound) {
    const int64_t workers = workers_for(bound);
    if (workers <= num_workers) packing = {bound, workers};
    return workers <= num_workers;
  };
  int64_t low = std::max(longest_tiles_, (total_tiles_ + num_workers - 1) / num_workers);
  Packing packing = {};
  if (fits(packing, low)) return packing;
  // Each worker but the last is filled to more than the bound without the longest pair, so this one does.
  if (!fits(packing, low + longest_tiles_)) std::abort();
  while (packing.bound - low > 1 + longest_tiles_ / 16) {
    const int64_t middle = low + (packing.bound - low) / 2;
    if (!fits(packing, middle)) low = middle;
  }
  return packing;
}

bool AttentionPlan::whole_is_faster(const Packing& packing) const {
  if (total_tiles_ == 0) return true;
  const double num_workers = limits_.num_workers;
  const double total = static_cast<double>(total_tiles_);
  const auto tile_time = [&](double workers) {
    return kAloneTime + (1.0 - kAloneTime) * workers / num_workers;
  };
  const double packed = static_cast<double>(packing.num_workers);
  const double average = total / packed;
  const double whole =
      average * tile_time(packed) + (static_cast<double>(packing.bound) - average) * kAloneTime;
  const double shares = std::min(static_cast<double>(total_chunks_), num_workers);
  const double cut = total / shares * tile_time(shares) + kAloneTime * (kAttentionChunkTiles / 2) +
                     kFoldTime + kPartialTime * static_cast<double>(longest_tiles_ / kAttentionChunkTiles);
  return whole <= cut;
}

void AttentionPlan::place_whole(std::span<const AttentionSequence> sequences, int32_t window,
                                int64_t bound) {
  split_offsets_.push_back(0);
  int64_t room = bound;
  for (const AttentionSequence& sequence : sequences) {
    if (!is_split(sequence)) continue;
    const TileRange seen = tiles_seen(sequence, window);
    const int64_t tiles = seen.end - seen.first;
    SplitItem item = item_of(sequence, 0, seen);
    for (uint32_t head = 0; head < limits_.num_kv_heads; ++head) {
      if (room < tiles) {
        split_offsets_.push_back(static_cast<uint32_t>(split_items_.size()));
        room = bound;
      }
      room -= tiles;
      item.kv_head = static_cast<uint8_t>(head);
      split_items_.push_back(item);
    }
  }
  split_offsets_.resize(static_cast<size_t>(limits_.num_workers) + 1,
                        static_cast<uint32_t>(split_items_.size()));
}

void AttentionPlan::place_cut(std::span<const AttentionSequence> sequences, int32_t window) {
  // Shares below a chunk would only leave workers idle in between: neighbours share a processor.
  const int64_t num_shares = std::clamp<int64_t>(total_chunks_, 1, limits_.num_workers);
  const int64_t total = total_tiles_;
  int64_t placed = 0;  // tiles given to workers so far
  int64_t share_end = total / num_shares;
  split_offsets_.push_back(0);
  const auto next_worker = [&] {
    split_offsets_.push_back(static_cast<uint32_t>(split_items_.size()));
    // The last share ends at the total exactly.
    share_end = total * static_cast<int64_t>(split_offsets_.size()) / num_shares;
  };
  for (const AttentionSequence& sequence : sequences) {
    if (!is_split(sequence)) continue;
    const TileRange seen = tiles_seen(sequence, window);
    const uint64_t chunks = static_cast<uint64_t>(chunks_of(seen));
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
        if (end <= tile && static_cast<int64_t>(split_offsets_.size()) < num_shares) {
          next_worker();
          continue;
        }
        if (end <= tile) end = seen.end;
        split_items_.push_back(item_of(sequence, head, {tile, end}));
        placed += end - tile;
        tile = end;
      }
      if (split_items_.size() - first_item > 1) number_partials(first_item);
    }
  }
  split_offsets_.resize(static_cast<size_t>(limits_.num_workers) + 1,
                        static_cast<uint32_t>(split_items_.size()));
}

// Now that the runs of a cut pair are known: their partials.
void AttentionPlan::number_partials(size_t first_item) {
  const size_t num_runs = split_items_.size() - first_item;
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
