// From the qkv matmul's sums to what attention reads: slices and bias added, heads normed, q and k rotated, q
// written out, k and v written into their slots of the paged cache. One kernel, float32 up to the one
// rounding to Half.
//
// A head's result depends on its own columns of its own row, its position and the weights. Where it is
// written (kv_slots), the block size and the other rows never change a bit.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/half.h"
#include "cuda/kernels/rows.h"

namespace kadenz::cuda {

struct RotateArgs {
  Half dtype = Half::kBFloat16;
  SumSource qkv;  // row = [q heads | k heads | v heads] * head_dim
  uint32_t rows = 0;
  uint32_t num_heads = 0;
  uint32_t num_kv_heads = 0;
  uint32_t head_dim = 0;              // even
  uint32_t head_dim_padded = 0;       // 64 or 128, at least head_dim
  uint32_t block_size = 0;            // a power of two
  const float* query_norm = nullptr;  // [head_dim] or null: no norm
  const float* key_norm = nullptr;    // the same
  float epsilon = 0.0F;
  const float* cos_sin = nullptr;      // [max_positions][head_dim / 2][2]
  const int32_t* positions = nullptr;  // [rows]
  const int64_t* kv_slots = nullptr;   // [rows]: block * block_size + offset; -1: a padding row
  void* q_out = nullptr;               // Half [rows][num_heads][head_dim_padded], not scaled
  // Half [num_blocks][2 (k, v)][num_kv_heads][block_size][head_dim_padded], of this layer
  void* cache_layer = nullptr;
};

// Pairs (i, i + head_dim / 2) are rotated together. Dimensions from head_dim to head_dim_padded become zeros,
// in q and in the cache. A padding row writes q = 0 and nothing into the cache.
void rotate_and_store(const RotateArgs& args, cudaStream_t stream);

}  // namespace kadenz::cuda
