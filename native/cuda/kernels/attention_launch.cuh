// Launches of the attention kernels by instance, for attention.cu (the default instances) and the benchmark
// (the others beside them).
#pragma once

#include <cmath>
#include <cstdlib>

#include "cuda/check.h"
#include "cuda/kernels/attention.h"
#include "cuda/kernels/attention_block.cuh"
#include "cuda/kernels/attention_split.cuh"
#include "cuda/kernels/dependent_launch.cuh"

namespace kadenz::cuda::attention {

// The default instances: what fits in 227 KiB of shared memory an SM with the most bytes on the way.
constexpr int kDefaultStages = 3;
template <int kD>
constexpr int kDefaultBlocksPerSm = kD == 64 ? 3 : 2;
constexpr int kDefaultBlockWarps = 8;
template <int kD>
constexpr int kDefaultHeld = kD == 64 ? 4 : 0;

inline Problem problem_of(const AttentionArgs& args) {
  // The caller's checks stand before this: a wrong shape here is a mistake of ours.
  const bool shape_holds =
      (args.head_dim_padded == 64 || args.head_dim_padded == 128) && args.head_dim > 0 &&
      args.head_dim <= args.head_dim_padded && args.head_dim % 2 == 0 &&
      (args.block_size == 8 || args.block_size == 16 || args.block_size == 32 || args.block_size == 64) &&
      args.num_kv_heads > 0 && args.num_kv_heads <= 255 && args.num_heads % args.num_kv_heads == 0;
  if (!shape_holds) std::abort();
  Problem problem = {};
  problem.q = static_cast<const char*>(args.q);
  problem.cache = static_cast<const char*>(args.cache_layer);
  problem.output = args.output;
  problem.sequences = args.sequences;
  problem.block_tables = args.block_tables;
  problem.split_items = args.split_items;
  problem.split_offsets = args.split_offsets;
  problem.block_items = args.block_items;
  problem.partials = args.partials;
  problem.counters = args.counters;
  problem.cache_head_bytes = args.block_size * args.head_dim_padded * 2;
  problem.cache_value_bytes = problem.cache_head_bytes * args.num_kv_heads;  // 4 MiB at most
  problem.cache_block_bytes = 2 * problem.cache_value_bytes;
  problem.table_stride = args.table_stride;
  for (uint32_t size = args.block_size; size > 1; size /= 2) ++problem.block_shift;
  problem.num_heads = args.num_heads;
  problem.num_kv_heads = args.num_kv_heads;
  problem.group = args.num_heads / args.num_kv_heads;
  problem.head_dim = args.head_dim;
  problem.window = static_cast<int32_t>(args.window < INT32_MAX ? args.window : INT32_MAX);
  problem.scale = static_cast<float>(1.4426950408889634 / std::sqrt(static_cast<double>(args.head_dim)));
  return problem;
}

template <class T, int kD, int kStages, int kBlocksPerSm>
void prepare_split() {
  check(cudaFuncSetAttribute(split_kernel<T, kD, kStages, kBlocksPerSm>,
                             cudaFuncAttributeMaxDynamicSharedMemorySize, SplitShared<kD, kStages>::kBytes),
        "cudaFuncSetAttribute(attention split)");
}
template <class T, int kD, int kStages, int kBlocksPerSm>
void launch_split(const Problem& problem, uint32_t num_sms, cudaStream_t stream) {
  launch_dependent(split_kernel<T, kD, kStages, kBlocksPerSm>, dim3(num_sms * kBlocksPerSm),
                   dim3(kSplitThreads), SplitShared<kD, kStages>::kBytes, stream, problem);
  check_launch("attention split");
}

template <class T, int kD, int kWarps, int kStages, int kHeld>
void prepare_block() {
  check(cudaFuncSetAttribute(block_kernel<T, kD, kWarps, kStages, kHeld>,
                             cudaFuncAttributeMaxDynamicSharedMemorySize,
                             BlockShared<kD, kWarps, kStages>::kBytes),
        "cudaFuncSetAttribute(attention block)");
}
template <class T, int kD, int kWarps, int kStages, int kHeld>
void launch_block(const Problem& problem, uint32_t num_block_items, cudaStream_t stream) {
  constexpr uint32_t kParts = kAttentionBlockRows / (16 * kWarps);
  launch_dependent(block_kernel<T, kD, kWarps, kStages, kHeld>,
                   dim3(num_block_items * problem.num_kv_heads * kParts), dim3(32 * kWarps),
                   BlockShared<kD, kWarps, kStages>::kBytes, stream, problem);
  check_launch("attention block");
}

}  // namespace kadenz::cuda::attention
