// Programmatic dependent launch: a kernel's blocks may start while the kernel before it in the stream drains,
// so that the launch latency is hidden. Its use here follows one rule, which keeps the results those of plain
// launches:
//
//   every kernel calls wait_for_previous_kernel() in every thread before it reads or writes any global
//   memory; only what no kernel shortly before it writes may be read earlier: weights (matrices, norms,
//   biases, embedding tables), attention's work lists and block tables, which are in place before a step's
//   first layer, and page-locked memory that the host wrote before the launch.
//
// The wait returns when all kernels before this one are complete and their writes are seen. A kernel may
// therefore let the next one start right after its own wait: the next one holds back in its own. Loads of
// data that a step writes must not go through the read-only path (__ldg): that path assumes that nothing
// wrote the data since the kernel began, and with this launch a kernel begins early.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

#include "cuda/check.h"

namespace kadenz::cuda {

__device__ __forceinline__ void wait_for_previous_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void let_next_kernel_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Launches the kernel so that it may overlap the end of the one before; a plain launch on GPUs before
// compute capability 9.0. May be captured in a graph. The caller names the kernel by check_launch() after it.
template <typename... Parameters, typename... Arguments>
void launch_dependent(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                      cudaStream_t stream, Arguments&&... arguments) {
  int device = 0;
  int capability_major = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&capability_major, cudaDevAttrComputeCapabilityMajor, device),
        "cudaDeviceGetAttribute");
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = capability_major >= 9 ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), "cudaLaunchKernelEx");
}

}  // namespace kadenz::cuda
