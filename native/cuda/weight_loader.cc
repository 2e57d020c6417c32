#include "cuda/weight_loader.h"

#include <cuda_runtime_api.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "cuda/check.h"
#include "cuda/device_buffer.h"
#include "cuda/kernels/convert.h"
#include "model/checked_math.h"
#include "model/error.h"

namespace kadenz::cuda {
namespace {

// Maps the pages of [data, data + bytes) at one go, which is quicker than a fault for every few of them and
// tells of a file that has become shorter, where touching them would end the process.
void fault_in(const std::byte* data, uint64_t bytes, const std::string& tensor_name) {
#ifdef MADV_POPULATE_READ
  static const uintptr_t page_bytes = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data) / page_bytes * page_bytes;
  const uintptr_t end = reinterpret_cast<uintptr_t>(data) + bytes;
  if (::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_READ) == 0) return;
  if (errno == EFAULT) {
    throw HostError("file_truncated", "The file of tensor '" + tensor_name +
                                          "' became shorter, or unreadable, while it was being loaded.");
  }
  // Anything else means that the kernel doesn't know the advice; the copy itself maps the pages then.
#else
  (void)data, (void)bytes, (void)tensor_name;
#endif
}

}  // namespace

// A thread's stream and its two buffers. `fetched` tells when the device has read a buffer.
struct WeightLoader::Worker {
  struct Buffer {
    PinnedBuffer<std::byte> memory;
    cudaEvent_t fetched = nullptr;
  };

  explicit Worker(uint64_t buffer_bytes) {
    try {
      check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
      for (Buffer& buffer : buffers) {
        buffer.memory = PinnedBuffer<std::byte>(buffer_bytes);
        check(cudaEventCreateWithFlags(&buffer.fetched, cudaEventDisableTiming | cudaEventBlockingSync),
              "cudaEventCreateWithFlags");
      }
    } catch (...) {
      release();
      throw;
    }
  }
  ~Worker() { release(); }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  void copy(const Piece& piece) {
    Buffer& buffer = buffers[next_buffer];
    next_buffer = (next_buffer + 1) % buffers.size();
    check(cudaEventSynchronize(buffer.fetched), "cudaEventSynchronize");
    const uint64_t bytes = piece.count * dtype_bytes(piece.source_dtype);
    fault_in(piece.source, bytes, *piece.tensor_name);
    std::memcpy(buffer.memory.data(), piece.source, bytes);
    convert_elements({.source = buffer.memory.data(),
                      .source_dtype = piece.source_dtype,
                      .target = piece.target,
                      .target_dtype = piece.target_dtype,
                      .count = piece.count},
                     stream);
    check(cudaEventRecord(buffer.fetched, stream), "cudaEventRecord");
  }

  void release() {
    if (stream != nullptr) {
      cudaStreamSynchronize(stream);
      cudaStreamDestroy(stream);
    }
    for (Buffer& buffer : buffers) {
      if (buffer.fetched != nullptr) cudaEventDestroy(buffer.fetched);
    }
    cudaGetLastError();  // not to be blamed on the next launch
  }

  cudaStream_t stream = nullptr;
  std::array<Buffer, 2> buffers;
  size_t next_buffer = 0;
};

WeightLoader::WeightLoader(const WeightLoaderOptions& options)
    : buffer_bytes_(std::max<uint64_t>(options.buffer_bytes, 64) / 64 * 64) {
  check(cudaGetDevice(&device_), "cudaGetDevice");
  const uint32_t num_cores = std::max(std::thread::hardware_concurrency(), 1U);
  const uint32_t num_threads = std::clamp(options.num_threads, 1U, num_cores);
  for (uint32_t i = 0; i < num_threads; ++i) workers_.push_back(std::make_unique<Worker>(buffer_bytes_));
  try {
    for (const auto& worker : workers_) threads_.emplace_back([this, &worker] { work(*worker); });
  } catch (...) {
    stop();
    throw;
  }
}

WeightLoader::~WeightLoader() { stop(); }

void WeightLoader::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    pieces_.clear();
  }
  queued_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void WeightLoader::load(std::span<const TensorView> parts, const LoadTarget& target) {
  std::vector<Piece> pieces;
  std::byte* const begin = static_cast<std::byte*>(target.device);
  uint64_t filled_bytes = 0;
  for (const TensorView& part : parts) {
    const uint64_t source_size = dtype_bytes(part.dtype);
    const uint64_t target_size = dtype_bytes(target.dtype);
    const uint64_t count = part.bytes / source_size;
    const uint64_t part_bytes = checked_multiply(count, target_size, "a tensor's size in device memory");
    if (count * source_size != part.bytes || part_bytes > target.bytes - filled_bytes) {
      throw std::logic_error("tensor '" + part.name + "' of " + std::to_string(part.bytes) +
                             " bytes does not fit " + std::to_string(target.bytes - filled_bytes) +
                             " bytes of " + dtype_name(target.dtype));
    }
    const auto name = std::make_shared<const std::string>(part.name);
    const uint64_t most = buffer_bytes_ / source_size;
    for (uint64_t first = 0; first < count; first += most) {
      pieces.push_back({.source = part.data + first * source_size,
                        .target = begin + filled_bytes + first * target_size,
                        .count = std::min(most, count - first),
                        .source_dtype = part.dtype,
                        .target_dtype = target.dtype,
                        .tensor_name = name});
    }
    filled_bytes += part_bytes;
  }
  if (filled_bytes != target.bytes) {
    throw std::logic_error("tensors of " + std::to_string(filled_bytes) + " bytes for a target of " +
                           std::to_string(target.bytes));
  }
  {
    const std::lock_guard lock(mutex_);
    if (failure_ != nullptr) return;  // finish() tells
    pieces_.insert(pieces_.end(), pieces.begin(), pieces.end());
  }
  queued_.notify_all();
}

void WeightLoader::finish() {
  {
    std::unique_lock lock(mutex_);
    drained_.wait(lock, [this] { return pieces_.empty() && num_busy_ == 0; });
  }
  // The workers wait for pieces now, so their streams are this thread's to look at.
  cudaError_t first = cudaSuccess;
  for (const auto& worker : workers_) {
    const cudaError_t synchronized = cudaStreamSynchronize(worker->stream);
    if (first == cudaSuccess) first = synchronized;
  }
  if (failure_ != nullptr) std::rethrow_exception(failure_);
  check(first, "cudaStreamSynchronize");
}

void WeightLoader::work(Worker& worker) {
  const cudaError_t current = cudaSetDevice(device_);
  std::unique_lock lock(mutex_);
  while (true) {
    queued_.wait(lock, [this] { return stopping_ || !pieces_.empty(); });
    if (stopping_) return;
    const Piece piece = std::move(pieces_.front());
    pieces_.pop_front();
    ++num_busy_;
    lock.unlock();
    std::exception_ptr failure;
    try {
      check(current, "cudaSetDevice");
      worker.copy(piece);
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    if (failure != nullptr) {
      if (failure_ == nullptr) failure_ = failure;
      pieces_.clear();  // a model that lacks a piece is of no use
    }
    --num_busy_;
    if (pieces_.empty() && num_busy_ == 0) drained_.notify_all();
  }
}

}  // namespace kadenz::cuda
