#include "host/executor.h"

#include <exception>
#include <string>
#include <utility>

#include "host/cpu_device.h"
#include "host/cuda_plugin.h"
#include "host/result.h"
#include "model/error.h"
#include "model/float_environment.h"

namespace kadenz {
namespace {

HostLimits limits_of(const HostOptions& options) {
  validate(options.limits);
  validate(options.config);
  HostLimits limits = options.limits;
  limits.vocab_size = static_cast<uint32_t>(options.config.vocab_size);
  return limits;
}

bool has(wire::MemoryTags tags, wire::MemoryTags tag) { return (tags & tag) == tag; }

void check_tags(wire::MemoryTags tags) {
  const auto known = wire::MemoryTags::kv_cache | wire::MemoryTags::weights;
  if (static_cast<uint8_t>(tags) != 0 && (tags & known) == tags) return;
  throw HostError("invalid_argument", "The memory tags are " + std::to_string(static_cast<int>(tags)) +
                                          "; they must be 1 (KV cache), 2 (weights) or 3.");
}

wire::ErrorCode code_of(const HostError& error) {
  for (const wire::ErrorCode code : {wire::ErrorCode::weights_unavailable, wire::ErrorCode::memory_released,
                                     wire::ErrorCode::memory_not_released, wire::ErrorCode::shut_down,
                                     wire::ErrorCode::invalid_argument, wire::ErrorCode::unsupported,
                                     wire::ErrorCode::out_of_memory}) {
    if (error.code() == wire::EnumNameErrorCode(code)) return code;
  }
  return wire::ErrorCode::step_failed;
}

}  // namespace

Executor::Executor(const HostOptions& options)
    : limits_(limits_of(options)),
      device_(options.device == DeviceKind::kCuda ? open_cuda_device(options) : make_cpu_device(options)),
      files_(options.files, options.tensors),
      slots_(limits_.max_num_seqs) {
  const CacheShape cache{limits_.num_blocks, limits_.block_size, options.dtype};
  // A device that records its steps needs its buffers to stay where they are.
  Reserve reserve;
  if (device_->is_asynchronous()) reserve = {limits_.max_num_batched_tokens, limits_.max_num_batched_tokens};
  decoder_ = std::make_unique<Decoder>(options.config, files_, device_->ops(), cache, reserve);
  limits_.num_blocks = decoder_->num_blocks();
  device_->warm_up(*decoder_);
  note_memory();
}

void Executor::note_memory() {
  weight_bytes_ = decoder_->weight_bytes();
  kv_bytes_ = decoder_->kv_bytes();
  scratch_bytes_ = decoder_->scratch_bytes() + device_->scratch_bytes();
}

void Executor::run_step(const wire::StepPlan& table, std::span<const PreviousSample> before) {
  if (kv_cache_released_)
    throw HostError("memory_released", "The KV cache is released; resume it before the next step.");
  if (weights_released_)
    throw HostError("memory_released", "The weights are released; resume them before the next step.");
  const Plan plan = read_plan(table, limits_);
  slots_.apply(plan);
  batch_.build(plan, limits_, slots_, before);
  device_->begin_step(plan, batch_, slots_);
  decoder_->forward(batch_.decoder_batch());
  for (size_t i = 0; i < plan.sequence_slot.size(); ++i) {
    slots_[plan.sequence_slot[i]].next_position = plan.sequence_start[i] + plan.sequence_num_tokens[i];
  }
  device_->start(plan, batch_, slots_, *decoder_);
  const bool on_device = device_->is_asynchronous();
  if (!on_device) device_->collect(samples_, scores_);

  previous_.reserve(plan.sample_row.size());
  for (size_t i = 0; i < plan.sample_row.size(); ++i) {
    const int32_t token_id = on_device ? kOnDevice : samples_.tokens[i].token_id;
    previous_.push_back({plan.sample_slot[i], batch_.position(plan.sample_row[i]) + 1, token_id});
    Slot& slot = slots_[plan.sample_slot[i]];
    if (!slot.has_penalties) continue;
    ++slot.history_tokens;
    if (token_id >= 0) slot.counts.add_output_token(token_id);
  }
}

void Executor::release_memory(wire::MemoryTags tags) {
  check_tags(tags);
  if (has(tags, wire::MemoryTags::kv_cache)) {
    decoder_->release_cache();
    kv_cache_released_ = true;
  }
  if (has(tags, wire::MemoryTags::weights)) {
    decoder_->release_weights();
    weights_released_ = true;
  }
}

void Executor::resume_memory(wire::MemoryTags tags) {
  check_tags(tags);
  const bool kv_cache = has(tags, wire::MemoryTags::kv_cache);
  const bool weights = has(tags, wire::MemoryTags::weights);
  if (kv_cache && !kv_cache_released_)
    throw HostError("memory_not_released", "The KV cache is not released.");
  if (weights && !weights_released_) throw HostError("memory_not_released", "The weights are not released.");
  // All or nothing: what failed may be asked for again as it was.
  if (kv_cache) decoder_->restore_cache();
  try {
    if (weights) decoder_->restore_weights(files_);
  } catch (...) {
    if (kv_cache) decoder_->release_cache();
    throw;
  }
  if (kv_cache) kv_cache_released_ = false;
  if (weights) weights_released_ = false;
}

void Executor::carry_out(const wire::Instruction& instruction, std::span<const PreviousSample> before) {
  if (shut_down_) throw HostError("shut_down", "The host has been shut down.");
  if (instruction.work_type() == wire::Work::StepPlan) {
    return run_step(*instruction.work_as_StepPlan(), before);
  }
  switch (instruction.work_type()) {
    case wire::Work::BeginWeightUpdate:
    case wire::Work::FinishWeightUpdate:
      return;  // the core keeps the version; tensors that were sent are in place when this comes
    case wire::Work::ReleaseMemory:
      release_memory(instruction.work_as_ReleaseMemory()->tags());
      return note_memory();
    case wire::Work::ResumeMemory:
      resume_memory(instruction.work_as_ResumeMemory()->tags());
      return note_memory();
    case wire::Work::LoadAdapter:
    case wire::Work::UnloadAdapter: throw HostError("unsupported", "This host runs without adapters.");
    case wire::Work::SetParallelGroups: {
      const wire::SetParallelGroups& groups = *instruction.work_as_SetParallelGroups();
      if (groups.tensor_parallel_size() == 1 && groups.pipeline_parallel_size() == 1 &&
          groups.data_parallel_size() == 1 && groups.rank() == 0) {
        return;
      }
      throw HostError(
          "unsupported",
          "This host is one rank: tensor, pipeline and data parallel size must be 1, the rank 0.");
    }
    case wire::Work::Shutdown: shut_down_ = true; return;
    default:
      throw HostError("unsupported", "The instruction holds work of the unknown kind " +
                                         std::to_string(static_cast<int>(instruction.work_type())) + ".");
  }
}

Executor::Begun Executor::begin(const wire::Instruction* instruction) {
  const std::vector<PreviousSample> before = std::exchange(previous_, {});
  if (instruction == nullptr)
    return {0, false, wire::ErrorCode::step_failed, "The bytes are not a valid instruction."};
  const FloatEnvironment environment;
  Begun begun;
  begun.step = instruction->step();
  try {
    device_->enter_thread();
    carry_out(*instruction, before);
    begun.is_under_way = instruction->work_type() == wire::Work::StepPlan;
    if (begun.is_under_way) scratch_bytes_ = decoder_->scratch_bytes() + device_->scratch_bytes();
  } catch (const HostError& error) {
    begun.code = code_of(error);
    begun.message = error.what();
  } catch (const std::bad_alloc&) {
    begun.code = wire::ErrorCode::step_failed;
    begun.message = "There is not enough memory for this step.";
  }
  return begun;
}

std::vector<uint8_t> Executor::finish(const Begun& begun) {
  if (!begun.is_under_way) return write_result(builder_, begun.step, begun.code, begun.message);
  try {
    device_->enter_thread();
    if (device_->is_asynchronous()) device_->collect(samples_, scores_);
    return write_result(builder_, begun.step, samples_, scores_);
  } catch (const HostError& error) {
    return write_result(builder_, begun.step, code_of(error), error.what());
  } catch (const std::bad_alloc&) {
    return write_result(builder_, begun.step, wire::ErrorCode::step_failed,
                        "There is not enough memory for this step's result.");
  }
}

}  // namespace kadenz
