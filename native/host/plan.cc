#include "host/plan.h"

#include <cmath>
#include <string>

#include "model/error.h"

namespace kadenz {
namespace {

[[noreturn]] void refuse(const std::string& sentence) {
  throw HostError("step_failed", "Bad step plan: " + sentence);
}

template <class T>
std::span<const T> span_of(const ::flatbuffers::Vector<T>* vector) {
  if (vector == nullptr) return {};
  return {vector->data(), vector->size()};
}

std::span<const wire::SamplingParams> span_of(
    const ::flatbuffers::Vector<const wire::SamplingParams*>* vector) {
  if (vector == nullptr) return {};
  return {reinterpret_cast<const wire::SamplingParams*>(vector->Data()), vector->size()};
}

void check_length(const char* name, size_t length, const char* group, size_t expected) {
  if (length == expected) return;
  refuse(std::string(name) + " has " + std::to_string(length) + " entries; " + group + " has " +
         std::to_string(expected) + ".");
}

template <class T>
void check_range(const char* name, std::span<const T> values, uint64_t limit) {
  for (size_t i = 0; i < values.size(); ++i) {
    // A negative number wraps to one that is over every limit here.
    if (static_cast<uint64_t>(static_cast<int64_t>(values[i])) < limit) continue;
    refuse(std::string(name) + "[" + std::to_string(i) + "] is " + std::to_string(values[i]) +
           "; it must be from 0 to under " + std::to_string(limit) + ".");
  }
}

void check_ends(const char* name, const RunningEnds& running, size_t groups, const char* flat_name,
                size_t flat_length) {
  check_length(name, running.ends.size(), "open_slot", groups);
  uint32_t before = 0;
  for (size_t i = 0; i < groups; ++i) {
    if (running.ends[i] < before) {
      refuse(std::string(name) + "[" + std::to_string(i) + "] is " + std::to_string(running.ends[i]) +
             ", less than the entry before it, " + std::to_string(before) + ".");
    }
    before = running.ends[i];
  }
  if (before != flat_length) {
    refuse(std::string(name) + " ends at " + std::to_string(before) + "; " + flat_name + " has " +
           std::to_string(flat_length) + " entries.");
  }
}

void check_parameter(bool good, size_t i, const char* name, double value, const char* rule) {
  if (good) return;
  refuse("open_params[" + std::to_string(i) + "]." + name + " is " + std::to_string(value) + "; it must be " +
         rule + ".");
}

void check_params(std::span<const wire::SamplingParams> all, uint32_t vocab_size) {
  for (size_t i = 0; i < all.size(); ++i) {
    const wire::SamplingParams& p = all[i];
    check_parameter(std::isfinite(p.temperature()) && p.temperature() >= 0, i, "temperature", p.temperature(),
                    "finite and 0 or more");
    check_parameter(p.top_p() > 0 && p.top_p() <= 1, i, "top_p", p.top_p(), "in (0, 1]");
    check_parameter(p.min_p() >= 0 && p.min_p() <= 1, i, "min_p", p.min_p(), "in [0, 1]");
    check_parameter(std::isfinite(p.repetition_penalty()) && p.repetition_penalty() > 0, i,
                    "repetition_penalty", p.repetition_penalty(), "finite and more than 0");
    check_parameter(std::isfinite(p.presence_penalty()), i, "presence_penalty", p.presence_penalty(),
                    "finite");
    check_parameter(std::isfinite(p.frequency_penalty()), i, "frequency_penalty", p.frequency_penalty(),
                    "finite");
    const int64_t most = vocab_size;
    check_parameter(p.logprobs() >= -1 && p.logprobs() <= most, i, "logprobs", p.logprobs(),
                    "from -1 to the vocabulary size");
    check_parameter(p.prompt_logprobs() >= -1 && p.prompt_logprobs() <= most, i, "prompt_logprobs",
                    p.prompt_logprobs(), "from -1 to the vocabulary size");
    check_parameter(p.logprobs_mode() <= wire::LogprobsMode::processed, i, "logprobs_mode",
                    static_cast<double>(p.logprobs_mode()), "0 or 1");
  }
}

void check_opens(const Plan& plan, const wire::StepPlan& table, const HostLimits& limits) {
  const size_t opens = plan.open_slot.size();
  check_length("open_sample", plan.open_sample.size(), "open_slot", opens);
  check_length("open_prompt_tokens", plan.open_prompt_tokens.size(), "open_slot", opens);
  check_length("open_params", plan.open_params.size(), "open_slot", opens);
  check_length("bias", plan.bias.size(), "bias_token_ids", plan.bias_token_ids.size());
  check_ends("open_history_end", plan.open_history_end, opens, "history_token_ids",
             plan.history_token_ids.size());
  check_ends("open_stop_end", plan.open_stop_end, opens, "stop_token_ids", plan.stop_token_ids.size());
  check_ends("open_bias_end", plan.open_bias_end, opens, "bias_token_ids", plan.bias_token_ids.size());
  check_range("open_slot", plan.open_slot, limits.max_num_seqs);
  check_range("open_prompt_tokens", plan.open_prompt_tokens, uint64_t{limits.max_model_len} + 1);
  check_range("history_token_ids", plan.history_token_ids, limits.vocab_size);
  check_range("stop_token_ids", plan.stop_token_ids, limits.vocab_size);
  check_range("bias_token_ids", plan.bias_token_ids, limits.vocab_size);
  for (size_t i = 0; i < plan.bias.size(); ++i) {
    if (std::isnan(plan.bias[i])) refuse("bias[" + std::to_string(i) + "] is not a number.");
  }
  check_params(plan.open_params, limits.vocab_size);
  const auto adapters = span_of(table.open_adapter());
  check_length("open_adapter", adapters.size(), "open_slot", opens);
  for (size_t i = 0; i < adapters.size(); ++i) {
    if (adapters[i] != 0) {
      refuse("open_adapter[" + std::to_string(i) + "] is " + std::to_string(adapters[i]) +
             "; this host has no adapters.");
    }
  }
}

void check_rows(const Plan& plan, const HostLimits& limits) {
  const size_t sequences = plan.sequence_slot.size();
  check_length("sequence_start", plan.sequence_start.size(), "sequence_slot", sequences);
  check_length("sequence_num_tokens", plan.sequence_num_tokens.size(), "sequence_slot", sequences);
  check_range("sequence_slot", plan.sequence_slot, limits.max_num_seqs);
  uint64_t rows = 0;
  for (size_t i = 0; i < sequences; ++i) {
    const uint64_t count = plan.sequence_num_tokens[i];
    const uint64_t end = plan.sequence_start[i] + count;
    if (count == 0) refuse("sequence_num_tokens[" + std::to_string(i) + "] is 0.");
    if (end > limits.max_model_len) {
      refuse("sequence " + std::to_string(i) + " ends at position " + std::to_string(end) +
             "; max_model_len is " + std::to_string(limits.max_model_len) + ".");
    }
    rows += count;
  }
  check_length("token_ids", plan.token_ids.size(), "the sum of sequence_num_tokens", rows);
  if (rows > limits.max_num_batched_tokens) {
    refuse("it has " + std::to_string(rows) + " rows; max_num_batched_tokens is " +
           std::to_string(limits.max_num_batched_tokens) + ".");
  }
  for (size_t i = 0; i < plan.token_ids.size(); ++i) {
    // Negative: a sample of the step before. Its number is checked where that step is known.
    if (plan.token_ids[i] >= 0 && static_cast<uint32_t>(plan.token_ids[i]) >= limits.vocab_size) {
      refuse("token_ids[" + std::to_string(i) + "] is " + std::to_string(plan.token_ids[i]) +
             "; the vocabulary has " + std::to_string(limits.vocab_size) + " tokens.");
    }
  }
  check_length("sample_slot", plan.sample_slot.size(), "sample_row", plan.sample_row.size());
  check_range("sample_row", plan.sample_row, rows);
  check_range("sample_slot", plan.sample_slot, limits.max_num_seqs);
  check_length("score_slot", plan.score_slot.size(), "score_row", plan.score_row.size());
  check_length("score_token", plan.score_token.size(), "score_row", plan.score_row.size());
  check_range("score_row", plan.score_row, rows);
  check_range("score_slot", plan.score_slot, limits.max_num_seqs);
  check_range("score_token", plan.score_token, limits.vocab_size);
  // A row is scored against the token that follows it, so there are no more scores than rows.
  if (plan.score_row.size() > rows)
    refuse("it scores " + std::to_string(plan.score_row.size()) + " of " + std::to_string(rows) + " rows.");
}

}  // namespace

Plan read_plan(const wire::StepPlan& table, const HostLimits& limits) {
  Plan plan;
  plan.open_slot = span_of(table.open_slot());
  plan.open_sample = span_of(table.open_sample());
  plan.open_prompt_tokens = span_of(table.open_prompt_tokens());
  plan.open_params = span_of(table.open_params());
  plan.open_history_end = {span_of(table.open_history_end())};
  plan.history_token_ids = span_of(table.history_token_ids());
  plan.open_stop_end = {span_of(table.open_stop_end())};
  plan.stop_token_ids = span_of(table.stop_token_ids());
  plan.open_bias_end = {span_of(table.open_bias_end())};
  plan.bias_token_ids = span_of(table.bias_token_ids());
  plan.bias = span_of(table.bias());
  plan.table_slot = span_of(table.table_slot());
  plan.table_index = span_of(table.table_index());
  plan.table_block = span_of(table.table_block());
  plan.copy_source = span_of(table.copy_source());
  plan.copy_target = span_of(table.copy_target());
  plan.sequence_slot = span_of(table.sequence_slot());
  plan.sequence_start = span_of(table.sequence_start());
  plan.sequence_num_tokens = span_of(table.sequence_num_tokens());
  plan.token_ids = span_of(table.token_ids());
  plan.sample_row = span_of(table.sample_row());
  plan.sample_slot = span_of(table.sample_slot());
  plan.score_row = span_of(table.score_row());
  plan.score_slot = span_of(table.score_slot());
  plan.score_token = span_of(table.score_token());

  check_opens(plan, table, limits);
  check_length("table_index", plan.table_index.size(), "table_slot", plan.table_slot.size());
  check_length("table_block", plan.table_block.size(), "table_slot", plan.table_slot.size());
  check_range("table_slot", plan.table_slot, limits.max_num_seqs);
  check_range("table_index", plan.table_index,
              (uint64_t{limits.max_model_len} + limits.block_size - 1) / limits.block_size);
  check_range("table_block", plan.table_block, limits.num_blocks);
  check_length("copy_target", plan.copy_target.size(), "copy_source", plan.copy_source.size());
  check_range("copy_source", plan.copy_source, limits.num_blocks);
  check_range("copy_target", plan.copy_target, limits.num_blocks);
  check_rows(plan, limits);
  return plan;
}

void validate(const HostLimits& limits) {
  const auto check = [](const char* name, uint64_t value, uint64_t least, uint64_t most) {
    if (value >= least && value <= most) return;
    throw HostError("invalid_argument", std::string(name) + " is " + std::to_string(value) +
                                            "; it must be from " + std::to_string(least) + " to " +
                                            std::to_string(most) + ".");
  };
  // Bounds far above any use; they keep the tables of slots and rows within a machine's memory.
  check("maxNumSeqs", limits.max_num_seqs, 1, 1U << 16);
  check("maxNumBatchedTokens", limits.max_num_batched_tokens, 1, 1U << 20);
  check("maxModelLen", limits.max_model_len, 1, 1U << 24);
  check("numBlocks", limits.num_blocks, 1, 1U << 28);
  check("blockSize", limits.block_size, 8, 64);
  if ((limits.block_size & (limits.block_size - 1)) != 0) {
    throw HostError("invalid_argument",
                    "blockSize is " + std::to_string(limits.block_size) + "; it must be 8, 16, 32 or 64.");
  }
}

}  // namespace kadenz
