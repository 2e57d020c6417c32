#include "host/input_batch.h"

#include <string>

#include "model/error.h"

namespace kadenz {
namespace {

[[noreturn]] void refuse(const std::string& sentence) {
  throw HostError("step_failed", "Bad step plan: " + sentence);
}

}  // namespace

void InputBatch::add_sequence(const Plan& plan, size_t i, uint32_t first_row, const HostLimits& limits,
                              const SlotTable& slots, std::span<const PreviousSample> previous) {
  const uint32_t slot_index = plan.sequence_slot[i];
  const Slot& slot = slots[slot_index];
  const std::string name = "slot " + std::to_string(slot_index);
  if (!slot.open) refuse(name + " is computed but not open.");
  if (slot_seen_[slot_index]) refuse(name + " is computed twice.");
  slot_seen_[slot_index] = 1;

  const uint32_t start = plan.sequence_start[i];
  const uint32_t count = plan.sequence_num_tokens[i];
  const uint32_t blocks = (start + count + limits.block_size - 1) / limits.block_size;
  if (blocks > slot.leading_blocks) {
    refuse(name + " needs " + std::to_string(blocks) + " blocks for positions up to " +
           std::to_string(start + count - 1) + "; its table has " + std::to_string(slot.leading_blocks) +
           ".");
  }
  if (slot.next_position != kUnknownPosition && start > slot.next_position) {
    refuse(name + " goes on at position " + std::to_string(start) + "; positions from " +
           std::to_string(slot.next_position) + " were never computed.");
  }
  sequences_.push_back({first_row, count, start, slot.block_table.data(), blocks, slot_index});

  bool poisoned = false;
  for (uint32_t k = 0; k < count; ++k) {
    const uint32_t row = first_row + k;
    int32_t token_id = plan.token_ids[row];
    if (token_id < 0) {
      const uint64_t sample = static_cast<uint64_t>(-1 - static_cast<int64_t>(token_id));
      if (sample >= previous.size()) {
        refuse("row " + std::to_string(row) + " takes sample " + std::to_string(sample) +
               " of the step before, which had " + std::to_string(previous.size()) + ".");
      }
      const PreviousSample& source = previous[sample];
      if (source.slot != slot_index || source.position != start + k) {
        refuse("row " + std::to_string(row) + " is position " + std::to_string(start + k) + " of " + name +
               ", but sample " + std::to_string(sample) + " of the step before was position " +
               std::to_string(source.position) + " of slot " + std::to_string(source.slot) + ".");
      }
      if (source.token_id != kOnDevice) {
        poisoned = poisoned || source.token_id < 0;
        token_id = source.token_id < 0 ? 0 : source.token_id;
      }
    }
    token_ids_[row] = token_id;
    positions_[row] = start + k;
    poisoned_[row] = poisoned ? 1 : 0;
  }
}

void InputBatch::check_samples(const Plan& plan, const SlotTable& slots) const {
  std::vector<bool> sampled(plan.sample_slot.empty() ? 0 : slot_seen_.size());
  for (size_t i = 0; i < plan.sample_slot.size(); ++i) {
    const uint32_t slot_index = plan.sample_slot[i];
    const Slot& slot = slots[slot_index];
    const uint32_t position = positions_[plan.sample_row[i]] + 1;
    const std::string name = "slot " + std::to_string(slot_index);
    if (!slot.open) refuse(name + " is sampled but not open.");
    if (sampled[slot_index]) refuse(name + " is sampled twice.");
    sampled[slot_index] = true;
    if (position < slot.prompt_tokens) {
      refuse(name + " is sampled at position " + std::to_string(position) + ", inside its prompt of " +
             std::to_string(slot.prompt_tokens) + " tokens.");
    }
    if (slot.has_penalties && slot.history_tokens != position) {
      refuse(name + " is sampled at position " + std::to_string(position) + ", but its penalties know " +
             std::to_string(slot.history_tokens) + " tokens.");
    }
  }
  for (size_t i = 0; i < plan.score_slot.size(); ++i) {
    if (!slots[plan.score_slot[i]].open)
      refuse("slot " + std::to_string(plan.score_slot[i]) + " is scored but not open.");
  }
}

void InputBatch::build(const Plan& plan, const HostLimits& limits, const SlotTable& slots,
                       std::span<const PreviousSample> previous) {
  const size_t rows = plan.token_ids.size();
  token_ids_.resize(rows);
  positions_.resize(rows);
  poisoned_.resize(rows);
  slot_seen_.assign(limits.max_num_seqs, 0);
  sequences_.clear();
  copies_.clear();
  table_updates_.clear();
  output_rows_.clear();
  for (size_t i = 0; i < plan.copy_source.size(); ++i)
    copies_.push_back({plan.copy_source[i], plan.copy_target[i]});
  for (size_t i = 0; i < plan.table_slot.size(); ++i)
    table_updates_.push_back({plan.table_slot[i], plan.table_index[i],
                              slots[plan.table_slot[i]].block_table[plan.table_index[i]]});

  uint32_t first_row = 0;
  for (size_t i = 0; i < plan.sequence_slot.size(); ++i) {
    add_sequence(plan, i, first_row, limits, slots, previous);
    first_row += plan.sequence_num_tokens[i];
  }
  check_samples(plan, slots);

  output_index_.assign(rows, 0);
  for (const uint32_t row : plan.sample_row) output_index_[row] = 1;
  for (const uint32_t row : plan.score_row) output_index_[row] = 1;
  for (uint32_t row = 0; row < rows; ++row) {
    if (output_index_[row] == 0) continue;
    output_index_[row] = static_cast<uint32_t>(output_rows_.size());
    output_rows_.push_back(row);
  }
}

}  // namespace kadenz
