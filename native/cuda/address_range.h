// A range of device addresses that is reserved once, and physical memory that comes and goes behind it. What
// was captured in a CUDA graph stays valid while the memory is given back, and works again once it is mapped.
//
// Lifecycle: reserve (constructor) → map → unmap → map ... → free (destructor). The memory's content is lost
// by unmap, and undefined after map. Physical memory comes in handles of 1 GiB: few enough that mapping 100
// GiB is quick. The range belongs to the device that was current in the constructor; one thread at a time
// calls it, and that device is current in the thread afterwards.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace kadenz::cuda {

class AddressRange {
 public:
  // Reserves addresses, no memory. `purpose` completes "device memory for ...".
  // Throws HostError: out_of_memory (more addresses than a device has), device_error.
  AddressRange(uint64_t capacity_bytes, std::string purpose);
  ~AddressRange();
  AddressRange(const AddressRange&) = delete;
  AddressRange& operator=(const AddressRange&) = delete;

  // Physical memory for the first `bytes`, rounded up to the device's granularity. `remedy` is a sentence
  // that says what the user can lower. All or nothing. Throws HostError: out_of_memory, device_error. Mapping
  // a mapped range, or beyond its capacity, is a bug.
  void map(uint64_t bytes, const std::string& remedy);
  // Waits for the device, then gives the physical memory back. An unmapped range stays as it is.
  // Throws HostError: device_error.
  void unmap();

  std::byte* base() const { return reinterpret_cast<std::byte*>(base_); }
  uint64_t capacity_bytes() const { return capacity_bytes_; }
  uint64_t mapped_bytes() const { return mapped_bytes_; }
  const std::string& purpose() const { return purpose_; }

 private:
  struct Chunk {
    CUmemGenericAllocationHandle handle;
    uint64_t bytes;
  };

  CUresult give_back();

  std::string purpose_;
  int device_ = 0;
  CUdeviceptr base_ = 0;
  uint64_t granularity_bytes_ = 0;
  uint64_t capacity_bytes_ = 0;
  uint64_t mapped_bytes_ = 0;
  std::vector<Chunk> chunks_;  // in the order of their addresses, without gaps from base_
};

}  // namespace kadenz::cuda
