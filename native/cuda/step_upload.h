// What the host has for a step on its way to the device: whoever has something adds where it lies and where it
// goes, then one kernel moves it all (kernels/upload.h).
//
//   add ... add → send
//
// Sources are page-locked, and stay as they are until an event after send() has happened.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/kernels/upload.h"

namespace kadenz::cuda {

class StepUpload {
 public:
  explicit StepUpload(cudaStream_t stream) : stream_(stream) {}

  // Both sides are aligned to 16 bytes and have room for `bytes` rounded up to 16, which is what moves. More
  // than kUploadSegments are sent in parts.
  void add(const void* host, void* device, uint64_t bytes);
  // Enqueues the upload of all that was added.
  void send();
  // Forgets what was added and not sent, by a step that was given up.
  void clear() { list_.count = 0; }

 private:
  cudaStream_t stream_;
  UploadList list_;
};

}  // namespace kadenz::cuda
