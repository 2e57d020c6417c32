#include "model/batch_check.h"

#include "model/error.h"

namespace kadenz {
namespace {

constexpr uint64_t kMaxRows = uint64_t{1} << 20;
constexpr uint64_t kMaxPosition = uint64_t{1} << 24;  // a float still counts positions exactly

}  // namespace

void refuse_batch(const std::string& sentence) { throw HostError("invalid_batch", sentence); }

void BatchCheck::check_rows(const DecoderBatch& batch) const {
  const uint64_t rows = batch.token_ids.size();
  if (rows > kMaxRows || batch.output_rows.size() > kMaxRows) {
    refuse_batch("A batch of " + std::to_string(rows) + " rows with " +
                 std::to_string(batch.output_rows.size()) + " outputs is over the limit of " +
                 std::to_string(kMaxRows) + ".");
  }
  for (const int32_t token : batch.token_ids) {
    if ((token < 0 && !limits_.gathers_samples) || token >= limits_.vocab_size) {
      refuse_batch("Token id " + std::to_string(token) + " is outside the vocabulary of " +
                   std::to_string(limits_.vocab_size) + ".");
    }
  }
  for (const uint32_t row : batch.output_rows) {
    if (row >= rows) {
      refuse_batch("Output row " + std::to_string(row) + " is outside the batch of " + std::to_string(rows) +
                   " rows.");
    }
  }
  for (const BlockCopy& copy : batch.copies) {
    if (copy.source >= limits_.num_blocks || copy.target >= limits_.num_blocks) {
      refuse_batch("A copy of block " + std::to_string(copy.source) + " to " + std::to_string(copy.target) +
                   " is outside the " + std::to_string(limits_.num_blocks) + " blocks of the KV cache.");
    }
  }
}

void BatchCheck::check_sequence(const SequenceSpan& span, const std::string& name) {
  const uint64_t end = uint64_t{span.start_position} + span.num_rows;
  if (end > kMaxPosition) refuse_batch(name + " reaches position " + std::to_string(end) + ".");
  if (span.num_rows == 0) return;
  const uint64_t blocks = (end + limits_.block_size - 1) / limits_.block_size;
  if (blocks > span.num_blocks || span.block_table == nullptr) {
    refuse_batch(name + " needs " + std::to_string(blocks) + " blocks; its table has " +
                 std::to_string(span.num_blocks) + ".");
  }
  for (uint64_t block = 0; block < blocks; ++block) {
    if (span.block_table[block] >= limits_.num_blocks) {
      refuse_batch(name + " names block " + std::to_string(span.block_table[block]) + " of " +
                   std::to_string(limits_.num_blocks) + ".");
    }
  }
  for (uint64_t block = span.start_position / limits_.block_size; block < blocks; ++block) {
    uint64_t& writer = block_writers_[span.block_table[block]];
    if (writer == step_stamp_) {
      refuse_batch(name + " writes block " + std::to_string(span.block_table[block]) +
                   ", which is written already in this step.");
    }
    writer = step_stamp_;
  }
}

void BatchCheck::check(const DecoderBatch& batch) {
  check_rows(batch);
  ++step_stamp_;
  uint64_t next_row = 0;
  for (size_t index = 0; index < batch.sequences.size(); ++index) {
    const SequenceSpan& span = batch.sequences[index];
    const std::string name = "Sequence " + std::to_string(index) + " of the batch";
    if (span.first_row != next_row) {
      refuse_batch(name + " starts at row " + std::to_string(span.first_row) + "; row " +
                   std::to_string(next_row) + " is next.");
    }
    next_row += span.num_rows;
    check_sequence(span, name);
  }
  if (next_row != batch.token_ids.size()) {
    refuse_batch("The sequences cover " + std::to_string(next_row) + " of the batch's " +
                 std::to_string(batch.token_ids.size()) + " rows.");
  }
}

}  // namespace kadenz
