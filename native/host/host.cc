#include "host/host.h"

#include <cstring>

#include "model/error.h"

namespace kadenz {
namespace {

constexpr uint64_t kMostOutstanding = 64;
constexpr uint64_t kMostInstructionBytes = uint64_t{1} << 30;

// An instruction is a table that holds a table of vectors: anything deeper or wider is none.
const wire::Instruction* verified(const uint8_t* bytes, size_t size) {
  flatbuffers::Verifier::Options limits;
  limits.max_depth = 8;
  limits.max_tables = 16;
  flatbuffers::Verifier verifier(bytes, size, limits);
  return verifier.VerifyBuffer<wire::Instruction>(nullptr) ? flatbuffers::GetRoot<wire::Instruction>(bytes)
                                                           : nullptr;
}

}  // namespace

Host::Host(const HostOptions& options)
    : executor_(std::make_unique<Executor>(options)), thread_([this] { work(); }) {}

Host::~Host() { close(); }

void Host::check_open() const {
  if (closed()) throw HostError("host_closed", "The host is closed.");
}

void Host::submit(std::span<const uint8_t> instruction) {
  check_open();
  if (num_outstanding_ >= kMostOutstanding) {
    throw HostError("too_many_steps_in_flight", std::to_string(num_outstanding_) +
                                                    " instructions are under way; collect a result first.");
  }
  Job job;
  const uint8_t* bytes = instruction.data();
  if (reinterpret_cast<uintptr_t>(bytes) % alignof(uint64_t) != 0) {
    job.copy.resize((instruction.size() + 7) / 8);
    std::memcpy(job.copy.data(), bytes, instruction.size());
    bytes = reinterpret_cast<const uint8_t*>(job.copy.data());
  }
  if (!instruction.empty() && instruction.size() <= kMostInstructionBytes) {
    job.instruction = verified(bytes, instruction.size());
  }
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  ++num_outstanding_;
  changed_.notify_all();
}

std::vector<uint8_t> Host::collect() {
  check_open();
  if (num_outstanding_ == 0)
    throw HostError("nothing_submitted", "No instruction is under way; submit one first.");
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !results_.empty() || !begun_.empty(); });
  --num_outstanding_;
  if (!begun_.empty()) {
    const Executor::Begun begun = std::move(begun_.front());
    begun_.pop_front();
    lock.unlock();
    return executor_->finish(begun);
  }
  std::vector<uint8_t> result = std::move(results_.front());
  results_.pop_front();
  return result;
}

void Host::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
    if (stopping_) return;
    const Job job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    Executor::Begun begun = executor_->begin(job.instruction);
    std::vector<uint8_t> result;
    if (!executor_->is_asynchronous()) result = executor_->finish(begun);
    lock.lock();
    if (executor_->is_asynchronous()) {
      begun_.push_back(std::move(begun));
    } else {
      results_.push_back(std::move(result));
    }
    changed_.notify_all();
  }
}

void Host::close() {
  if (closed()) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
  executor_.reset();
  jobs_.clear();
  begun_.clear();
  results_.clear();
  num_outstanding_ = 0;
}

}  // namespace kadenz
