// Page-locked host memory to device memory by a kernel: a step's integers all in one launch. A copy by the copy
// engine costs its stream several microseconds beside the bytes, since the stream changes engines and back; a
// kernel's loads over the bus cost one trip.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace kadenz::cuda {

inline constexpr uint32_t kUploadSegments = 8;

// Both sides aligned to 16 bytes.
struct UploadSegment {
  const void* host = nullptr;  // page-locked; the device knows it by the same address
  void* device = nullptr;
  uint64_t words = 0;  // of 16 bytes
};

struct UploadList {
  UploadSegment segments[kUploadSegments];
  uint32_t count = 0;
};

// Targets must not overlap. The host may write the sources again once a later event of the stream has
// happened. They are read while the kernel before may still run, so no kernel may write them.
void upload(const UploadList& list, cudaStream_t stream);

// By a kernel, not a memset: what a kernel wrote counts as written for initcheck, also in memory that is mapped
// behind a reserved range. Address and size are multiples of 16.
void fill_with_zeros(void* data, uint64_t bytes, cudaStream_t stream);

}  // namespace kadenz::cuda
