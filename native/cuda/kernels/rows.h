// Kernels that work row by row: embedding, residual + RMSNorm, gated activation, gathering of rows. All
// pointers are device memory; rows are packed without gaps, float32 or Half as named.
//
// Row r of a result depends on row r of the inputs and the weights through one order of operations, fixed by
// the number of columns: the number of rows, their places and the alignment of the buffers never change a
// bit. A call with no rows launches nothing.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/half.h"

namespace kadenz::cuda {

// The float32 result of a matmul, left as partial sums over `slices` parts of its inner dimension. Its value
// is the partials added in slice order, then the bias.
struct SumSource {
  const float* partials = nullptr;  // [slices][rows, maybe padded][columns]; null: nothing to add
  uint32_t slices = 1;
  uint64_t slice_stride = 0;    // in floats
  const float* bias = nullptr;  // [columns] or null
};

// The widest row that add_norm takes.
inline constexpr uint32_t kMaxNormColumns = 16384;

// residual[r] = table[token_ids[r]]; table: Half [vocabulary][columns], residual: float32 [rows][columns].
void embed(Half dtype, const void* table, const int32_t* token_ids, uint32_t rows, uint32_t columns,
           float* residual, cudaStream_t stream);

// residual[r] += value of the source (nothing where its partials are null), then
// normed[r] = Half(residual[r] / sqrt(mean(residual[r]^2) + epsilon) * weight): float32 up to the one
// rounding.
void add_norm(Half dtype, const SumSource& source, float* residual, const float* weight, float epsilon,
              uint32_t rows, uint32_t columns, void* normed, cudaStream_t stream);

// out[r] = Half(silu(gate) * up), in float32 up to the one rounding. gate_up: [rows][gate (inner) | up
// (inner)] of Half, or of float32 with in_float; bias: float32 [2 * inner] or null; out: Half [rows][inner].
void silu_mul(Half dtype, const void* gate_up, bool in_float, const float* bias, uint32_t rows,
              uint32_t inner, void* out, cudaStream_t stream);

// output[i] = input[rows[i]] for i < count, rows of row_bytes.
void gather_rows(const void* input, uint64_t row_bytes, const uint32_t* rows, uint32_t count, void* output,
                 cudaStream_t stream);

}  // namespace kadenz::cuda
