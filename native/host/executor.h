// Carries out instructions, one at a time: owns the decoder, the slots and what the step before sampled. It
// decides nothing; an instruction that can't be carried out gives a Result with a code and a sentence, and
// the process lives.
//
// After a failed step its slots hold what the plan said or what they held before, whichever; nothing of them
// is read again without being opened anew, because a failed step ends its sequences. What a later step
// gathers from it is refused.
//
// Memory: a released KV cache is given back to the operating system and comes back empty; released weights
// are dropped and packed again from the checkpoint's files, which stay mapped for that. Steps are refused in
// between.
//
// Constructed by one thread and then used by one other, the host's.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cpu/isa.h"
#include "flatbuffers/flatbuffers.h"
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

  // `instruction` has passed the verifier. Gives the Result's bytes.
  std::vector<uint8_t> execute(const wire::Instruction& instruction);
  // The Result of bytes that are no instruction.
  std::vector<uint8_t> refuse(const std::string& sentence);

  CpuIsa isa() const { return isa_; }
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
  CpuIsa isa_;
  std::unique_ptr<Ops> ops_;
  WeightFiles files_;
  std::unique_ptr<Decoder> decoder_;
  SlotTable slots_;
  InputBatch batch_;
  SamplingStep sampling_;
  std::vector<PreviousSample> previous_;  // of the instruction before, if that was a step and went well
  flatbuffers::FlatBufferBuilder builder_;
  bool kv_cache_released_ = false;
  bool weights_released_ = false;
  bool shut_down_ = false;
  std::atomic<uint64_t> weight_bytes_{0}, kv_bytes_{0}, scratch_bytes_{0};  // read by other threads
};

}  // namespace kadenz
