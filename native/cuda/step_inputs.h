// One step's integers on their way to the device: rows, sequences, attention's work list, table updates, block
// copies, output rows. What captured graphs read lies at addresses that never change, the rest in a buffer of
// the step's own.
//
// Up to kStepsInFlight steps may be under way; a step's buffers are used again only when the device is done
// with them.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "cuda/device_buffer.h"
#include "cuda/kernels/attention.h"
#include "cuda/kernels/prepare.h"
#include "cuda/step_upload.h"
#include "model/batch.h"

namespace kadenz::cuda {

// What attention_plan.h made of the step: a split list for each window that a layer has.
struct SplitList {
  std::span<const uint32_t> offsets;
  std::span<const SplitItem> items;
};

struct AttentionWork {
  std::span<const AttentionSequence> sequences;
  std::vector<SplitList> split_lists;
  std::span<const BlockItem> block_items;
};

inline constexpr uint32_t kStepsInFlight = 4;

class StepInputs {
 public:
  struct Sizes {
    uint64_t sequences;
    uint64_t split_lists;
    uint64_t split_offsets;  // of a list
    uint64_t split_items;    // of a list
  };
  StepInputs(const Sizes& most, cudaStream_t stream);
  ~StepInputs();
  StepInputs(const StepInputs&) = delete;
  StepInputs& operator=(const StepInputs&) = delete;

  // Adds the step's to the upload. Rows from the batch's last one to `run_rows` are padding.
  void write(const DecoderBatch& batch, uint32_t run_rows, const AttentionWork& work, StepUpload& upload);
  // Marks the end of the step's use of its buffers.
  void end_step();

  // The same for every step
  const AttentionSequence* sequences() const { return fixed<AttentionSequence>(0); }
  const uint32_t* split_offsets(size_t list) const { return fixed<uint32_t>(list_at(list)); }
  const SplitItem* split_items(size_t list) const {
    return fixed<SplitItem>(list_at(list) + offsets_bytes_);
  }
  // Of the step written last
  const RowInput* rows() const { return rows_; }
  const BlockItem* block_items() const { return block_items_; }
  const uint32_t* output_rows() const { return output_rows_; }
  const TableUpdate* table_updates() const { return table_updates_; }
  const BlockCopy* copies() const { return copies_; }

  uint64_t bytes() const;  // on the device

 private:
  struct Slot {
    PinnedBuffer<std::byte> fixed, own;
    DeviceBuffer<std::byte> own_on_device;
    cudaEvent_t done = nullptr;
  };

  template <class Element>
  const Element* fixed(uint64_t offset_bytes) const {
    return reinterpret_cast<const Element*>(fixed_.data() + offset_bytes);
  }
  void write_fixed(Slot& slot, const AttentionWork& work, StepUpload& upload);
  void write_own(Slot& slot, const DecoderBatch& batch, uint32_t run_rows,
                 std::span<const BlockItem> block_items, StepUpload& upload);

  uint64_t list_at(size_t list) const { return sequences_bytes_ + list * list_bytes_; }

  const Sizes most_;
  // In the fixed part: the sequences, then list after list, offsets before items
  const uint64_t sequences_bytes_, offsets_bytes_, list_bytes_;
  cudaStream_t stream_;
  DeviceBuffer<std::byte> fixed_;
  std::array<Slot, kStepsInFlight> slots_;
  uint32_t current_ = 0;

  const RowInput* rows_ = nullptr;
  const BlockItem* block_items_ = nullptr;
  const uint32_t* output_rows_ = nullptr;
  const TableUpdate* table_updates_ = nullptr;
  const BlockCopy* copies_ = nullptr;
};

}  // namespace kadenz::cuda
