// All samples and scores of one step on the device, the twin of host/sampling_step.h:
//
//   open_slots → begin → (the upload is sent) → run_chunk for each chunk of output rows, in order → end
//   → (later) collect
//
// Everything up to end() only enqueues on the stream. Up to kStepsInFlight steps may be ended and not yet
// collected; tickets are collected in order. A step that fails between begin() and end() is forgotten by the
// next open_slots() or begin().
//
// Nothing is copied for it: what slots bring is read from page-locked memory, the items come with the step's
// upload, and the kernels leave the outcomes in page-locked memory, which they never read.
//
// The device keeps what a slot brings from its opening on: its parameters, its biases and stop ids, and, with
// penalties, a counter for each token of the vocabulary, which the sampling kernels advance themselves, since
// the host runs ahead of the tokens.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

#include "cuda/device_buffer.h"
#include "cuda/kernels/sampling.h"
#include "cuda/step_upload.h"
#include "host/input_batch.h"
#include "host/plan.h"
#include "host/sampling_step.h"
#include "host/slots.h"

namespace kadenz::cuda {

class SamplingStep {
 public:
  static constexpr uint32_t kStepsInFlight = 3;

  // logits_stride: floats from row to row, where that is more than vocab_size.
  // poisoned: on the device, by row of the step, as prepare_rows() leaves it; null: none ever is.
  SamplingStep(uint32_t vocab_size, uint32_t max_num_seqs, uint32_t max_rows_of_a_step, cudaStream_t stream,
               const uint8_t* poisoned, uint32_t logits_stride = 0);
  ~SamplingStep();
  SamplingStep(const SamplingStep&) = delete;
  SamplingStep& operator=(const SamplingStep&) = delete;

  // Takes over what the plan's opened slots bring; the table must have the plan already. Throws
  // HostError("step_failed") when a slot asks for more log-probs than a list holds.
  void open_slots(const Plan& plan, const SlotTable& slots);
  // Lists the step's items and adds them to the upload.
  void begin(const Plan& plan, const InputBatch& batch, const SlotTable& slots, StepUpload& upload);
  // How many output rows' logits are best made at once.
  uint32_t chunk_rows() const { return chunk_rows_; }
  // Samples and scores the output rows first_output .. + count - 1. logits: [count][logits_stride], left as it
  // is.
  void run_chunk(const float* logits, uint32_t first_output, uint32_t count);
  // Returns the ticket.
  uint32_t end();
  // Waits for the step and fills both in the plan's order.
  void collect(uint32_t ticket, Outcomes& samples, Outcomes& scores);

  // Of the latest step, on the device: sample i's token at [i], -1 where it failed.
  const int32_t* sampled_tokens() const { return sampled_tokens_.data(); }
  uint64_t device_bytes() const;

 private:
  // What a slot's items have in common, and the memory behind it.
  struct OpenSlot {
    SampleParams sample{};  // without a mask
    SampleParams score{};
    uint32_t num_stops = 0;
    DeviceBuffer<uint32_t> counts;
    DeviceBuffer<uint32_t> list;  // bias ids, bias values, stop ids
  };
  // One of the steps in flight, on the host's side.
  struct Ticket {
    PinnedBuffer<SampleParams> items;
    PinnedBuffer<uint8_t> opening;
    PinnedBuffer<uint8_t> results;  // outcomes, then the lists' token ids, then their log-probs
    cudaEvent_t done = nullptr;
    std::vector<uint32_t> sample_top_begin, score_top_begin;
    uint32_t sample_entries = 0, score_entries = 0;  // of the top lists

    uint32_t outcomes() const {
      return static_cast<uint32_t>(sample_top_begin.size() + score_top_begin.size());
    }
  };
  enum class Phase { kIdle, kOpened, kBegun };

  Ticket& next_ticket() { return tickets_[next_ % kStepsInFlight]; }
  void enter(Phase phase);
  void note_slot(OpenSlot& open, const Slot& slot);
  void lay_out(const Plan& plan, Ticket& ticket);
  void add_item(const SampleParams& item);
  SamplingTarget target_of(const float* logits, uint32_t first_output);

  const uint32_t vocab_size_;
  const uint32_t logits_stride_;
  const uint32_t max_items_;
  const uint32_t general_items_;  // run at once
  const cudaStream_t stream_;
  const uint8_t* const poisoned_;
  uint32_t chunk_rows_;
  Phase phase_ = Phase::kIdle;
  std::atomic<uint32_t> next_ = 0;  // ticket of the step being built
  std::atomic<uint32_t> collected_ = 0;  // tickets below are free again; collect() may run in another thread

  std::vector<OpenSlot> slots_;
  std::vector<SampleParams> plain_, general_;  // of the step being built, by output row
  std::array<Ticket, kStepsInFlight> tickets_;

  DeviceBuffer<SampleParams> items_;  // plain ones, then the others
  DeviceBuffer<SamplingTile> tiles_;
  DeviceBuffer<float> scratch_;  // [general_items_][vocab_size_ rounded up to 4], once a slot has edits
  DeviceBuffer<int32_t> sampled_tokens_;
};

}  // namespace kadenz::cuda
