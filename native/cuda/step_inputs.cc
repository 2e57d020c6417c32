#include "cuda/step_inputs.h"

#include <algorithm>
#include <string>

#include "model/error.h"

namespace kadenz::cuda {
namespace {

constexpr uint64_t kAlignment = 16;

uint64_t aligned(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Lays sections one after the other, in host memory and at the same offsets on the device.
class Layout {
 public:
  Layout(std::byte* host, std::byte* device) : host_(host), device_(device) {}

  // Gives where to write; `on_device` is where it will be read.
  template <class Element>
  Element* section(uint64_t count, const Element*& on_device) {
    on_device = reinterpret_cast<const Element*>(device_ + used_bytes_);
    Element* place = reinterpret_cast<Element*>(host_ + used_bytes_);
    used_bytes_ += aligned(count * sizeof(Element));
    return place;
  }
  uint64_t used_bytes() const { return used_bytes_; }

 private:
  std::byte* host_;
  std::byte* device_;
  uint64_t used_bytes_ = 0;
};

}  // namespace

StepInputs::StepInputs(const Sizes& most, cudaStream_t stream)
    : most_(most),
      sequences_bytes_(aligned(most.sequences * sizeof(AttentionSequence))),
      offsets_bytes_(aligned(most.split_offsets * sizeof(uint32_t))),
      list_bytes_(offsets_bytes_ + most.split_items * sizeof(SplitItem)),
      stream_(stream),
      fixed_(sequences_bytes_ + most.split_lists * list_bytes_) {
  for (Slot& slot : slots_) {
    slot.fixed = zeroed_pinned<std::byte>(fixed_.bytes());
    check(cudaEventCreateWithFlags(&slot.done, cudaEventDisableTiming), "cudaEventCreate");
  }
  check(cudaMemsetAsync(fixed_.data(), 0, fixed_.bytes(), stream), "cudaMemsetAsync");
}

StepInputs::~StepInputs() {
  for (Slot& slot : slots_) {
    if (slot.done != nullptr) cudaEventDestroy(slot.done);
  }
}

// Each list is a segment of its own, since no more than what it holds is worth sending.
void StepInputs::write_fixed(Slot& slot, const AttentionWork& work, StepUpload& upload) {
  bool fits = work.sequences.size() <= most_.sequences && work.split_lists.size() <= most_.split_lists;
  for (const SplitList& list : work.split_lists) {
    fits = fits && list.items.size() <= most_.split_items && list.offsets.size() <= most_.split_offsets;
  }
  if (!fits) {
    throw HostError("step_failed", "The step has " + std::to_string(work.sequences.size()) +
                                       " sequences, or attention items, for which the device was not set up.");
  }
  std::byte* host = slot.fixed.data();
  std::ranges::copy(work.sequences, reinterpret_cast<AttentionSequence*>(host));
  upload.add(host, fixed_.data(), work.sequences.size_bytes());
  for (size_t i = 0; i < work.split_lists.size(); ++i) {
    const SplitList& list = work.split_lists[i];
    const uint64_t at = list_at(i);
    std::byte* place = host + at;
    std::ranges::copy(list.offsets, reinterpret_cast<uint32_t*>(place));
    std::ranges::copy(list.items, reinterpret_cast<SplitItem*>(place + offsets_bytes_));
    upload.add(place, fixed_.data() + at, offsets_bytes_ + list.items.size_bytes());
  }
}

void StepInputs::write_own(Slot& slot, const DecoderBatch& batch, uint32_t run_rows,
                           std::span<const BlockItem> block_items, StepUpload& upload) {
  const uint64_t needed = aligned(run_rows * sizeof(RowInput)) + aligned(block_items.size_bytes()) +
                          aligned(batch.output_rows.size_bytes()) +
                          aligned(batch.table_updates.size_bytes()) + aligned(batch.copies.size_bytes());
  if (slot.own.bytes() < needed) {
    const uint64_t bytes = std::max<uint64_t>(needed + needed / 2, 1 << 16);
    slot.own = zeroed_pinned<std::byte>(bytes);
    slot.own_on_device = DeviceBuffer<std::byte>(bytes);
  }
  Layout layout(slot.own.data(), slot.own_on_device.data());
  RowInput* rows = layout.section(run_rows, rows_);
  for (const SequenceSpan& span : batch.sequences) {
    for (uint32_t i = 0; i < span.num_rows; ++i) {
      const uint32_t row = span.first_row + i;
      rows[row] = {batch.token_ids[row], static_cast<int32_t>(span.slot),
                   static_cast<int32_t>(span.start_position + i)};
    }
  }
  for (uint64_t row = batch.token_ids.size(); row < run_rows; ++row) rows[row] = {0, 0, -1};
  std::ranges::copy(block_items, layout.section(block_items.size(), block_items_));
  std::ranges::copy(batch.output_rows, layout.section(batch.output_rows.size(), output_rows_));
  std::ranges::copy(batch.table_updates, layout.section(batch.table_updates.size(), table_updates_));
  std::ranges::copy(batch.copies, layout.section(batch.copies.size(), copies_));
  upload.add(slot.own.data(), slot.own_on_device.data(), layout.used_bytes());
}

void StepInputs::write(const DecoderBatch& batch, uint32_t run_rows, const AttentionWork& work,
                       StepUpload& upload) {
  current_ = (current_ + 1) % kStepsInFlight;
  Slot& slot = slots_[current_];
  check(cudaEventSynchronize(slot.done), "cudaEventSynchronize");
  write_fixed(slot, work, upload);
  write_own(slot, batch, run_rows, work.block_items, upload);
}

void StepInputs::end_step() { check(cudaEventRecord(slots_[current_].done, stream_), "cudaEventRecord"); }

uint64_t StepInputs::bytes() const {
  uint64_t bytes = fixed_.bytes();
  for (const Slot& slot : slots_) bytes += slot.own_on_device.bytes();
  return bytes;
}

}  // namespace kadenz::cuda
