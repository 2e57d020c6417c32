#include "cuda/device_memory.h"

#include <cuda_runtime_api.h>

#include <algorithm>

#include "cuda/check.h"
#include "cuda/out_of_memory.h"
#include "model/error.h"

namespace kadenz::cuda {

DeviceMemory device_memory() {
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  check(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
  return {free_bytes, total_bytes};
}

DeviceArena::DeviceArena(const DeviceArenaOptions& options)
    : range_(options.capacity_bytes != 0 ? options.capacity_bytes : device_memory().total_bytes,
             options.purpose),
      remedy_(options.remedy) {}

std::byte* DeviceArena::allocate_bytes(uint64_t bytes) {
  const uint64_t padded_bytes =
      checked_add(bytes, kAlignmentBytes - 1, "a size in device memory") / kAlignmentBytes * kAlignmentBytes;
  const uint64_t end_bytes = checked_add(used_bytes_, padded_bytes, "a size in device memory");
  const uint64_t limit_bytes = mapped() ? mapped_bytes() : capacity_bytes();
  if (end_bytes > limit_bytes) {
    throw out_of_memory(end_bytes, range_.purpose(), remedy_);
  }
  std::byte* address = base() + used_bytes_;
  used_bytes_ = end_bytes;
  return address;
}

void DeviceArena::map(uint64_t bytes) { range_.map(std::max(bytes, used_bytes_), remedy_); }

}  // namespace kadenz::cuda
