// A device that fails under a running step: the step fails with a code and a sentence, nothing hangs, and no later
// step gives tokens. The fault is real: a kernel that traps, in the context that the host's plugin computes in. And
// one whose memory somebody else has taken when it is to come back; that test stands first, as the other one leaves no context.
//
// KADENZ_CUDA_PLUGIN names the plugin.
#include <cuda_runtime.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "host/host.h"
#include "random.h"
#include "result_generated.h"
#include "tiny_model.h"

namespace kadenz::test {
namespace {

using Bytes = std::vector<uint8_t>;

__global__ void trap_kernel() { asm("trap;"); }

HostOptions options_of(const TinyModel& model, const TemporaryFile& file) {
  HostOptions options;
  options.device = DeviceKind::kCuda;
  const char* plugin = std::getenv("KADENZ_CUDA_PLUGIN");
  options.cuda.plugin_path = plugin == nullptr ? "build/native/Release/kadenz_cuda.so" : plugin;
  options.config = model.config;
  options.tensors = model.descriptions;
  options.files = {file.path()};
  options.dtype = DType::kBFloat16;
  options.limits = {.max_num_seqs = 4,
                    .max_num_batched_tokens = 64,
                    .max_model_len = 64,
                    .num_blocks = 16,
                    .block_size = 16};
  return options;
}

// The next token of one sequence that starts at `start`; opens its slot when it starts.
Bytes step_bytes(uint64_t step, uint32_t start, std::vector<int32_t> tokens) {
  flatbuffers::FlatBufferBuilder builder;
  const auto numbers = [&](std::vector<uint32_t> values) { return builder.CreateVector(values); };
  const bool opens = start == 0;
  const wire::SamplingParams params(1, 1, 1, 0, 1, 0, 0, 0, 9, 0, 0, -1, wire::LogprobsMode::raw, false, 0);
  const auto open_params =
      builder.CreateVectorOfStructs(opens ? std::vector<wire::SamplingParams>{params} : std::vector<wire::SamplingParams>{});
  const auto one = [&](uint32_t value) { return numbers(opens ? std::vector<uint32_t>{value} : std::vector<uint32_t>{}); };
  const uint32_t count = static_cast<uint32_t>(tokens.size());
  const auto open_slot = one(0), open_sample = one(0), open_prompt = one(count), open_adapter = one(0);
  const auto history_end = one(0), stop_end = one(0), bias_end = one(0);
  const auto table_slot = one(0), table_index = one(0), table_block = one(3);
  const auto token_ids = builder.CreateVector(tokens);
  const auto sequence_slot = numbers({0}), sequence_start = numbers({start}), sequence_count = numbers({count});
  const auto sample_row = numbers({count - 1}), sample_slot = numbers({0});
  wire::StepPlanBuilder plan(builder);
  plan.add_open_slot(open_slot), plan.add_open_sample(open_sample), plan.add_open_prompt_tokens(open_prompt);
  plan.add_open_adapter(open_adapter), plan.add_open_params(open_params);
  plan.add_open_history_end(history_end), plan.add_open_stop_end(stop_end), plan.add_open_bias_end(bias_end);
  plan.add_table_slot(table_slot), plan.add_table_index(table_index), plan.add_table_block(table_block);
  plan.add_sequence_slot(sequence_slot), plan.add_sequence_start(sequence_start);
  plan.add_sequence_num_tokens(sequence_count), plan.add_token_ids(token_ids);
  plan.add_sample_row(sample_row), plan.add_sample_slot(sample_slot);
  const auto work = plan.Finish();
  builder.Finish(wire::CreateInstruction(builder, step, 0, wire::Work::StepPlan, work.Union()));
  return {builder.GetBufferPointer(), builder.GetBufferPointer() + builder.GetSize()};
}

Bytes memory_bytes(uint64_t step, bool releases) {
  flatbuffers::FlatBufferBuilder builder;
  const auto tags = wire::MemoryTags::kv_cache | wire::MemoryTags::weights;
  const auto work = releases ? wire::CreateReleaseMemory(builder, tags, false).Union()
                             : wire::CreateResumeMemory(builder, tags).Union();
  const auto type = releases ? wire::Work::ReleaseMemory : wire::Work::ResumeMemory;
  builder.Finish(wire::CreateInstruction(builder, step, 0, type, work));
  return {builder.GetBufferPointer(), builder.GetBufferPointer() + builder.GetSize()};
}

}  // namespace

TEST("memory that somebody else has taken is not resumed, and all of it is once it is free again") {
  Random random(7);
  TinyOptions shape;
  shape.dtype = DType::kBFloat16;
  const TinyModel model = make_tiny_model(random, shape);
  const TemporaryFile file(model.bytes);
  HostOptions options = options_of(model, file);
  options.limits.num_blocks = 1 << 18;  // gigabytes, so that they can be missed
  Host host(options);
  const auto run = [&](const Bytes& bytes) {
    host.submit(bytes);
    return host.collect();
  };
  const auto result_of = [](const Bytes& bytes) { return flatbuffers::GetRoot<wire::Result>(bytes.data()); };
  const Bytes before = run(step_bytes(1, 0, {1, 2, 3, 4, 5}));
  EXPECT_NOTE(result_of(before)->code() == wire::ErrorCode::none, result_of(before)->message()->str());
  const Bytes released = run(memory_bytes(2, true));
  EXPECT(result_of(released)->code() == wire::ErrorCode::none);

  size_t free_bytes = 0;
  size_t all_bytes = 0;
  void* taken = nullptr;
  EXPECT(cudaMemGetInfo(&free_bytes, &all_bytes) == cudaSuccess);
  EXPECT(cudaMalloc(&taken, free_bytes - (size_t{1} << 30)) == cudaSuccess);
  for (uint64_t step = 3; step < 5; ++step) {
    const Bytes refused = run(memory_bytes(step, false));
    EXPECT(result_of(refused)->code() == wire::ErrorCode::out_of_memory);
    const std::string message = result_of(refused)->message()->str();
    EXPECT_NOTE(message.find("Not enough device memory") != std::string::npos, message);
  }
  EXPECT(cudaFree(taken) == cudaSuccess);
  const Bytes resumed = run(memory_bytes(5, false));
  EXPECT_NOTE(result_of(resumed)->code() == wire::ErrorCode::none, result_of(resumed)->message()->str());
  const Bytes after = run(step_bytes(6, 0, {1, 2, 3, 4, 5}));
  EXPECT_NOTE(result_of(after)->code() == wire::ErrorCode::none, result_of(after)->message()->str());
  EXPECT(result_of(after)->token_ids()->Get(0) == result_of(before)->token_ids()->Get(0));
  host.close();
}

TEST("a device that fails fails the steps under way and after with a code and a sentence, and nothing hangs") {
  Random random(5);
  TinyOptions shape;
  shape.dtype = DType::kBFloat16;
  const TinyModel model = make_tiny_model(random, shape);
  const TemporaryFile file(model.bytes);
  Host host(options_of(model, file));
  const auto result_of = [](const Bytes& bytes) { return flatbuffers::GetRoot<wire::Result>(bytes.data()); };

  const Bytes first = step_bytes(1, 0, {1, 2, 3, 4, 5});
  host.submit(first);
  const Bytes good = host.collect();
  EXPECT_NOTE(result_of(good)->code() == wire::ErrorCode::none, result_of(good)->message()->str());
  EXPECT(result_of(good)->token_ids()->size() == 1);

  trap_kernel<<<1, 1>>>();
  const Bytes second = step_bytes(2, 5, {result_of(good)->token_ids()->Get(0)});
  const Bytes third = step_bytes(3, 6, {-1});
  host.submit(second);
  host.submit(third);
  uint32_t failed = 0;
  for (int i = 0; i < 2; ++i) {
    const Bytes bytes = host.collect();
    const wire::Result* result = result_of(bytes);
    if (result->code() == wire::ErrorCode::none) continue;  // done before the trap was noticed
    ++failed;
    EXPECT(result->code() == wire::ErrorCode::step_failed);
    EXPECT(result->token_ids() == nullptr || result->token_ids()->size() == 0);
  }
  EXPECT(cudaDeviceSynchronize() != cudaSuccess);
  const Bytes fourth = step_bytes(4, 0, {1, 2, 3});
  host.submit(fourth);
  const Bytes last = host.collect();
  EXPECT(result_of(last)->code() == wire::ErrorCode::step_failed);
  EXPECT_NOTE(result_of(last)->message()->str().find("cuda") != std::string::npos, result_of(last)->message()->str());
  host.close();
}

}  // namespace kadenz::test
