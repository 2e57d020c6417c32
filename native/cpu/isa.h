// Which variant of the kernels runs. All give the same bits; they differ in speed only.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace kadenz {

enum class CpuIsa : uint8_t { kScalar, kAvx2, kAvx512 };

const char* cpu_isa_name(CpuIsa isa);  // "scalar", "avx2", "avx512"
bool cpu_isa_available(CpuIsa isa);    // compiled in, and this machine and its kernel support it
// What is asked for, else KADENZ_CPU_ISA, else the widest available.
// Throws HostError("unsupported_cpu_isa") for a name nobody knows or one this machine can't run.
CpuIsa choose_cpu_isa(std::optional<CpuIsa> asked);

}  // namespace kadenz
