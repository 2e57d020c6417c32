// Copies tensors from mapped files into device memory, changing their dtype on the way where the target asks
// for another.
//
// Several threads each copy pieces of tensors into page-locked buffers of their own, two a thread: while the
// device fetches one, the thread fills the other. A piece of the target's dtype is copied by the device's
// copy engine; another one is read and converted by a kernel straight from the buffer, so no device memory is
// needed. Each byte of the target comes from one piece, so the number of threads and their order change
// nothing.
//
// Ownership: the tensors' bytes must stay mapped, and the target's memory be the loader's alone, until
// finish() has returned. One thread calls; the loader serves the device that was current in its constructor.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "model/dtype.h"
#include "model/weights.h"

namespace kadenz::cuda {

struct WeightLoaderOptions {
  uint32_t num_threads = 8;                   // at most; not more than the machine has cores
  uint64_t buffer_bytes = uint64_t{8} << 20;  // of one page-locked buffer; at least 64
};

struct LoadTarget {
  void* device;
  uint64_t bytes;  // exactly what the parts come to in the target's dtype
  DType dtype;
};

class WeightLoader {
 public:
  // Throws HostError: device_error.
  explicit WeightLoader(const WeightLoaderOptions& options = {});
  ~WeightLoader();  // drops what has not begun
  WeightLoader(const WeightLoader&) = delete;
  WeightLoader& operator=(const WeightLoader&) = delete;

  // Queues the parts, which land one after the other ([q; k; v] stacked by rows), and returns. Parts that
  // don't fill the target exactly are a bug.
  void load(std::span<const TensorView> parts, const LoadTarget& target);
  // Waits until all that was queued is in device memory. The first failure of a thread is thrown here, now
  // and at each later call: HostError file_truncated (a file that became shorter), device_error.
  void finish();

 private:
  struct Piece {
    const std::byte* source;
    std::byte* target;
    uint64_t count;  // elements
    DType source_dtype;
    DType target_dtype;
    std::shared_ptr<const std::string> tensor_name;
  };
  struct Worker;

  void work(Worker& worker);
  void stop();

  int device_ = 0;
  uint64_t buffer_bytes_;
  std::mutex mutex_;
  std::condition_variable queued_;
  std::condition_variable drained_;
  std::deque<Piece> pieces_;
  uint32_t num_busy_ = 0;  // workers with a piece in hand
  bool stopping_ = false;
  std::exception_ptr failure_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::thread> threads_;
};

}  // namespace kadenz::cuda
