// What the attention kernels are told about one step, in plain structs: the plan (cuda/attention_plan.h)
// makes them on the CPU, they are copied to the device as they are.
//
// A sequence's rows are consecutive positions; its keys and values reach from 0 to start_position + num_rows.
// For one key-value head the query heads of its group are packed under it: packed row = row of the sequence *
// group + query head within the group.
#pragma once

#include <cstdint>

namespace kadenz::cuda {

// Keys and values are folded in chunks of this many positions, cut at absolute multiples, each worked in
// tiles.
constexpr int32_t kAttentionChunk = 256;
constexpr int32_t kAttentionTile = 64;
constexpr int32_t kAttentionChunkTiles = kAttentionChunk / kAttentionTile;
// A sequence of at most this many packed rows is split among workers; a longer one is cut in row blocks.
constexpr int32_t kAttentionSplitRows = 16;
constexpr int32_t kAttentionBlockRows = 128;

struct AttentionSequence {
  int32_t first_row;
  int32_t num_rows;
  int32_t start_position;
  int32_t slot;  // row of the block tables
};

// A run of consecutive tiles of one (sequence, key-value head), walked by one worker. The runs of a pair that
// is cut begin and end at chunk borders. The pair's first run folds its chunks to one partial (or to the
// output, when it is the only run); every other run leaves one partial for each of its chunks.
struct alignas(16) SplitItem {
  int32_t first_row;
  int32_t start_position;
  int32_t slot;
  int32_t first_tile;  // absolute: position / 64
  int32_t end_tile;
  int32_t partial;          // the pair's first partial in the workspace; also its counter
  uint16_t partial_offset;  // of this run's first partial from there; 0 = the pair's first run
  uint16_t num_partials;    // of the pair
  uint16_t num_runs;        // of the pair
  uint8_t num_rows;
  uint8_t kv_head;
};
static_assert(sizeof(SplitItem) == 32);

struct BlockItem {
  int32_t sequence;  // of the step's sequences
  int32_t first_packed_row;
};

}  // namespace kadenz::cuda
