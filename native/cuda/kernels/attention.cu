#include <cmath>

#include "cuda/check.h"
#include "cuda/kernels/attention.h"
#include "cuda/kernels/attention_launch.cuh"

namespace kadenz::cuda {
namespace {

using namespace attention;

template <class T, int kD>
void prepare_for() {
  prepare_split<T, kD, kDefaultStages, kDefaultBlocksPerSm<kD>>();
  prepare_block<T, kD, kDefaultBlockWarps, kDefaultStages, kDefaultHeld<kD>>();
}

template <class T, int kD>
void attend_as(const AttentionArgs& args, uint32_t num_sms, cudaStream_t stream) {
  const Problem problem = problem_of(args);
  launch_split<T, kD, kDefaultStages, kDefaultBlocksPerSm<kD>>(problem, num_sms, stream);
  if (args.num_block_items > 0) {
    launch_block<T, kD, kDefaultBlockWarps, kDefaultStages, kDefaultHeld<kD>>(problem, args.num_block_items,
                                                                              stream);
  }
}

template <class T>
void attend_as(const AttentionArgs& args, uint32_t num_sms, cudaStream_t stream) {
  if (args.head_dim_padded == 64) {
    attend_as<T, 64>(args, num_sms, stream);
  } else {
    attend_as<T, 128>(args, num_sms, stream);
  }
}

}  // namespace

void prepare_attention() {
  prepare_for<__nv_bfloat16, 64>();
  prepare_for<__nv_bfloat16, 128>();
  prepare_for<__half, 64>();
  prepare_for<__half, 128>();
}

uint32_t attention_workers(uint32_t num_sms, uint32_t head_dim_padded) {
  return num_sms * (head_dim_padded == 64 ? kDefaultBlocksPerSm<64> : kDefaultBlocksPerSm<128>);
}

uint64_t attention_partial_bytes(uint64_t max_partials, uint32_t head_dim_padded) {
  return max_partials * (head_dim_padded == 64 ? kPartialFloats<64> : kPartialFloats<128>)*sizeof(float);
}

uint64_t attention_counter_bytes(uint64_t max_partials) { return max_partials * sizeof(uint32_t); }

void attend(const AttentionArgs& args, uint32_t num_sms, cudaStream_t stream) {
  if (args.dtype == Half::kBFloat16) {
    attend_as<__nv_bfloat16>(args, num_sms, stream);
  } else {
    attend_as<__half>(args, num_sms, stream);
  }
}

}  // namespace kadenz::cuda
