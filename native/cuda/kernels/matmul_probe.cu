#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/check.h"
#include "cuda/kernels/matmul_probe.h"

namespace kadenz::cuda {

namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kMostBlocks = 2048;

uint32_t blocks_for(uint64_t count) {
  const uint64_t blocks = (count + kThreads - 1) / kThreads;
  return static_cast<uint32_t>(blocks < kMostBlocks ? blocks : kMostBlocks);
}

__device__ uint64_t mixed(uint64_t value) {
  value += 0x9e3779b97f4a7c15ULL;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ULL;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebULL;
  return value ^ (value >> 31);
}

__device__ uint16_t half_bits(__nv_bfloat16 value) { return __bfloat16_as_ushort(value); }
__device__ uint16_t half_bits(__half value) { return __half_as_ushort(value); }

template <class T>
struct Format;

template <>
struct Format<__nv_bfloat16> {
  static constexpr uint32_t kMantissaBits = 7;
  static constexpr uint32_t kFirstExponent = 127 - 12;
  static constexpr uint32_t kExponents = 16;
  __device__ static __nv_bfloat16 rounded(float value) { return __float2bfloat16_rn(value); }
};

template <>
struct Format<__half> {
  static constexpr uint32_t kMantissaBits = 10;
  static constexpr uint32_t kFirstExponent = 15 - 8;
  static constexpr uint32_t kExponents = 8;
  __device__ static __half rounded(float value) { return __float2half_rn(value); }
};

template <class T>
__global__ void fill_operand_kernel(uint16_t* data, uint64_t count, uint64_t seed) {
  using F = Format<T>;
  const uint64_t stride = static_cast<uint64_t>(gridDim.x) * blockDim.x;
  for (uint64_t i = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    const uint64_t random = mixed(mixed(seed) + i);
    const uint32_t sign = static_cast<uint32_t>(random >> 63);
    const uint32_t exponent = F::kFirstExponent + static_cast<uint32_t>((random >> 32) % F::kExponents);
    const uint32_t mantissa = static_cast<uint32_t>(random) & ((1U << F::kMantissaBits) - 1);
    data[i] = static_cast<uint16_t>((sign << 15) | (exponent << F::kMantissaBits) | mantissa);
  }
}

__device__ float added_in_order(const OutputBits& bits, uint64_t index) {
  const float* partials = static_cast<const float*>(bits.output) + index;
  float sum = partials[0];
  for (uint32_t slice = 1; slice < bits.slices; ++slice) {
    sum = __fadd_rn(sum, partials[slice * bits.slice_stride]);
  }
  return sum;
}

template <class T>
__global__ void count_differing_kernel(OutputBits bits, unsigned long long* differing) {
  const uint64_t stride = static_cast<uint64_t>(gridDim.x) * blockDim.x;
  unsigned long long count = 0;
  for (uint64_t i = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < bits.count;
       i += stride) {
    bool same;
    if (bits.half_output) {
      const T expected = Format<T>::rounded(bits.reference[i]);
      same = static_cast<const uint16_t*>(bits.output)[i] == half_bits(expected);
    } else {
      same = __float_as_uint(added_in_order(bits, i)) == __float_as_uint(bits.reference[i]);
    }
    count += same ? 0 : 1;
  }
  if (count != 0) atomicAdd(differing, count);
}

__global__ void add_digest_kernel(const float* values, uint64_t count, unsigned long long* digest) {
  const uint64_t stride = static_cast<uint64_t>(gridDim.x) * blockDim.x;
  unsigned long long sum = 0;
  for (uint64_t i = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    sum += mixed(mixed(i) ^ __float_as_uint(values[i]));
  }
  atomicAdd(digest, sum);
}

}  // namespace

void fill_operand(Half dtype, void* data, uint64_t count, uint64_t seed, cudaStream_t stream) {
  if (count == 0) return;
  auto* words = static_cast<uint16_t*>(data);
  if (dtype == Half::kBFloat16) {
    fill_operand_kernel<__nv_bfloat16><<<blocks_for(count), kThreads, 0, stream>>>(words, count, seed);
  } else {
    fill_operand_kernel<__half><<<blocks_for(count), kThreads, 0, stream>>>(words, count, seed);
  }
  check_launch("fill_operand");
}

void count_differing(Half dtype, const OutputBits& bits, unsigned long long* differing, cudaStream_t stream) {
  if (bits.count == 0) return;
  if (dtype == Half::kBFloat16) {
    count_differing_kernel<__nv_bfloat16><<<blocks_for(bits.count), kThreads, 0, stream>>>(bits, differing);
  } else {
    count_differing_kernel<__half><<<blocks_for(bits.count), kThreads, 0, stream>>>(bits, differing);
  }
  check_launch("count_differing");
}

void add_digest(const float* values, uint64_t count, unsigned long long* digest, cudaStream_t stream) {
  if (count == 0) return;
  add_digest_kernel<<<blocks_for(count), kThreads, 0, stream>>>(values, count, digest);
  check_launch("add_digest");
}

}  // namespace kadenz::cuda
