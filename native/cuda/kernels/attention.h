// Attention over the paged KV cache: output[r] = softmax(q[r] k^T / sqrt(head_dim)) v over the positions that
// row r may see (up to its own, and with a window the last `window` of them, its own included).
//
// Two launches that share every arithmetic step (attention_fold.cuh), so that a row has the same bits from
// both: "split" for decode and very short row ranges, whose work lists lie on the device (its grid is fixed,
// so a captured graph serves any step), and "block" for prefill, whose list's length the host knows.
//
//   q            [rows][num_heads][head_dim_padded], rotated, not scaled
//   cache_layer  [blocks][key, value][num_kv_heads][block_size][head_dim_padded]
//   output       [rows][num_heads * head_dim]
//   block_tables [slots][table_stride], -1 = no block yet
//
// The launches overlap the end of the kernel before them; the work lists and block tables are read in that
// overlap, so the launch just before must write none of them (earlier ones may).
//
// All of q, cache and output are of `dtype`. Limits: head_dim_padded 64 or 128, head_dim even, block_size 8,
// 16, 32 or 64, num_kv_heads <= 255, any group for the block path, at most 16 for a sequence in the split
// path. Values in the cache within the written positions must be finite; whatever else the cache holds is not
// read.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/half.h"
#include "cuda/kernels/attention_items.h"

namespace kadenz::cuda {

struct AttentionArgs {
  Half dtype;
  const void* q;
  const void* cache_layer;
  void* output;
  const AttentionSequence* sequences;  // read by the block path only
  const int32_t* block_tables;
  uint32_t table_stride;
  const SplitItem* split_items;
  const uint32_t* split_offsets;  // [attention_workers + 1]: where each worker's items begin
  const BlockItem* block_items;
  uint32_t num_block_items;  // 0 in captured graphs
  float* partials;           // attention_partial_bytes
  uint32_t* counters;        // [max_partials], zeroed once at start; every launch leaves them zero
  uint32_t num_heads;
  uint32_t num_kv_heads;
  uint32_t head_dim;
  uint32_t head_dim_padded;
  uint32_t block_size;
  uint32_t window;  // 0 = none
};

// Function attributes of the current device, once before the first launch.
void prepare_attention();

// Blocks of the split launch: each is one worker of the plan.
uint32_t attention_workers(uint32_t num_sms, uint32_t head_dim_padded);

uint64_t attention_partial_bytes(uint64_t max_partials, uint32_t head_dim_padded);
uint64_t attention_counter_bytes(uint64_t max_partials);

// The split launch always (workers without items return at once), the block launch if there are block items.
void attend(const AttentionArgs& args, uint32_t num_sms, cudaStream_t stream);

}  // namespace kadenz::cuda
