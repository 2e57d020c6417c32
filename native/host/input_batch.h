// One step's plan turned into the decoder's batch: sampled tokens of the step before are filled in (where the
// host knows them; else the row keeps its reference), each sequence gets its slot's block table, and the rows whose hidden state is needed are listed once, in order.
//
// Everything that needs the slots or the step before is checked here. Buffers are kept between steps.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "host/plan.h"
#include "host/slots.h"
#include "model/batch.h"

namespace kadenz {

// A sample of the step before, as later rows may refer to it.
struct PreviousSample {
  uint32_t slot;
  uint32_t position;  // of the sampled token
  int32_t token_id;   // -1: the sample failed. kOnDevice: the device knows, and gathers it
};

inline constexpr int32_t kOnDevice = INT32_MIN;

class InputBatch {
 public:
  // Throws HostError("step_failed") with a sentence. The slots must have the plan's opens and table entries.
  void build(const Plan& plan, const HostLimits& limits, const SlotTable& slots,
             std::span<const PreviousSample> previous);

  DecoderBatch decoder_batch() const {
    return {token_ids_, sequences_, copies_, output_rows_, table_updates_};
  }
  // Index of a row among the output rows. Only for rows that are sampled or scored.
  uint32_t output_index(uint32_t row) const { return output_index_[row]; }
  size_t num_outputs() const { return output_rows_.size(); }
  uint32_t position(uint32_t row) const { return positions_[row]; }
  // The row's input came from a sample that failed (NaN logits), so nothing that follows it means anything.
  // Known here only where the host knows the samples.
  bool is_poisoned(uint32_t row) const { return poisoned_[row] != 0; }

 private:
  void add_sequence(const Plan& plan, size_t i, uint32_t first_row, const HostLimits& limits,
                    const SlotTable& slots, std::span<const PreviousSample> previous);
  void check_samples(const Plan& plan, const SlotTable& slots) const;

  std::vector<int32_t> token_ids_;
  std::vector<SequenceSpan> sequences_;
  std::vector<BlockCopy> copies_;
  std::vector<TableUpdate> table_updates_;
  std::vector<uint32_t> output_rows_;
  std::vector<uint32_t> output_index_;  // by row
  std::vector<uint32_t> positions_;     // by row
  std::vector<uint8_t> poisoned_;       // by row
  std::vector<uint8_t> slot_seen_;      // by slot, for duplicates
};

}  // namespace kadenz
