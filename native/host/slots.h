// What the host remembers of each running sequence, one row per slot. The core opens a slot, extends its
// block table and samples for it; the host never decides when a slot ends: opening it again is the end of
// what it held.
//
// Used by the executor's thread alone. Slot numbers and table indices must have been checked against the
// limits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "host/options.h"
#include "host/plan.h"
#include "host/token_counts.h"
#include "types_generated.h"

namespace kadenz {

inline constexpr uint32_t kNoBlock = UINT32_MAX;
inline constexpr uint32_t kUnknownPosition = UINT32_MAX;

struct LogitBias {
  int32_t token_id;
  float bias;
};

struct Slot {
  bool open = false;
  wire::SamplingParams params;
  uint32_t sample = 0;  // index of the sample in its request
  uint32_t prompt_tokens = 0;
  bool has_penalties = false;
  TokenCounts counts;                   // only with penalties
  uint32_t history_tokens = 0;          // known tokens, prompt and output; only with penalties
  std::vector<int32_t> stop_token_ids;  // may not be sampled before min_tokens
  std::vector<LogitBias> bias;
  std::vector<uint32_t> block_table;          // kNoBlock where no block was given yet
  uint32_t leading_blocks = 0;                // so many entries from the first on name a block
  uint32_t next_position = kUnknownPosition;  // end of what this slot has computed since it was opened
};

class SlotTable {
 public:
  explicit SlotTable(uint32_t max_num_seqs) : slots_(max_num_seqs) {}

  // Opens slots, then sets table entries. Throws HostError("step_failed") when a slot is opened twice, has
  // penalties but not its history, or gets a table entry while it is closed.
  void apply(const Plan& plan);

  const Slot& operator[](uint32_t index) const { return slots_[index]; }
  Slot& operator[](uint32_t index) { return slots_[index]; }

 private:
  void open(const Plan& plan, size_t i);

  std::vector<Slot> slots_;
};

}  // namespace kadenz
