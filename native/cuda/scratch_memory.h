// Device memory for the length of a measurement or a self-test, given
// back when it goes out of scope. Nothing that a step uses lives here.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/check.h"
#include "cuda/out_of_memory.h"

namespace kadenz::cuda {

class ScratchMemory {
 public:
  // Where the device has no room: null memory if `optional`, else HostError("out_of_memory").
  explicit ScratchMemory(uint64_t bytes, bool optional = false) : bytes_(bytes) {
    const cudaError_t error = cudaMalloc(&data_, bytes);
    if (error == cudaSuccess) return;
    data_ = nullptr;
    cudaGetLastError();  // taken note of: the next launch must not report it as its own
    if (optional && error == cudaErrorMemoryAllocation) return;
    if (error != cudaErrorMemoryAllocation) check(error, "cudaMalloc");
    throw out_of_memory(bytes, "the self-test of the matmuls", "End what else runs on this GPU.");
  }
  ~ScratchMemory() { cudaFree(data_); }
  ScratchMemory(const ScratchMemory&) = delete;
  ScratchMemory& operator=(const ScratchMemory&) = delete;

  void* get() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  uint64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  uint64_t bytes_;
};

}  // namespace kadenz::cuda
