#include "host/slots.h"

#include <string>

#include "model/error.h"

namespace kadenz {
namespace {

[[noreturn]] void refuse(const std::string& sentence) {
  throw HostError("step_failed", "Bad step plan: " + sentence);
}

bool penalises(const wire::SamplingParams& params) {
  return params.repetition_penalty() != 1 || params.presence_penalty() != 0 ||
         params.frequency_penalty() != 0;
}

}  // namespace

void SlotTable::open(const Plan& plan, size_t i) {
  Slot& slot = slots_[plan.open_slot[i]];
  slot.open = true;
  slot.params = plan.open_params[i];
  slot.sample = plan.open_sample[i];
  slot.prompt_tokens = plan.open_prompt_tokens[i];
  slot.has_penalties = penalises(slot.params);
  slot.block_table.clear();
  slot.leading_blocks = 0;
  slot.next_position = kUnknownPosition;

  slot.counts.clear();
  slot.history_tokens = 0;
  const size_t history_begin = plan.open_history_end.begin(i);
  const size_t history_end = plan.open_history_end.end(i);
  if (slot.has_penalties) {
    const size_t count = history_end - history_begin;
    if (count < slot.prompt_tokens) {
      refuse("slot " + std::to_string(plan.open_slot[i]) + " has penalties and a prompt of " +
             std::to_string(slot.prompt_tokens) + " tokens, but " + std::to_string(count) +
             " tokens of history.");
    }
    for (size_t k = 0; k < count; ++k) {
      const int32_t token_id = plan.history_token_ids[history_begin + k];
      k < slot.prompt_tokens ? slot.counts.add_prompt_token(token_id)
                             : slot.counts.add_output_token(token_id);
    }
    slot.history_tokens = static_cast<uint32_t>(count);
  }

  const auto stops = plan.stop_token_ids.begin();
  slot.stop_token_ids.assign(stops + static_cast<ptrdiff_t>(plan.open_stop_end.begin(i)),
                             stops + static_cast<ptrdiff_t>(plan.open_stop_end.end(i)));
  slot.bias.clear();
  for (size_t k = plan.open_bias_end.begin(i); k < plan.open_bias_end.end(i); ++k) {
    slot.bias.push_back({plan.bias_token_ids[k], plan.bias[k]});
  }
}

void SlotTable::apply(const Plan& plan) {
  std::vector<bool> opened(plan.open_slot.empty() ? 0 : slots_.size());
  for (size_t i = 0; i < plan.open_slot.size(); ++i) {
    const uint32_t slot = plan.open_slot[i];
    if (opened[slot]) refuse("slot " + std::to_string(slot) + " is opened twice.");
    opened[slot] = true;
    open(plan, i);
  }
  for (size_t i = 0; i < plan.table_slot.size(); ++i) {
    Slot& slot = slots_[plan.table_slot[i]];
    if (!slot.open)
      refuse("table_slot[" + std::to_string(i) + "] is " + std::to_string(plan.table_slot[i]) +
             ", which is not open.");
    const uint32_t index = plan.table_index[i];
    if (index >= slot.block_table.size()) slot.block_table.resize(size_t{index} + 1, kNoBlock);
    slot.block_table[index] = plan.table_block[i];
    while (slot.leading_blocks < slot.block_table.size() &&
           slot.block_table[slot.leading_blocks] != kNoBlock) {
      ++slot.leading_blocks;
    }
  }
}

}  // namespace kadenz
