// Where device memory goes: an arena that hands out addresses one after the other, and what the device has.
//
// An arena serves the weights, the KV cache or the workspace. Addresses are handed out first, from a reserved
// range, and memory comes behind all of them at once: allocate ... allocate, map, use, unmap, map, use. The
// same sequence of allocations gives the same addresses, so captured graphs stay valid.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "cuda/address_range.h"
#include "model/checked_math.h"

namespace kadenz::cuda {

struct DeviceMemory {
  uint64_t free_bytes;
  uint64_t total_bytes;
  // By everybody on this device, contexts and other processes included: the driver does not tell them apart.
  uint64_t used_bytes() const { return total_bytes - free_bytes; }
};

DeviceMemory device_memory();  // of the current device

struct DeviceArenaOptions {
  std::string purpose;          // completes "device memory for ..."
  std::string remedy;           // a sentence: what to lower when there is too little
  uint64_t capacity_bytes = 0;  // of addresses; 0 = as many as the device has memory
};

class DeviceArena {
 public:
  static constexpr uint64_t kAlignmentBytes = 256;

  explicit DeviceArena(const DeviceArenaOptions& options);

  // The next address, aligned to 256 bytes, with room for `count` elements (none is fine). Before map() any
  // that fit the capacity, after it those that fit what is mapped.
  // Throws HostError: out_of_memory, size_overflow.
  template <class Element>
  Element* allocate(uint64_t count) {
    return reinterpret_cast<Element*>(
        allocate_bytes(checked_multiply(count, sizeof(Element), "a size in device memory")));
  }
  std::byte* allocate_bytes(uint64_t bytes);
  void reset() { used_bytes_ = 0; }  // all that was handed out is taken back; what is mapped stays

  // Memory for all that was handed out, or for at least `bytes`. Throws HostError: out_of_memory,
  // device_error.
  void map(uint64_t bytes = 0);
  void unmap() { range_.unmap(); }
  bool mapped() const { return range_.mapped_bytes() != 0; }

  std::byte* base() const { return range_.base(); }
  uint64_t used_bytes() const { return used_bytes_; }
  uint64_t mapped_bytes() const { return range_.mapped_bytes(); }
  uint64_t capacity_bytes() const { return range_.capacity_bytes(); }

 private:
  AddressRange range_;
  std::string remedy_;
  uint64_t used_bytes_ = 0;  // a multiple of the alignment
};

}  // namespace kadenz::cuda
