// What a slot brings when it opens: one block for each.
#include "cuda/check.h"
#include "cuda/kernels/sampling.h"

namespace kadenz::cuda {
namespace {

constexpr uint32_t kThreads = 1024;
constexpr uint32_t kAtOnce = 4;  // words of the history under way in each thread

__global__ void __launch_bounds__(kThreads)
    open_slots(const SlotOpening* openings, const uint32_t* words, uint32_t vocab_size) {
  const SlotOpening opening = openings[blockIdx.x];
  for (uint32_t i = threadIdx.x; i < opening.list_words; i += kThreads) {
    opening.list[i] = words[opening.list_begin + i];
  }
  if (opening.counts == nullptr) return;
  for (uint32_t token = threadIdx.x; token < vocab_size; token += kThreads) opening.counts[token] = 0;
  __syncthreads();
  const uint32_t* history = words + opening.history_begin;
  for (uint32_t base = threadIdx.x; base < opening.history_tokens; base += kThreads * kAtOnce) {
    uint32_t tokens[kAtOnce];
#pragma unroll
    for (uint32_t k = 0; k < kAtOnce; ++k) {
      const uint32_t i = base + k * kThreads;
      tokens[k] = i < opening.history_tokens ? history[i] : 0;
    }
#pragma unroll
    for (uint32_t k = 0; k < kAtOnce; ++k) {
      const uint32_t i = base + k * kThreads;
      if (i >= opening.history_tokens) break;
      if (i < opening.prompt_tokens) {
        atomicOr(opening.counts + tokens[k], kPromptFlag);
      } else {
        atomicAdd(opening.counts + tokens[k], 1U);
      }
    }
  }
}

}  // namespace

void open_sampling_slots(const SlotOpening* openings, uint32_t count, const uint32_t* words,
                         uint32_t vocab_size, cudaStream_t stream) {
  if (count == 0) return;
  open_slots<<<count, kThreads, 0, stream>>>(openings, words, vocab_size);
  check_launch("open_slots");
}

}  // namespace kadenz::cuda
