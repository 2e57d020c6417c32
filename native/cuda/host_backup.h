// Page-locked host memory that keeps what device memory holds while that memory is given back: the weights,
// between two phases of a trainer.
//
// Locking pages costs far more than copying (seconds for 8 GiB against 0.15), so the memory is locked once,
// by several threads, and kept until the backup goes. Lifecycle: constructor → save → restore → restore ... →
// save.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace kadenz::cuda {

class HostBackup {
 public:
  // Room for `capacity_bytes`, locked by up to `num_threads` threads.
  // Throws HostError: out_of_memory, device_error.
  explicit HostBackup(uint64_t capacity_bytes, uint32_t num_threads = 8);
  ~HostBackup();
  HostBackup(const HostBackup&) = delete;
  HostBackup& operator=(const HostBackup&) = delete;

  // Both wait for the device first and for the copy last, so that nothing else is needed around them.
  // More bytes than there is room for, or restoring what was not saved, is a bug. Throw HostError:
  // device_error.
  void save(const void* device, uint64_t bytes);
  void restore(void* device, uint64_t bytes);

  uint64_t capacity_bytes() const { return capacity_bytes_; }
  uint64_t saved_bytes() const { return saved_bytes_; }

 private:
  void lock_pages(uint32_t num_threads);
  void release();
  void copy(std::byte* target, const std::byte* source, uint64_t bytes, cudaMemcpyKind kind);

  uint64_t capacity_bytes_ = 0;
  uint64_t saved_bytes_ = 0;
  std::byte* mapping_ = nullptr;
  uint64_t mapping_bytes_ = 0;
  std::byte* data_ = nullptr;       // in the mapping, aligned to a huge page
  uint64_t num_locked_chunks_ = 0;  // from data_ on, without gaps, once the constructor is through
  cudaStream_t stream_ = nullptr;
};

}  // namespace kadenz::cuda
