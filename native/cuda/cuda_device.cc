#include "cuda/cuda_device.h"

#include <algorithm>
#include <array>
#include <deque>
#include <mutex>
#include <string>

#include "cuda/certificate.h"
#include "cuda/check.h"
#include "cuda/cuda_ops.h"
#include "cuda/sampling_step.h"
#include "model/error.h"

namespace kadenz::cuda {
namespace {

// Raised by whoever changes the bits that our kernels give.
constexpr int kNumerics = 1;

class Stream {
 public:
  explicit Stream(uint32_t device_index) {
    check(cudaSetDevice(static_cast<int>(device_index)), "cudaSetDevice");
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

Half half_of(DType dtype) {
  if (dtype == DType::kBFloat16) return Half::kBFloat16;
  if (dtype == DType::kFloat16) return Half::kFloat16;
  throw HostError("unsupported_dtype",
                  "The device 'cuda' computes in bfloat16 or float16 (with float32 sums), not in float32.");
}

void require_gpu(uint32_t index) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver) {
    throw HostError("cuda_unavailable",
                    "There is no NVIDIA driver, or it is older than CUDA 13; install driver 580 or newer.");
  }
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) {
    throw HostError("cuda_unavailable", "The NVIDIA driver finds no GPU (is CUDA_VISIBLE_DEVICES set?).");
  }
  if (error != cudaSuccess) {
    throw HostError("cuda_unavailable",
                    std::string("CUDA can't be used: ") + cudaGetErrorString(error) + ".");
  }
  if (index >= static_cast<uint32_t>(count)) {
    throw HostError("cuda_unavailable", "GPU " + std::to_string(index) + " was asked for; there are " +
                                            std::to_string(count) + ", counted from 0.");
  }
}

// Timestamps of the steps on the device, and what they come to.
class StepClock {
 public:
  StepClock() {
    for (Slot& slot : slots_) {
      check(cudaEventCreate(&slot.begin), "cudaEventCreate");
      check(cudaEventCreate(&slot.end), "cudaEventCreate");
    }
  }
  ~StepClock() {
    for (Slot& slot : slots_) cudaEventDestroy(slot.begin), cudaEventDestroy(slot.end);
  }
  StepClock(const StepClock&) = delete;
  StepClock& operator=(const StepClock&) = delete;

  // follows: the step before was still under way when this one was submitted.
  void begin(uint64_t step, bool follows, cudaStream_t stream) {
    slot(step).follows = follows;
    check(cudaEventRecord(slot(step).begin, stream), "cudaEventRecord");
  }
  void end(uint64_t step, cudaStream_t stream) { check(cudaEventRecord(slot(step).end, stream), "cudaEventRecord"); }
  // Once the step is done on the device
  void note(uint64_t step) {
    float busy_ms = 0;
    float gap_ms = 0;
    check(cudaEventElapsedTime(&busy_ms, slot(step).begin, slot(step).end), "cudaEventElapsedTime");
    if (slot(step).follows && step > 0)
      check(cudaEventElapsedTime(&gap_ms, slot(step - 1).end, slot(step).begin), "cudaEventElapsedTime");
    const std::lock_guard lock(mutex_);
    ++times_.steps;
    times_.busy_ms += static_cast<double>(busy_ms);
    times_.gap_ms += static_cast<double>(gap_ms);
  }
  DeviceTimes times() const {
    const std::lock_guard lock(mutex_);
    return times_;
  }

 private:
  struct Slot {
    cudaEvent_t begin = nullptr;
    cudaEvent_t end = nullptr;
    bool follows = false;
  };
  static constexpr uint64_t kSlots = 8;  // more than steps in flight
  Slot& slot(uint64_t step) { return slots_[step % kSlots]; }

  std::array<Slot, kSlots> slots_;
  mutable std::mutex mutex_;
  DeviceTimes times_;
};

class CudaDevice : public Device {
 public:
  explicit CudaDevice(const HostOptions& options)
      : options_(options),
        half_(half_of(options.dtype)),
        stream_(options.cuda.device_index),
        ops_(options, half_, stream_.get()),
        sampling_(static_cast<uint32_t>(options.config.vocab_size), options.limits.max_num_seqs,
                  std::max(options.limits.max_num_batched_tokens, options.limits.max_num_seqs), stream_.get(),
                  ops_.poisoned(), ops_.logits().columns()) {
    ops_.gather_from(sampling_.sampled_tokens());
    options_.progress = {};
    certificate_ = ops_.certificate();
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, static_cast<int>(options.cuda.device_index)),
          "cudaGetDeviceProperties");
    name_ = properties.name;
    capability_ = "sm_" + std::to_string(properties.major) + std::to_string(properties.minor);
    progress_ = options.progress;
  }
  ~CudaDevice() override {
    cudaSetDevice(static_cast<int>(options_.cuda.device_index));
    cudaStreamSynchronize(stream_.get());
  }

  std::string name() const override { return name_; }
  std::string fingerprint() const override {
    return "cuda " + name_ + " " + capability_ + " " + dtype_name(options_.dtype) + " " + certificate_ +
           " numerics-" + std::to_string(kNumerics);
  }
  Ops& ops() override { return ops_; }
  bool is_asynchronous() const override { return true; }

  void enter_thread() override {
    check(cudaSetDevice(static_cast<int>(options_.cuda.device_index)), "cudaSetDevice");
  }
  void warm_up(Decoder& decoder) override;
  void begin_step(const Plan& plan, const InputBatch& batch, const SlotTable& slots) override;
  DeviceTimes times() const override { return clock_.times(); }
  void start(const Plan& plan, const InputBatch& batch, const SlotTable& slots, Decoder& decoder) override;
  void collect(Outcomes& samples, Outcomes& scores) override;
  uint64_t scratch_bytes() const override { return sampling_.device_bytes(); }

 private:
  HostOptions options_;
  Half half_;
  Stream stream_;
  CudaOps ops_;
  SamplingStep sampling_;
  std::string name_, capability_, certificate_;
  Progress progress_;
  struct Started {
    uint32_t ticket;
    uint64_t step;
  };
  std::deque<Started> started_;  // and not collected
  std::mutex started_mutex_;
  uint64_t next_step_ = 0;
  StepClock clock_;
};

void CudaDevice::warm_up(Decoder& decoder) {
  const std::vector<uint32_t> rungs = ops_.decode_rungs();
  uint32_t done = 0;
  for (const uint32_t rows : rungs) {
    if (progress_) progress_("graphs", done++, rungs.size());
    decoder.record_decode(rows);
  }
  if (progress_) progress_("graphs", rungs.size(), rungs.size());
  progress_ = {};
}

void CudaDevice::begin_step(const Plan& plan, const InputBatch& batch, const SlotTable& slots) {
  bool follows = false;
  {
    const std::lock_guard lock(started_mutex_);
    follows = !started_.empty();
  }
  clock_.begin(next_step_, follows, stream_.get());
  ops_.upload().clear();
  sampling_.open_slots(plan, slots);
  sampling_.begin(plan, batch, slots, ops_.upload());
}

void CudaDevice::start(const Plan&, const InputBatch& batch, const SlotTable&, Decoder& decoder) {
  const uint32_t outputs = static_cast<uint32_t>(batch.num_outputs());
  for (uint32_t first = 0; first < outputs; first += CudaOps::kLogitsRows) {
    const uint32_t count = std::min(CudaOps::kLogitsRows, outputs - first);
    decoder.logits(first, count, ops_.logits());
    sampling_.run_chunk(ops_.logits().floats(), first, count);
  }
  // Before sampling's event, which is what collect() waits for: then this one has happened too.
  clock_.end(next_step_, stream_.get());
  const uint32_t ticket = sampling_.end();
  ops_.end_step();
  const std::lock_guard lock(started_mutex_);
  started_.push_back({ticket, next_step_++});
}

void CudaDevice::collect(Outcomes& samples, Outcomes& scores) {
  Started started{};
  {
    const std::lock_guard lock(started_mutex_);
    started = started_.front();
  }
  const auto forget = [this] {
    const std::lock_guard lock(started_mutex_);
    started_.pop_front();
  };
  try {
    sampling_.collect(started.ticket, samples, scores);
    clock_.note(started.step);
  } catch (...) {
    forget();
    throw;
  }
  forget();
}

}  // namespace

std::unique_ptr<Device> make_cuda_device(const HostOptions& options) {
  require_gpu(options.cuda.device_index);
  return std::make_unique<CudaDevice>(options);
}

}  // namespace kadenz::cuda
