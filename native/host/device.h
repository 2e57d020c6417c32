// A device as the executor sees it: the decoder's operations, a way of sampling, and how much may be under
// way. native/host/cpu_device.h is the processor; native/cuda's is made by its plugin (cuda_plugin.h).
//
// start() and everything of the decoder are called by the host's one thread. collect() is called in the order
// of the starts: by the same thread where the device is synchronous, else by the client's.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "host/input_batch.h"
#include "host/plan.h"
#include "host/sampling_step.h"
#include "host/slots.h"
#include "model/decoder.h"
#include "model/ops.h"

namespace kadenz {

// How an asynchronous device spent its time, by its own clock: in steps, and idle between two steps although
// the later one was submitted before the earlier one was collected.
struct DeviceTimes {
  uint64_t steps = 0;
  double busy_ms = 0;
  double gap_ms = 0;
};

class Device {
 public:
  virtual ~Device() = default;

  // 'scalar', 'avx2', 'avx512', or the GPU's name
  virtual std::string name() const = 0;
  // What equal bits need beside the model and the plan; empty: the client knows.
  virtual std::string fingerprint() const = 0;
  virtual Ops& ops() = 0;
  // Whether start() returns before its step is done; then rows of the next step may refer to its samples, and
  // the device gathers them.
  virtual bool is_asynchronous() const = 0;

  // Makes this device the calling thread's own, where a thread has one: before anything else in each thread.
  virtual void enter_thread() {}
  // Called once, with the decoder as made: captures graphs, makes buffers.
  virtual void warm_up(Decoder& decoder) { static_cast<void>(decoder); }
  // The plan's opens and table entries are in the slots, the batch is built. Called before the decoder's
  // forward(): what the device needs of the host for sampling may go there with the rows.
  // Throws HostError("step_failed") when the lists asked for are larger than any result should be.
  virtual void begin_step(const Plan& plan, const InputBatch& batch, const SlotTable& slots) {
    static_cast<void>(plan), static_cast<void>(batch), static_cast<void>(slots);
  }
  // Samples and scores what the plan asks for from the rows that the decoder kept.
  // Throws as begin_step() does, where that did not.
  virtual void start(const Plan& plan, const InputBatch& batch, const SlotTable& slots, Decoder& decoder) = 0;
  // Waits for the oldest start that was not collected.
  virtual void collect(Outcomes& samples, Outcomes& scores) = 0;
  virtual uint64_t scratch_bytes() const = 0;  // of sampling
  virtual DeviceTimes times() const { return {}; }  // any thread
};

}  // namespace kadenz
