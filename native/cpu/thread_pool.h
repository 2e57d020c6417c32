// A few threads that stay. run() cuts work into tasks that threads take in turn; which thread takes which
// never shows in a result, because tasks write to places of their own.
//
// Between runs that follow closely (the operations of one step) a worker polls for some microseconds, then
// sleeps until it is woken. run() waits for tasks, not for threads: a worker that has lost its core holds
// nobody up unless it lost it in the middle of a task. One run at a time; run() may not be called from a
// task. Tasks must not throw.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace kadenz {

// Cores that this process may use, at least 1.
uint32_t available_cores();

class ThreadPool {
 public:
  using Task = std::function<void(uint32_t task, uint32_t thread)>;

  explicit ThreadPool(uint32_t num_threads);  // the caller of run() is one of them
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  uint32_t num_threads() const { return static_cast<uint32_t>(workers_.size()) + 1; }

  // Runs task(i, thread) for i in 0 .. count-1, thread below num_threads() and never in use twice at once.
  void run(uint32_t count, const Task& task);

 private:
  void run_some(uint32_t first, uint32_t count, const Task& task);
  void work(uint32_t thread);
  void take_tasks(uint32_t thread);

  std::vector<std::thread> workers_;
  const Task* task_ = nullptr;  // of the open run; valid while one of its tasks isn't finished
  uint32_t first_ = 0;
  std::atomic<bool> stopping_{false};
  alignas(64) std::atomic<uint32_t> round_{0};     // a new number wakes the workers
  alignas(64) std::atomic<uint64_t> open_{0};      // count of tasks << 32 | the next one to take
  alignas(64) std::atomic<uint32_t> finished_{0};  // tasks of the open run that are done
};

}  // namespace kadenz
