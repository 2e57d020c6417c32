#include "cuda/kernels/upload.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "cuda/check.h"
#include "cuda/kernels/dependent_launch.cuh"

namespace kadenz::cuda {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kWords = 2;  // of 16 bytes, in flight for each thread
constexpr uint32_t kBlockWords = kThreads * kWords;
constexpr uint64_t kMostBlocks = uint64_t{1} << 30;

struct UploadLaunch {
  UploadSegment segments[kUploadSegments];
  uint32_t first_block[kUploadSegments];  // UINT32_MAX where there is no segment
};

// A segment's blocks follow those of the one before; a block takes kBlockWords words of its segment, all of
// them on their way before the first is stored. Loads are volatile: what lies in a cache may be of a step
// before, whose slot the host has written anew.
__global__ void __launch_bounds__(kThreads) upload_kernel(const UploadLaunch launch) {
  UploadSegment own = launch.segments[0];
  uint32_t first_block = 0;
#pragma unroll
  for (uint32_t i = 1; i < kUploadSegments; ++i) {
    if (blockIdx.x < launch.first_block[i]) continue;
    own = launch.segments[i];
    first_block = launch.first_block[i];
  }
  const uint4* source = static_cast<const uint4*>(own.host);
  uint4* target = static_cast<uint4*>(own.device);
  const uint64_t first = static_cast<uint64_t>(blockIdx.x - first_block) * kBlockWords + threadIdx.x;
  uint4 held[kWords];
#pragma unroll
  for (uint32_t i = 0; i < kWords; ++i) {
    if (first + i * kThreads < own.words) held[i] = __ldcv(source + first + i * kThreads);
  }
  wait_for_previous_kernel();  // which may read what the targets still hold
  let_next_kernel_start();
#pragma unroll
  for (uint32_t i = 0; i < kWords; ++i) {
    if (first + i * kThreads < own.words) target[first + i * kThreads] = held[i];
  }
}

__global__ void __launch_bounds__(kThreads) fill_with_zeros_kernel(uint4* data, uint64_t words) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const uint64_t stride = static_cast<uint64_t>(gridDim.x) * kThreads;
  for (uint64_t i = static_cast<uint64_t>(blockIdx.x) * kThreads + threadIdx.x; i < words; i += stride) {
    data[i] = make_uint4(0, 0, 0, 0);
  }
}

bool is_aligned(const void* address) { return reinterpret_cast<uint64_t>(address) % 16 == 0; }

}  // namespace

void upload(const UploadList& list, cudaStream_t stream) {
  UploadLaunch launch;
  uint64_t blocks = 0;
  uint32_t count = 0;
  for (uint32_t i = 0; i < list.count; ++i) {
    const UploadSegment& segment = list.segments[i];
    if (segment.words == 0) continue;
    if (!is_aligned(segment.host) || !is_aligned(segment.device)) {
      throw std::logic_error("upload: segment " + std::to_string(i) + " is not aligned to 16 bytes");
    }
    launch.segments[count] = segment;
    launch.first_block[count++] = static_cast<uint32_t>(blocks);
    blocks += (segment.words + kBlockWords - 1) / kBlockWords;
    if (blocks > kMostBlocks) throw std::logic_error("upload: more than one launch can take");
  }
  if (count == 0) return;
  std::fill(launch.first_block + count, launch.first_block + kUploadSegments, UINT32_MAX);
  launch_dependent(upload_kernel, dim3(static_cast<uint32_t>(blocks)), dim3(kThreads), 0, stream, launch);
  check_launch("upload");
}

void fill_with_zeros(void* data, uint64_t bytes, cudaStream_t stream) {
  if (bytes == 0) return;
  if (!is_aligned(data) || bytes % 16 != 0) {
    throw std::logic_error("fill_with_zeros: " + std::to_string(bytes) + " bytes are not in units of 16");
  }
  const uint64_t words = bytes / 16;
  const uint64_t blocks = std::min<uint64_t>((words + kThreads - 1) / kThreads, 4096);
  launch_dependent(fill_with_zeros_kernel, dim3(static_cast<uint32_t>(blocks)), dim3(kThreads), 0, stream,
                   static_cast<uint4*>(data), words);
  check_launch("fill_with_zeros");
}

}  // namespace kadenz::cuda
