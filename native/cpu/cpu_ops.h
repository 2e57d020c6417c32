// The CPU device: an Ops whose kernels give the same bits on any x86-64, whichever instruction set is chosen.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "cpu/isa.h"
#include "model/ops.h"

namespace kadenz {

struct CpuOptions {
  uint32_t num_threads = 0;   // 0 = one for each core this process may run on
  std::optional<CpuIsa> isa;  // none = the environment's KADENZ_CPU_ISA, else the widest the machine has
};

// Throws HostError: unsupported_cpu_isa, invalid_num_threads.
std::unique_ptr<Ops> make_cpu_ops(const CpuOptions& options);

}  // namespace kadenz
