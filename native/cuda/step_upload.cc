#include "cuda/step_upload.h"

namespace kadenz::cuda {

void StepUpload::add(const void* host, void* device, uint64_t bytes) {
  if (bytes == 0) return;
  if (list_.count == kUploadSegments) send();
  list_.segments[list_.count++] = {host, device, (bytes + 15) / 16};
}

void StepUpload::send() {
  const UploadList list = list_;
  clear();
  upload(list, stream_);
}

}  // namespace kadenz::cuda
