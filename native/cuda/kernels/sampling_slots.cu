// What a slot brings when it opens: one block for each.
#include "cuda/check.h"
#include "cuda/kernels/sampling.h"

namespace kadenz::cuda {
namespace {

constexpr uint32_t kThreads = 1024;

__global__ void __launch_bounds__(kThreads)
    open_slots(const SlotOpening* openings, const uint32_t* words, uint32_t vocab_size) {
  const SlotOpening opening = openings[blockIdx.x];
  for (uint32_t i = threadIdx.x; i < opening.list_words; i += kThreads) {
    opening.list[i] = words[opening.list_begin + i];
  }
  if (opening.counts == nullptr) return;
  for (uint32_t token = threadIdx.x; token < vocab_size; token += kThreads) opening.counts[token] = 0;
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < opening.history_tokens; i += kThreads) {
    uint32_t* counter = opening.counts + words[opening.history_begin + i];
    if (i < opening.prompt_tokens) {
      atomicOr(counter, kPromptFlag);
    } else {
      atomicAdd(counter, 1U);
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
