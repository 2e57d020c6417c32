// Carries out instructions, one at a time: owns the decoder, the slots and what the step before sampled. It
// decides nothing; an instruction that can't be carried out gives a Result with a code and a sentence, and
// the process lives.
//
// After a failed step its slots hold what the plan said or what they held before, whichever; nothing of them
// is read again without being opened anew, because a failed step ends its sequences. What a later step
// gathers from it is refused.
//
// Memory: a released KV cache is given back to the system and comes back empty; released weights are kept in
// host memory by a device that can do that, else dropped and packed again from the checkpoint's files, which
// stay mapped for that. Steps are refused in between.
//
// begin() may return before the device is done; finish() waits. Constructed by one thread; begin() is called
// by one other, the host's; finish() in the order of the begins, by the host's thread or, where the device is
// asynchronous, by the client's.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "flatbuffers/flatbuffers.h"
#include "host/device.h"
#include "host/input_batch.h"
#include "host/options.h"
#include "host/sampling_step.h"
#include "host/slots.h"
#include "instruction_generated.h"
#include "model/decoder.h"

namespace kadenz {

class Executor {
 public:
  // Throws HostError: invalid_argument, what the weights and the decoder refuse, unsupported_cpu_isa.
  explicit Executor(const HostOptions& options);

  // An instruction that was begun: its step is under way, or its outcome is known already.
  struct Begun {
    uint64_t step = 0;
    bool is_under_way = false;
    wire::ErrorCode code = wire::ErrorCode::none;
    std::string message;
  };

  // `instruction` has passed the verifier. Null: the bytes were no instruction.
  Begun begin(const wire::Instruction* instruction);
  // Gives the Result's bytes.
  std::vector<uint8_t> finish(const Begun& begun);

  bool is_asynchronous() const { return device_->is_asynchronous(); }
  const Device& device() const { return *device_; }
  uint32_t num_blocks() const { return limits_.num_blocks; }
  uint64_t weight_bytes() const { return weight_bytes_; }
  uint64_t kv_bytes() const { return kv_bytes_; }
  uint64_t scratch_bytes() const { return scratch_bytes_; }

 private:
  void run_step(const wire::StepPlan& table, std::span<const PreviousSample> before);
  void release_memory(wire::MemoryTags tags);
  void resume_memory(wire::MemoryTags tags);
  void carry_out(const wire::Instruction& instruction, std::span<const PreviousSample> before);
  void note_memory();

  HostLimits limits_;
  std::unique_ptr<Device> device_;
  WeightFiles files_;
  std::unique_ptr<Decoder> decoder_;
  SlotTable slots_;
  InputBatch batch_;
  Outcomes samples_, scores_;  // of finish()
  std::vector<PreviousSample> previous_;  // of the instruction before, if that was a step and went well
  flatbuffers::FlatBufferBuilder builder_;
  bool kv_cache_released_ = false;
  bool weights_released_ = false;
  bool shut_down_ = false;
  std::atomic<uint64_t> weight_bytes_{0}, kv_bytes_{0}, scratch_bytes_{0};  // read by other threads
};

}  // namespace kadenz
