#include "host/cpu_device.h"

#include <utility>

#include "cpu/cpu_ops.h"
#include "cpu/isa.h"
#include "host/logit_kernels.h"

namespace kadenz {
namespace {

class CpuDevice : public Device {
 public:
  CpuDevice(const HostOptions& options, CpuIsa isa)
      : isa_(isa),
        ops_(make_cpu_ops({options.num_threads, isa})),
        sampling_(logit_kernels(isa), static_cast<uint32_t>(options.config.vocab_size)) {}

  std::string name() const override { return cpu_isa_name(isa_); }
  std::string fingerprint() const override { return ""; }
  Ops& ops() override { return *ops_; }
  bool is_asynchronous() const override { return false; }

  void start(const Plan& plan, const InputBatch& batch, const SlotTable& slots, Decoder& decoder) override {
    sampling_.run(plan, batch, slots, decoder, *ops_);
  }
  void collect(Outcomes& samples, Outcomes& scores) override { sampling_.take(samples, scores); }
  uint64_t scratch_bytes() const override { return sampling_.scratch_bytes(); }

 private:
  CpuIsa isa_;
  std::unique_ptr<Ops> ops_;
  SamplingStep sampling_;
};

}  // namespace

std::unique_ptr<Device> make_cpu_device(const HostOptions& options) {
  return std::make_unique<CpuDevice>(options, choose_cpu_isa(options.isa));
}

}  // namespace kadenz
