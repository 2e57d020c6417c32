#include "cpu/thread_pool.h"

#include <sched.h>

#include <algorithm>

#include "model/float_environment.h"

namespace kadenz {
namespace {

constexpr int kPolls = 4000;  // some tens of microseconds
constexpr uint32_t kMaxTasksOpen = 1U << 30;  // far from where a late worker's increments could carry over

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

uint32_t available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof(set), &set) == 0)
    return static_cast<uint32_t>(std::max(1, CPU_COUNT(&set)));
  return std::max(1U, std::thread::hardware_concurrency());
}

ThreadPool::ThreadPool(uint32_t num_threads) {
  for (uint32_t thread = 1; thread < num_threads; ++thread) {
    workers_.emplace_back([this, thread] { work(thread); });
  }
}

ThreadPool::~ThreadPool() {
  stopping_ = true;
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(uint32_t count, const Task& task) {
  const FloatEnvironment environment;
  if (count <= 1 || workers_.empty()) {
    for (uint32_t i = 0; i < count; ++i) task(i, 0);
    return;
  }
  for (uint32_t first = 0; first < count; first += kMaxTasksOpen) {
    run_some(first, std::min(kMaxTasksOpen, count - first), task);
  }
}

void ThreadPool::run_some(uint32_t first, uint32_t count, const Task& task) {
  task_ = &task;
  first_ = first;
  finished_.store(0, std::memory_order_relaxed);
  open_.store(uint64_t{count} << 32, std::memory_order_release);
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  take_tasks(0);
  for (int poll = 0; finished_.load(std::memory_order_acquire) != count; ++poll) {
    if (poll < kPolls) {
      pause_briefly();
    } else {
      std::this_thread::yield();  // the worker with the last task has lost its core to someone else
    }
  }
}

void ThreadPool::work(uint32_t thread) {
  const FloatEnvironment environment;
  uint32_t seen = 0;
  for (;;) {
    for (int poll = 0; round_.load(std::memory_order_acquire) == seen && poll < kPolls; ++poll)
      pause_briefly();
    uint32_t round = round_.load(std::memory_order_acquire);
    while (round == seen) {
      round_.wait(seen, std::memory_order_acquire);
      round = round_.load(std::memory_order_acquire);
    }
    seen = round;
    if (stopping_) return;
    take_tasks(thread);
  }
}

// A task is taken by one increment that also tells whether there was one: count and index are one word, so a
// late worker can't mistake the index of one run for that of the next. Having taken a task keeps its run
// open.
void ThreadPool::take_tasks(uint32_t thread) {
  uint32_t done = 0;
  for (;;) {
    const uint64_t taken = open_.fetch_add(1, std::memory_order_acq_rel);
    const uint32_t index = static_cast<uint32_t>(taken);
    if (index >= static_cast<uint32_t>(taken >> 32)) break;
    (*task_)(first_ + index, thread);
    ++done;
  }
  if (done > 0) finished_.fetch_add(done, std::memory_order_release);
}

}  // namespace kadenz
