// The host as a whole, natively, so that sanitizers can watch it: hostile bytes, and a client and its
// executor at once.
#include "host/host.h"

#include <vector>

#include "check.h"
#include "random.h"
#include "result_generated.h"
#include "tiny_model.h"

namespace kadenz::test {
namespace {

using Bytes = std::vector<uint8_t>;

HostOptions options_of(const TinyModel& model, const TemporaryFile& file) {
  HostOptions options;
  options.config = model.config;
  options.tensors = model.descriptions;
  options.files = {file.path()};
  options.limits = {.max_num_seqs = 4,
                    .max_num_batched_tokens = 64,
                    .max_model_len = 64,
                    .num_blocks = 16,
                    .block_size = 16};
  options.num_threads = 2;
  return options;
}

// Two sequences of 5 and 3 tokens; everything that a plan may hold is in it.
Bytes step_bytes(uint64_t step) {
  flatbuffers::FlatBufferBuilder builder;
  const auto numbers = [&](std::vector<uint32_t> values) { return builder.CreateVector(values); };
  const auto tokens = [&](std::vector<int32_t> values) { return builder.CreateVector(values); };
  const wire::SamplingParams greedy(1, 0, 1, 0, 1.5F, 0.5F, 0, 0, 9, 2, 2, -1, wire::LogprobsMode::raw, false,
                                    0);
  const wire::SamplingParams filtered(2, 1, 0.9F, 0.01F, 1, 0, 0, 7, 9, 0, 0, 2,
                                      wire::LogprobsMode::processed, false, 0);
  const auto params = builder.CreateVectorOfStructs(std::vector<wire::SamplingParams>{greedy, filtered});
  const auto bias = builder.CreateVector(std::vector<float>{1.0F, -2.0F});
  const auto plan = wire::CreateStepPlan(
      builder, numbers({0, 2}), numbers({0, 1}), numbers({5, 3}), numbers({0, 0}), params, numbers({5, 5}),
      tokens({1, 2, 3, 4, 5}), numbers({1, 2}), tokens({6, 7}), numbers({0, 2}), tokens({3, 4}), bias,
      numbers({0, 2}), numbers({0, 0}), numbers({9, 4}), numbers({4}), numbers({5}), numbers({0, 2}),
      numbers({0, 0}), numbers({5, 3}), tokens({1, 2, 3, 4, 5, 6, 7, 8}), numbers({4, 7}), numbers({0, 2}),
      numbers({5, 6}), numbers({2, 2}), tokens({7, 8}));
  builder.Finish(wire::CreateInstruction(builder, step, 0, wire::Work::StepPlan, plan.Union()));
  return {builder.GetBufferPointer(), builder.GetBufferPointer() + builder.GetSize()};
}

const wire::Result& read(const Bytes& bytes) {
  flatbuffers::Verifier verifier(bytes.data(), bytes.size());
  EXPECT(verifier.VerifyBuffer<wire::Result>(nullptr));
  return *flatbuffers::GetRoot<wire::Result>(bytes.data());
}

}  // namespace

TEST("a host answers a step, and changed bytes of it never do more than fail") {
  Random random(50);
  const TinyModel model = make_tiny_model(random, {});
  const TemporaryFile file(model.bytes);
  Host host(options_of(model, file));
  const Bytes good = step_bytes(1);
  host.submit(good);
  const Bytes first = host.collect();
  EXPECT_NOTE(read(first).code() == wire::ErrorCode::none,
              read(first).message() ? read(first).message()->str() : "");
  EXPECT(read(first).token_ids()->size() == 2 && read(first).score_logprob()->size() == 2);
  int failures = 0;
  for (int round = 0; round < 3000; ++round) {
    Bytes changed(good.begin(), good.end() - random.integer(0, round % 3 == 0 ? 40 : 0));
    for (int64_t i = random.integer(1, 4); i > 0; --i) {
      changed[random.bits() % changed.size()] =
          static_cast<uint8_t>(random.bits() >> (random.bits() % 2 * 8));
    }
    host.submit(changed);
    const Bytes result = host.collect();
    failures += read(result).code() != wire::ErrorCode::none ? 1 : 0;
  }
  EXPECT(failures > 500);
  host.submit(good);
  EXPECT(host.collect() == first);
}

TEST("a client submits and collects while the host executes, and may close it at any time") {
  Random random(51);
  const TinyModel model = make_tiny_model(random, {});
  const TemporaryFile file(model.bytes);
  const Bytes good = step_bytes(1);
  for (int under_way = 0; under_way < 4; ++under_way) {
    Host host(options_of(model, file));
    for (int i = 0; i < 3; ++i) host.submit(good);
    for (int i = 0; i < 20; ++i) {
      host.submit(good);
      EXPECT(read(host.collect()).code() == wire::ErrorCode::none);
    }
    for (int i = 0; i < under_way; ++i) host.collect();
    EXPECT(host.executor().scratch_bytes() > 0);
    host.close();
    host.close();
    EXPECT(code_of([&] { host.submit(good); }) == "host_closed");
    EXPECT(code_of([&] { host.collect(); }) == "host_closed");
  }
}

}  // namespace kadenz::test
