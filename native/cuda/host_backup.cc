#include "cuda/host_backup.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "cuda/bytes_text.h"
#include "cuda/check.h"
#include "model/checked_math.h"
#include "model/error.h"

namespace kadenz::cuda {
namespace {

constexpr uint64_t kHugePageBytes = uint64_t{2} << 20;
// What one thread locks at a time, and what one copy moves: a copy must not cross from one locked region into
// the next.
constexpr uint64_t kChunkBytes = uint64_t{256} << 20;

// Makes the pages exist, which is most of the cost of locking them and needs no lock of the driver's. False
// when the system has no memory for them.
bool touch_pages(std::byte* data, uint64_t bytes) {
#ifdef MADV_POPULATE_WRITE
  if (::madvise(data, bytes, MADV_POPULATE_WRITE) == 0) return true;
  if (errno != EINVAL) return false;  // EINVAL: a kernel that doesn't know it
#endif
  const uint64_t page_bytes = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  for (uint64_t offset = 0; offset < bytes; offset += page_bytes) {
    *const_cast<volatile std::byte*>(data + offset) = std::byte{0};
  }
  return true;
}

}  // namespace

HostBackup::HostBackup(uint64_t capacity_bytes, uint32_t num_threads) : capacity_bytes_(capacity_bytes) {
  if (capacity_bytes == 0) return;
  mapping_bytes_ = checked_add(capacity_bytes, kHugePageBytes, "the size of a backup in host memory");
  void* mapping = ::mmap(nullptr, mapping_bytes_, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) {
    throw HostError("out_of_memory", "Could not get " + bytes_text(capacity_bytes) +
                                         " of host memory to back device memory up. Free host memory.");
  }
  mapping_ = static_cast<std::byte*>(mapping);
  const uintptr_t address = reinterpret_cast<uintptr_t>(mapping_);
  data_ = mapping_ + (kHugePageBytes - address % kHugePageBytes) % kHugePageBytes;
  ::madvise(data_, capacity_bytes, MADV_HUGEPAGE);  // where the system has them
  try {
    lock_pages(num_threads);
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  } catch (...) {
    release();
    throw;
  }
}

HostBackup::~HostBackup() { release(); }

void HostBackup::lock_pages(uint32_t num_threads) {
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  const uint64_t num_chunks = (capacity_bytes_ + kChunkBytes - 1) / kChunkBytes;
  std::vector<cudaError_t> results(num_chunks, cudaErrorUnknown);
  std::atomic<uint64_t> next_chunk{0};
  const auto work = [&] {
    const cudaError_t current = cudaSetDevice(device);
    for (uint64_t chunk = next_chunk++; chunk < num_chunks; chunk = next_chunk++) {
      std::byte* data = data_ + chunk * kChunkBytes;
      const uint64_t bytes = std::min(kChunkBytes, capacity_bytes_ - chunk * kChunkBytes);
      if (current != cudaSuccess) {
        results[chunk] = current;
      } else if (!touch_pages(data, bytes)) {
        results[chunk] = cudaErrorMemoryAllocation;
      } else {
        results[chunk] = cudaHostRegister(data, bytes, cudaHostRegisterDefault);
      }
      if (results[chunk] != cudaSuccess) cudaGetLastError();  // not to be blamed on the next launch
    }
  };
  std::vector<std::jthread> threads;
  const uint64_t num_helpers = std::min<uint64_t>(std::max(num_threads, 1U), num_chunks) - 1;
  for (uint64_t i = 0; i < num_helpers; ++i) {
    try {
      threads.emplace_back(work);
    } catch (const std::system_error&) {
      break;  // fewer do it too
    }
  }
  work();
  threads.clear();  // joins

  const auto failed =
      std::find_if(results.begin(), results.end(), [](cudaError_t r) { return r != cudaSuccess; });
  if (failed == results.end()) {
    num_locked_chunks_ = num_chunks;
    return;
  }
  for (uint64_t chunk = 0; chunk < num_chunks; ++chunk) {
    if (results[chunk] == cudaSuccess) cudaHostUnregister(data_ + chunk * kChunkBytes);
  }
  throw HostError("out_of_memory",
                  "Could not page-lock " + bytes_text(capacity_bytes_) +
                      " of host memory to back device memory up: " + cudaGetErrorString(*failed) +
                      ". Free host memory, or raise the limit of locked memory (ulimit -l).");
}

void HostBackup::release() {
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
  for (uint64_t chunk = 0; chunk < num_locked_chunks_; ++chunk) {
    cudaHostUnregister(data_ + chunk * kChunkBytes);
  }
  if (mapping_ != nullptr) ::munmap(mapping_, mapping_bytes_);
}

void HostBackup::save(const void* device, uint64_t bytes) {
  if (bytes > capacity_bytes_) {
    throw std::logic_error("saving " + std::to_string(bytes) + " bytes in a backup of " +
                           std::to_string(capacity_bytes_));
  }
  saved_bytes_ = 0;  // until all of it is here
  copy(data_, static_cast<const std::byte*>(device), bytes, cudaMemcpyDeviceToHost);
  saved_bytes_ = bytes;
}

void HostBackup::restore(void* device, uint64_t bytes) {
  if (bytes != saved_bytes_) {
    throw std::logic_error("restoring " + std::to_string(bytes) + " bytes of " +
                           std::to_string(saved_bytes_) + " that were saved");
  }
  copy(static_cast<std::byte*>(device), data_, bytes, cudaMemcpyHostToDevice);
}

void HostBackup::copy(std::byte* target, const std::byte* source, uint64_t bytes, cudaMemcpyKind kind) {
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  for (uint64_t offset = 0; offset < bytes; offset += kChunkBytes) {
    const uint64_t part_bytes = std::min(kChunkBytes, bytes - offset);
    check(cudaMemcpyAsync(target + offset, source + offset, part_bytes, kind, stream_), "cudaMemcpyAsync");
  }
  if (bytes != 0) check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
}

}  // namespace kadenz::cuda
