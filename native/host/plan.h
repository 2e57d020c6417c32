// A StepPlan as spans over the instruction's own bytes, and the checks that need no state: vectors of one
// group have one length, running ends are monotone and end where their flat vector does, and every slot,
// block, token, row and parameter is within its limit. What needs to know the slots (is it open, do its
// blocks cover these positions) is in input_batch.h.
//
// The bytes must have passed the FlatBuffers verifier, and must outlive the plan.
#pragma once

#include <cstdint>
#include <span>

#include "host/options.h"
#include "instruction_generated.h"

namespace kadenz {

// Entry i of a running-ends vector owns [begin(i), end(i)) of its flat vector.
struct RunningEnds {
  std::span<const uint32_t> ends;

  size_t begin(size_t i) const { return i == 0 ? 0 : ends[i - 1]; }
  size_t end(size_t i) const { return ends[i]; }
};

struct Plan {
  std::span<const uint32_t> open_slot, open_sample, open_prompt_tokens;
  std::span<const wire::SamplingParams> open_params;
  RunningEnds open_history_end;
  std::span<const int32_t> history_token_ids;
  RunningEnds open_stop_end;
  std::span<const int32_t> stop_token_ids;
  RunningEnds open_bias_end;
  std::span<const int32_t> bias_token_ids;
  std::span<const float> bias;

  std::span<const uint32_t> table_slot, table_index, table_block;
  std::span<const uint32_t> copy_source, copy_target;

  std::span<const uint32_t> sequence_slot, sequence_start, sequence_num_tokens;
  std::span<const int32_t> token_ids;

  std::span<const uint32_t> sample_row, sample_slot;
  std::span<const uint32_t> score_row, score_slot;
  std::span<const int32_t> score_token;
};

// Throws HostError("step_failed") with a sentence that names the vector, the entry, the value and the limit.
Plan read_plan(const wire::StepPlan& table, const HostLimits& limits);

}  // namespace kadenz
