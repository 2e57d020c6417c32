#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "cuda/check.h"
#include "cuda/kernels/convert.h"

namespace kadenz::cuda {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kMaxBlocks = 528;
constexpr uint32_t kElements = 8;  // that a thread reads at once: 16 bytes of a 16-bit dtype

__device__ float widen(float value) { return value; }
__device__ float widen(__half value) { return __half2float(value); }
__device__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }

template <class Target>
__device__ Target narrow(float value);
template <>
__device__ float narrow<float>(float value) {
  return value;
}
template <>
__device__ __half narrow<__half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __nv_bfloat16 narrow<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

// Eight elements as raw storage, so that one is moved by loads and stores of 16 bytes.
template <class Element>
struct alignas(16) Vector {
  Element elements[kElements];
};

// The source may lie in host memory: many reads are under way at once to cover the bus's latency.
template <class Source, class Target>
__global__ void __launch_bounds__(kThreads)
    convert_kernel(const Source* __restrict__ source, Target* __restrict__ target, uint64_t count,
                   uint64_t num_vectors) {
  const uint64_t first = uint64_t{blockIdx.x} * kThreads + threadIdx.x;
  const uint64_t stride = uint64_t{gridDim.x} * kThreads;
  for (uint64_t i = first; i < num_vectors; i += stride) {
    const Vector<Source> in = reinterpret_cast<const Vector<Source>*>(source)[i];
    Vector<Target> out;
#pragma unroll
    for (uint32_t e = 0; e < kElements; ++e) out.elements[e] = narrow<Target>(widen(in.elements[e]));
    reinterpret_cast<Vector<Target>*>(target)[i] = out;
  }
  for (uint64_t i = num_vectors * kElements + first; i < count; i += stride) {
    target[i] = narrow<Target>(widen(source[i]));
  }
}

template <class Source, class Target>
void launch(const Conversion& conversion, cudaStream_t stream) {
  const auto misalignment = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16; };
  const bool aligned = misalignment(conversion.source) == 0 && misalignment(conversion.target) == 0;
  const uint64_t num_vectors = aligned ? conversion.count / kElements : 0;
  const uint64_t num_threads = num_vectors + (conversion.count - num_vectors * kElements);
  const uint64_t num_blocks = std::min<uint64_t>((num_threads + kThreads - 1) / kThreads, kMaxBlocks);
  convert_kernel<Source, Target><<<static_cast<uint32_t>(num_blocks), kThreads, 0, stream>>>(
      static_cast<const Source*>(conversion.source), static_cast<Target*>(conversion.target),
      conversion.count, num_vectors);
  check_launch("convert_kernel");
}

template <class Source>
void launch_from(const Conversion& conversion, cudaStream_t stream) {
  switch (conversion.target_dtype) {
    case DType::kFloat32: return launch<Source, float>(conversion, stream);
    case DType::kFloat16: return launch<Source, __half>(conversion, stream);
    case DType::kBFloat16: return launch<Source, __nv_bfloat16>(conversion, stream);
  }
}

}  // namespace

void convert_elements(const Conversion& conversion, cudaStream_t stream) {
  if (conversion.count == 0) return;
  if (conversion.source_dtype == conversion.target_dtype) {
    check(cudaMemcpyAsync(conversion.target, conversion.source,
                          conversion.count * dtype_bytes(conversion.source_dtype), cudaMemcpyDefault, stream),
          "cudaMemcpyAsync");
    return;
  }
  switch (conversion.source_dtype) {
    case DType::kFloat32: return launch_from<float>(conversion, stream);
    case DType::kFloat16: return launch_from<__half>(conversion, stream);
    case DType::kBFloat16: return launch_from<__nv_bfloat16>(conversion, stream);
  }
}

}  // namespace kadenz::cuda
