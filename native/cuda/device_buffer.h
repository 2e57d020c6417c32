// Small device and page-locked memory that stays for the life of its owner (an engine's tables and staging
// buffers); the large ranges are DeviceArenas.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstring>
#include <utility>

#include "cuda/check.h"
#include "cuda/out_of_memory.h"

namespace kadenz::cuda {

enum class BufferKind { kDevice, kPinned };

template <class Element, BufferKind kind>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(uint64_t count) : count_(count) {
    if (count == 0) return;
    void* data = nullptr;
    if constexpr (kind == BufferKind::kDevice) {
      const cudaError_t error = cudaMalloc(&data, bytes());
      if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError();  // taken note of: the next launch must not report it as its own
        throw out_of_memory(bytes(), "the host's tables",
                            "End what else runs on this GPU, or lower --max-num-seqs.");
      }
      check(error, "cudaMalloc");
    } else {
      check(cudaHostAlloc(&data, bytes(), cudaHostAllocDefault), "cudaHostAlloc");
    }
    data_ = static_cast<Element*>(data);
  }
  ~Buffer() {
    if (data_ == nullptr) return;
    if constexpr (kind == BufferKind::kDevice) {
      cudaFree(data_);
    } else {
      cudaFreeHost(data_);
    }
  }
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), count_(std::exchange(other.count_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
    return *this;
  }

  Element* data() const { return data_; }
  uint64_t count() const { return count_; }
  uint64_t bytes() const { return count_ * sizeof(Element); }

 private:
  Element* data_ = nullptr;
  uint64_t count_ = 0;
};

template <class Element>
using DeviceBuffer = Buffer<Element, BufferKind::kDevice>;
template <class Element>
using PinnedBuffer = Buffer<Element, BufferKind::kPinned>;

// For buffers that are read up to a rounded size, or where not all of them was written.
template <class Element>
PinnedBuffer<Element> zeroed_pinned(uint64_t count) {
  PinnedBuffer<Element> buffer(count);
  if (count > 0) std::memset(buffer.data(), 0, buffer.bytes());
  return buffer;
}

}  // namespace kadenz::cuda
