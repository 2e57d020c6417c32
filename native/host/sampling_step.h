// All samples and scores of one step: logits are made for some output rows at a time (so that memory stays
// bounded whatever the vocabulary), and each chunk's rows are worked on in parallel. An outcome goes to a
// place of its own, so threads and chunk sizes never show.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "host/input_batch.h"
#include "host/plan.h"
#include "host/sampler.h"
#include "host/slots.h"
#include "model/decoder.h"
#include "model/ops.h"

namespace kadenz {

// Outcomes in the plan's order, with their top lists.
struct Outcomes {
  std::vector<TokenOutcome> tokens;
  std::vector<uint32_t> top_begin;  // one per token: where its list begins in the vectors below
  std::vector<int32_t> top_token_ids;
  std::vector<float> top_logprobs;
};

class SamplingStep {
 public:
  SamplingStep(const LogitKernels& kernels, uint32_t vocab_size);

  // Throws HostError("step_failed") when the lists asked for are larger than any result should be.
  void run(const Plan& plan, const InputBatch& batch, const SlotTable& slots, Decoder& decoder, Ops& ops);

  // The last run's outcomes, exchanged with the caller's, whose memory the next run uses.
  void take(Outcomes& samples, Outcomes& scores) {
    std::swap(samples, samples_);
    std::swap(scores, scores_);
  }
  uint64_t scratch_bytes() const { return logits_.capacity() * sizeof(float); }

 private:
  struct Item {
    uint32_t output;  // index among the output rows
    uint32_t index;   // of the sample or score
    bool is_score;
  };
  class BorrowedSampler;

  void list_items(const Plan& plan, const InputBatch& batch, const SlotTable& slots);
  void run_chunk(uint32_t first_output, uint32_t count, size_t first_item, size_t end_item, const Plan& plan,
                 const InputBatch& batch, const SlotTable& slots, Ops& ops);
  void run_item(const Item& item, LogitRow& row, const Plan& plan, const InputBatch& batch,
                const SlotTable& slots, Sampler& sampler);

  const LogitKernels& kernels_;
  const uint32_t vocab_size_;
  uint32_t chunk_rows_;
  std::vector<float> logits_;  // [chunk_rows_][vocab_size_]
  std::vector<LogitRow> rows_;
  std::vector<Item> items_;  // by output row, then samples before scores, then in the plan's order
  Outcomes samples_;
  Outcomes scores_;

  std::mutex samplers_mutex_;
  std::vector<std::unique_ptr<Sampler>> idle_samplers_;
};

}  // namespace kadenz
