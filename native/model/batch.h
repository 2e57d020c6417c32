// One step's work for the decoder. Nothing is owned: spans and block tables must outlive the call.
//
// Rows are laid out sequence after sequence: sequences[0] holds rows 0 .. n0-1, sequences[1] the next n1, and
// so on, without gaps, so that every row belongs to exactly one sequence. A sequence's rows are consecutive
// positions. Position p of a sequence lives in slot p % block_size of block block_table[p / block_size].
//
// In each layer all rows' keys and values are written before any row attends, so a sequence may read blocks
// that another one fills in the same step. Two sequences must not write into one block.
#pragma once

#include <cstdint>
#include <span>

namespace kadenz {

struct SequenceSpan {
  uint32_t first_row;
  uint32_t num_rows;
  uint32_t start_position;
  const uint32_t* block_table;
  uint32_t num_blocks;
  uint32_t slot = 0;  // whose block table this is, for devices that keep tables of their own
};

// Entry `index` of a slot's block table became `block`.
struct TableUpdate {
  uint32_t slot;
  uint32_t index;
  uint32_t block;
};

struct BlockCopy {
  uint32_t source;
  uint32_t target;
};

struct DecoderBatch {
  std::span<const int32_t> token_ids;  // one per row; below 0 only where Ops::gathers_samples()
  std::span<const SequenceSpan> sequences;
  std::span<const BlockCopy> copies;      // done in order before anything else, all layers, keys and values
  std::span<const uint32_t> output_rows;  // rows whose final hidden state is kept, in this order
  std::span<const TableUpdate> table_updates = {};  // since the batch before; equal entries say the same
};

// A decode step: one row a sequence, and every row's final hidden state is kept, in order.
inline bool decodes(const DecoderBatch& batch) {
  const size_t rows = batch.token_ids.size();
  if (batch.sequences.size() != rows || batch.output_rows.size() != rows) return false;
  for (size_t i = 0; i < rows; ++i) {
    if (batch.output_rows[i] != i || batch.sequences[i].num_rows != 1) return false;
  }
  return true;
}

}  // namespace kadenz
