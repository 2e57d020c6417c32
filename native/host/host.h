// The host as its client sees it: submit() queues an instruction and returns at once, collect() waits for the
// oldest one and gives its Result. One thread of its own begins them, in order. Where the device works by
// itself, that thread goes on to the next one at once, and collect() waits for the device.
//
// Ownership: an instruction's bytes are read where they lie. They must stay valid and unchanged until its
// Result has been collected or the host is closed. Bytes that don't begin at a multiple of 8 are copied.
//
// submit(), collect() and close() are called by one thread.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "host/executor.h"
#include "host/options.h"

namespace kadenz {

class Host {
 public:
  explicit Host(const HostOptions& options);
  ~Host();
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  // Bytes that are no valid instruction are not refused here: their Result says step_failed.
  // Throws HostError: host_closed, too_many_steps_in_flight.
  void submit(std::span<const uint8_t> instruction);
  // Throws HostError: host_closed, nothing_submitted.
  std::vector<uint8_t> collect();
  // Finishes the instruction under way, drops the others, frees everything. Twice is fine.
  void close();

  bool closed() const { return executor_ == nullptr; }
  const Executor& executor() const { return *executor_; }

 private:
  struct Job {
    std::vector<uint64_t> copy;                      // of bytes that were not aligned
    const wire::Instruction* instruction = nullptr;  // null: not valid
  };

  void work();
  void check_open() const;

  std::unique_ptr<Executor> executor_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_;  // the first one may be under way
  std::deque<Executor::Begun> begun_;            // asynchronous devices: to be finished by collect()
  std::deque<std::vector<uint8_t>> results_;  // others
  uint64_t num_outstanding_ = 0;  // submitted, not collected; the client's thread only
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace kadenz
