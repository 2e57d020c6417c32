// How long sampling takes on the device, by kind of request: microseconds for a step's rows of 151,936
// logits, as the median of CUDA graphs of several calls, each on other rows than the one before.
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <vector>

#include "cuda/check.h"
#include "cuda/device_buffer.h"
#include "cuda/kernels/sampling.h"
#include "cuda/sampling_step.h"

namespace kadenz::cuda {
namespace {

constexpr uint32_t kVocab = 151936;
constexpr uint32_t kRows = 512;  // 311 MB: six times the second-level cache
constexpr double kBytesPerSecond = 4.3e12;

// Nearly normal logits of deviation 2.5, as a language model's are.
__global__ void fill_logits(float* logits, uint64_t count) {
  for (uint64_t i = blockIdx.x * uint64_t{blockDim.x} + threadIdx.x; i < count;
       i += uint64_t{gridDim.x} * blockDim.x) {
    uint64_t state = i * 0x9e3779b97f4a7c15ULL;
    float sum = 0;
    for (int k = 0; k < 4; ++k) {
      state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9ULL;
      state = (state ^ (state >> 27)) * 0x94d049bb133111ebULL;
      state ^= state >> 31;
      sum += static_cast<float>(state >> 40) * 0x1p-24F - 0.5F;
    }
    logits[i] = sum * 4.33F;
  }
}

SampleParams plain_item() {
  SampleParams item{};
  item.seed = 20;
  item.position = 100;
  item.score_token = -1;
  item.scale = 1;
  item.least_x = -std::numeric_limits<float>::infinity();
  item.top_p = 1;
  item.repetition = 1;
  item.logprobs = 0;
  return item;
}

struct Bench {
  cudaStream_t stream = nullptr;
  DeviceBuffer<float> logits{uint64_t{kRows} * kVocab};
  DeviceBuffer<float> scratch{uint64_t{132} * kVocab};
  DeviceBuffer<uint32_t> counts{uint64_t{256} * kVocab};
  DeviceBuffer<SamplingTile> tiles{uint64_t{256} * sampling_tiles(kVocab)};
  DeviceBuffer<SampleParams> items{256};
  DeviceBuffer<SampleOutcome> outcomes{256};
  DeviceBuffer<int32_t> tokens{256};
  DeviceBuffer<int32_t> top_ids{256 * 1024};
  DeviceBuffer<float> top_logprobs{256 * 1024};

  Bench() {
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    fill_logits<<<1024, 256, 0, stream>>>(logits.data(), logits.count());
    check(cudaMemsetAsync(counts.data(), 0, counts.bytes(), stream), "cudaMemsetAsync");
    check(cudaStreamSynchronize(stream), "fill_logits");
  }
  ~Bench() { cudaStreamDestroy(stream); }

  void call(const SampleParams& kind, uint32_t rows, uint32_t number) {
    const uint32_t first = number * rows % (kRows - rows + 1);
    const SamplingTarget target = {.logits = logits.data() + uint64_t{first} * kVocab,
                                   .logits_stride = kVocab,
                                   .first_output = 0,
                                   .vocab_size = kVocab,
                                   .poisoned = nullptr,
                                   .code_of_failure = 70,
                                   .outcomes = outcomes.data(),
                                   .sampled_tokens = tokens.data(),
                                   .top_token_ids = top_ids.data(),
                                   .top_logprobs = top_logprobs.data()};
    if (is_plain(kind)) return sample_plain(target, items.data(), rows, tiles.data(), stream);
    for (uint32_t begin = 0; begin < rows; begin += 132) {
      sample_general(target, items.data() + begin, std::min(132U, rows - begin), tiles.data(), scratch.data(),
                     stream);
    }
  }

  void measure(const char* name, const SampleParams& kind, uint32_t rows) {
    std::vector<SampleParams> all(rows, kind);
    for (uint32_t i = 0; i < rows; ++i) {
      all[i].output = all[i].outcome = i;
      all[i].seed += i;
      all[i].top_begin = i * 1024;
      if (kind.counts != nullptr) all[i].counts = counts.data() + uint64_t{i} * kVocab;
    }
    check(cudaMemcpy(items.data(), all.data(), rows * sizeof(SampleParams), cudaMemcpyHostToDevice),
          "cudaMemcpy");
    constexpr uint32_t kCalls = 8;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t replay = nullptr;
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    for (uint32_t i = 0; i < kCalls; ++i) call(kind, rows, i);
    check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    check(cudaGraphInstantiate(&replay, graph, 0), "cudaGraphInstantiate");
    cudaEvent_t begin = nullptr, end = nullptr;
    check(cudaEventCreate(&begin), "cudaEventCreate");
    check(cudaEventCreate(&end), "cudaEventCreate");
    std::vector<double> times_us;
    for (int round = 0; round < 25; ++round) {
      check(cudaEventRecord(begin, stream), "cudaEventRecord");
      check(cudaGraphLaunch(replay, stream), "cudaGraphLaunch");
      check(cudaEventRecord(end, stream), "cudaEventRecord");
      check(cudaEventSynchronize(end), "cudaEventSynchronize");
      float time_ms = 0;
      check(cudaEventElapsedTime(&time_ms, begin, end), "cudaEventElapsedTime");
      if (round >= 4) times_us.push_back(time_ms * 1e3 / kCalls);
    }
    std::sort(times_us.begin(), times_us.end());
    const double median_us = times_us[times_us.size() / 2];
    const double rate = uint64_t{rows} * kVocab * 4.0 / (median_us * 1e-6);
    std::printf("%-34s %5u rows %9.1f us %8.0f GB/s of logits read once, %5.1f%% of 4.3 TB/s\n", name, rows,
                median_us, rate * 1e-9, rate / kBytesPerSecond * 100);
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    cudaGraphExecDestroy(replay);
    cudaGraphDestroy(graph);
  }
};

// begin() alone, on the host: 256 plain samples of 256 slots.
void measure_begin() {
  constexpr uint32_t kSamples = 256;
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  std::vector<uint32_t> ids(kSamples), zeros(kSamples), ones(kSamples, 1), prompts(kSamples, 4),
      starts(kSamples, 9);
  for (uint32_t i = 0; i < kSamples; ++i) ids[i] = i;
  const std::vector<int32_t> tokens(kSamples);
  const std::vector<wire::SamplingParams> params(
      kSamples,
      wire::SamplingParams(1, 1, 1, 0, 1, 0, 0, 0, 100, 0, 0, -1, wire::LogprobsMode::raw, false, 0));
  Plan plan;
  plan.open_slot = ids, plan.open_sample = zeros, plan.open_prompt_tokens = prompts,
  plan.open_params = params;
  plan.open_history_end = {zeros}, plan.open_stop_end = {zeros}, plan.open_bias_end = {zeros};
  plan.table_slot = ids, plan.table_index = zeros, plan.table_block = ids;
  plan.sequence_slot = ids, plan.sequence_start = starts, plan.sequence_num_tokens = ones,
  plan.token_ids = tokens;
  plan.sample_row = ids, plan.sample_slot = ids;
  SlotTable slots(kSamples);
  slots.apply(plan);
  HostLimits limits;
  limits.max_num_seqs = limits.max_num_batched_tokens = kSamples;
  limits.block_size = 16;
  InputBatch batch;
  batch.build(plan, limits, slots, {});
  {
    SamplingStep step(kVocab, kSamples, kSamples, stream, nullptr);
    StepUpload upload(stream);
    step.open_slots(plan, slots);
    std::vector<double> times_us;
    Outcomes samples, scores;
    for (int round = 0; round < 50; ++round) {
      const auto begin = std::chrono::steady_clock::now();
      step.begin(plan, batch, slots, upload);
      upload.send();
      const auto end = std::chrono::steady_clock::now();
      times_us.push_back(std::chrono::duration<double, std::micro>(end - begin).count());
      step.collect(step.end(), samples, scores);
    }
    std::sort(times_us.begin(), times_us.end());
    std::printf("begin() of 256 samples on the host: %.1f us\n", times_us[times_us.size() / 2]);
  }
  cudaStreamDestroy(stream);
}

void run() {
  Bench bench;
  const SampleParams plain = plain_item();
  SampleParams greedy = plain;
  greedy.is_greedy = 1;
  SampleParams warm = plain;
  warm.scale = 1 / 0.7F;
  SampleParams score = plain;
  score.score_token = 1000;
  SampleParams top_p = plain;
  top_p.is_filtered = 1;
  top_p.top_p = 0.95F;
  SampleParams top_k = plain;
  top_k.is_filtered = 1;
  top_k.top_k = 50;
  SampleParams both = top_p;
  both.top_k = 50;
  SampleParams min_p = plain;
  min_p.is_filtered = 1;
  min_p.least_x = std::log(0.05F);
  SampleParams penalties = plain;
  penalties.is_edited = 1;
  penalties.presence = 0.5F;
  penalties.counts = bench.counts.data();
  SampleParams lists = plain;
  lists.logprobs = 20;
  const struct {
    const char* name;
    const SampleParams& kind;
  } kinds[] = {{"temperature 1, log-prob", plain},
               {"temperature 0.7, log-prob", warm},
               {"greedy, log-prob", greedy},
               {"score", score},
               {"top_p 0.95", top_p},
               {"top_k 50", top_k},
               {"top_k 50, top_p 0.95", both},
               {"min_p 0.05", min_p},
               {"presence penalty", penalties},
               {"20 log-probs", lists}};
  for (const auto& [name, kind] : kinds) {
    for (const uint32_t rows : {1U, 8U, 64U, 256U}) bench.measure(name, kind, rows);
  }
  measure_begin();
}

}  // namespace
}  // namespace kadenz::cuda

int main(int, char**) {
  try {
    kadenz::cuda::run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
