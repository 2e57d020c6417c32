// Embedding, gated activation and gathering of rows: nothing here sums over columns, so every element has its
// own bits whatever the launch looks like.
#include "cuda/check.h"
#include "cuda/kernels/dependent_launch.cuh"
#include "cuda/kernels/gemm_gated.cuh"
#include "cuda/kernels/rows.h"
#include "cuda/kernels/rows_units.cuh"

namespace kadenz::cuda {
namespace {

constexpr uint32_t kThreads = 256;

uint32_t threads_for(uint64_t items) {  // one block walks over a row
  return items >= 512 ? 512 : (static_cast<uint32_t>(items) + 31) / 32 * 32;
}

// --- embed ---

template <typename T, bool kVector>
__global__ void __launch_bounds__(512)
    embed_kernel(const T* table, const int32_t* token_ids, uint32_t columns, float* residual) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const T* source = table + static_cast<uint64_t>(token_ids[blockIdx.x]) * columns;
  float* target = residual + static_cast<uint64_t>(blockIdx.x) * columns;
  if constexpr (kVector) {
    for (uint32_t column = 8 * threadIdx.x; column < columns; column += 8 * blockDim.x) {
      const uint4 eight = *reinterpret_cast<const uint4*>(source + column);
      const float2 a = unpack_pair<T>(eight.x);
      const float2 b = unpack_pair<T>(eight.y);
      const float2 c = unpack_pair<T>(eight.z);
      const float2 d = unpack_pair<T>(eight.w);
      *reinterpret_cast<float4*>(target + column) = make_float4(a.x, a.y, b.x, b.y);
      *reinterpret_cast<float4*>(target + column + 4) = make_float4(c.x, c.y, d.x, d.y);
    }
  } else {
    for (uint32_t column = threadIdx.x; column < columns; column += blockDim.x) {
      target[column] = widen(source[column]);
    }
  }
}

template <typename T>
void launch_embed(const void* table, const int32_t* token_ids, uint32_t rows, uint32_t columns,
                  float* residual, cudaStream_t stream) {
  const bool vector = columns % 8 == 0 && is_aligned(table, 16) && is_aligned(residual, 16);
  launch_dependent(vector ? embed_kernel<T, true> : embed_kernel<T, false>, dim3(rows),
                   dim3(threads_for(vector ? columns / 8 : columns)), 0, stream, static_cast<const T*>(table),
                   token_ids, columns, residual);
}

// --- silu_mul ---

// gate / (1 + e^-gate) * up. The fast exponential and division are good to about 2^-21, far below a rounding
// to Half; both halves of the kernel share this function.
struct Eight {
  float value[8];
};

__device__ __forceinline__ Eight load_eight(const float* from) {
  const float4 low = *reinterpret_cast<const float4*>(from);
  const float4 high = *reinterpret_cast<const float4*>(from + 4);
  return {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
}

template <typename T>
__device__ __forceinline__ Eight load_eight(const T* from) {
  const uint4 bits = *reinterpret_cast<const uint4*>(from);
  const float2 a = unpack_pair<T>(bits.x);
  const float2 b = unpack_pair<T>(bits.y);
  const float2 c = unpack_pair<T>(bits.z);
  const float2 d = unpack_pair<T>(bits.w);
  return {{a.x, a.y, b.x, b.y, c.x, c.y, d.x, d.y}};
}

// A thread makes 8 elements, a block 8 * kThreads of one row: blockIdx.x = row * blocks_per_row + part.
template <typename T, typename In>
__global__ void __launch_bounds__(kThreads)
    silu_mul_vector_kernel(const In* gate_up, const float* bias, uint32_t blocks_per_row, uint32_t inner,
                           T* out) {
  const uint32_t row = blockIdx.x / blocks_per_row;
  const uint32_t column = 8 * ((blockIdx.x - row * blocks_per_row) * kThreads + threadIdx.x);
  wait_for_previous_kernel();
  let_next_kernel_start();
  if (column >= inner) return;
  const In* source = gate_up + 2 * static_cast<uint64_t>(row) * inner + column;
  Eight gate = load_eight(source);
  Eight up = load_eight(source + inner);
  if (bias != nullptr) {
    const Eight gate_bias = load_eight(bias + column);
    const Eight up_bias = load_eight(bias + inner + column);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      gate.value[i] = __fadd_rn(gate.value[i], gate_bias.value[i]);
      up.value[i] = __fadd_rn(up.value[i], up_bias.value[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) gate.value[i] = gated_unit(gate.value[i], up.value[i]);
  *reinterpret_cast<uint4*>(out + static_cast<uint64_t>(row) * inner + column) =
      make_uint4(pack_pair<T>(gate.value[0], gate.value[1]), pack_pair<T>(gate.value[2], gate.value[3]),
                 pack_pair<T>(gate.value[4], gate.value[5]), pack_pair<T>(gate.value[6], gate.value[7]));
}

// The same one element at a time, for sizes or buffers that do not allow 16-byte accesses.
template <typename T, typename In>
__global__ void __launch_bounds__(kThreads)
    silu_mul_element_kernel(const In* gate_up, const float* bias, uint32_t blocks_per_row, uint32_t inner,
                            T* out) {
  const uint32_t row = blockIdx.x / blocks_per_row;
  const uint32_t column = (blockIdx.x - row * blocks_per_row) * kThreads + threadIdx.x;
  wait_for_previous_kernel();
  let_next_kernel_start();
  if (column >= inner) return;
  const In* source = gate_up + 2 * static_cast<uint64_t>(row) * inner + column;
  float gate = widen(source[0]);
  float up = widen(source[inner]);
  if (bias != nullptr) {
    gate = __fadd_rn(gate, bias[column]);
    up = __fadd_rn(up, bias[inner + column]);
  }
  out[static_cast<uint64_t>(row) * inner + column] = round_to<T>(gated_unit(gate, up));
}

template <typename T, typename In>
void launch_silu_mul(const void* gate_up, const float* bias, uint32_t rows, uint32_t inner, void* out,
                     cudaStream_t stream) {
  const bool vector =
      inner % 8 == 0 && is_aligned(gate_up, 16) && is_aligned(bias, 16) && is_aligned(out, 16);
  const uint32_t items = vector ? inner / 8 : inner;
  const uint32_t blocks_per_row = (items + kThreads - 1) / kThreads;
  launch_dependent(vector ? silu_mul_vector_kernel<T, In> : silu_mul_element_kernel<T, In>,
                   dim3(rows * blocks_per_row), dim3(kThreads), 0, stream, static_cast<const In*>(gate_up),
                   bias, blocks_per_row, inner, static_cast<T*>(out));
}

// --- gather_rows ---

template <typename Word>
__global__ void __launch_bounds__(512)
    gather_rows_kernel(const Word* input, uint64_t row_words, const uint32_t* rows, Word* output) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const Word* source = input + rows[blockIdx.x] * row_words;
  Word* target = output + blockIdx.x * row_words;
  for (uint64_t i = threadIdx.x; i < row_words; i += blockDim.x) target[i] = source[i];
}

template <typename Word>
void launch_gather_rows(const void* input, uint64_t row_bytes, const uint32_t* rows, uint32_t count,
                        void* output, cudaStream_t stream) {
  const uint64_t row_words = row_bytes / sizeof(Word);
  launch_dependent(gather_rows_kernel<Word>, dim3(count), dim3(threads_for(row_words)), 0, stream,
                   static_cast<const Word*>(input), row_words, rows, static_cast<Word*>(output));
}

}  // namespace

void embed(Half dtype, const void* table, const int32_t* token_ids, uint32_t rows, uint32_t columns,
           float* residual, cudaStream_t stream) {
  if (rows == 0 || columns == 0) return;
  if (dtype == Half::kBFloat16) {
    launch_embed<__nv_bfloat16>(table, token_ids, rows, columns, residual, stream);
  } else {
    launch_embed<__half>(table, token_ids, rows, columns, residual, stream);
  }
  check_launch("embed");
}

void silu_mul(Half dtype, const void* gate_up, bool in_float, const float* bias, uint32_t rows,
              uint32_t inner, void* out, cudaStream_t stream) {
  if (rows == 0 || inner == 0) return;
  if (dtype == Half::kBFloat16) {
    in_float ? launch_silu_mul<__nv_bfloat16, float>(gate_up, bias, rows, inner, out, stream)
             : launch_silu_mul<__nv_bfloat16, __nv_bfloat16>(gate_up, bias, rows, inner, out, stream);
  } else {
    in_float ? launch_silu_mul<__half, float>(gate_up, bias, rows, inner, out, stream)
             : launch_silu_mul<__half, __half>(gate_up, bias, rows, inner, out, stream);
  }
  check_launch("silu_mul");
}

void gather_rows(const void* input, uint64_t row_bytes, const uint32_t* rows, uint32_t count, void* output,
                 cudaStream_t stream) {
  if (count == 0 || row_bytes == 0) return;
  if (row_bytes % 16 == 0 && is_aligned(input, 16) && is_aligned(output, 16)) {
    launch_gather_rows<uint4>(input, row_bytes, rows, count, output, stream);
  } else if (row_bytes % 4 == 0 && is_aligned(input, 4) && is_aligned(output, 4)) {
    launch_gather_rows<uint32_t>(input, row_bytes, rows, count, output, stream);
  } else {
    launch_gather_rows<uint8_t>(input, row_bytes, rows, count, output, stream);
  }
  check_launch("gather_rows");
}

}  // namespace kadenz::cuda
