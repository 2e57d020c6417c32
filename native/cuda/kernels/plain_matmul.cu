#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/check.h"
#include "cuda/kernels/plain_matmul.h"

namespace kadenz::cuda {

namespace {

constexpr uint32_t kTile = 16;  // outputs and rows of a block, and k of a turn

__device__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ float widen(__half value) { return __half2float(value); }
__device__ void store(float* out, float value) { *out = value; }
__device__ void store(__nv_bfloat16* out, float value) { *out = __float2bfloat16_rn(value); }
__device__ void store(__half* out, float value) { *out = __float2half_rn(value); }

// Thread (x, y) makes output x of row y. Past the edges tiles hold zeros, but the chain ends at `inputs`
// itself: adding 0 x 0 would turn a sum of -0 into +0.
template <class T, class Out>
__global__ void __launch_bounds__(kTile* kTile)
    plain_matmul_kernel(const T* __restrict__ weight, const T* __restrict__ input, uint32_t rows,
                        uint32_t outputs, uint32_t inputs, Out* __restrict__ output) {
  __shared__ float weight_tile[kTile][kTile + 1];
  __shared__ float input_tile[kTile][kTile + 1];
  const uint32_t x = threadIdx.x;
  const uint32_t y = threadIdx.y;
  const uint32_t first_output = blockIdx.x * kTile;
  const uint32_t first_row = blockIdx.y * kTile;
  const bool has_output = first_output + y < outputs;
  const bool has_row = first_row + y < rows;
  const T* weight_row = weight + static_cast<uint64_t>(has_output ? first_output + y : 0) * inputs;
  const T* input_row = input + static_cast<uint64_t>(has_row ? first_row + y : 0) * inputs;
  float sum = 0.0F;
  for (uint32_t first = 0; first < inputs; first += kTile) {
    const bool inside = x < inputs - first;
    weight_tile[y][x] = has_output && inside ? widen(weight_row[first + x]) : 0.0F;
    input_tile[y][x] = has_row && inside ? widen(input_row[first + x]) : 0.0F;
    __syncthreads();
    const uint32_t count = min(kTile, inputs - first);
    for (uint32_t k = 0; k < count; ++k) sum = __fmaf_rn(input_tile[y][k], weight_tile[x][k], sum);
    __syncthreads();
  }
  if (first_output + x < outputs && first_row + y < rows) {
    store(output + static_cast<uint64_t>(first_row + y) * outputs + first_output + x, sum);
  }
}

template <class T, class Out>
void launch(const PlainMatmul& args, cudaStream_t stream) {
  // blockIdx.y reaches 65,535 blocks of 16 rows: more rows than a step can have.
  const dim3 grid((args.outputs + kTile - 1) / kTile, (args.rows + kTile - 1) / kTile);
  plain_matmul_kernel<T, Out><<<grid, dim3(kTile, kTile), 0, stream>>>(
      static_cast<const T*>(args.weight), static_cast<const T*>(args.input), args.rows, args.outputs,
      args.inputs, static_cast<Out*>(args.output));
  check_launch("plain_matmul");
}

template <class T>
void launch_for(const PlainMatmul& args, cudaStream_t stream) {
  if (args.half_output) {
    launch<T, T>(args, stream);
  } else {
    launch<T, float>(args, stream);
  }
}

}  // namespace

void plain_matmul(const PlainMatmul& args, cudaStream_t stream) {
  if (args.rows == 0) return;
  if (args.dtype == Half::kBFloat16) {
    launch_for<__nv_bfloat16>(args, stream);
  } else {
    launch_for<__half>(args, stream);
  }
}

}  // namespace kadenz::cuda
