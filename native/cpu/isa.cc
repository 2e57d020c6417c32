#include "cpu/isa.h"

#include <cstdlib>
#include <cstring>

#include "model/error.h"

namespace kadenz {
namespace {

constexpr CpuIsa kAll[] = {CpuIsa::kAvx512, CpuIsa::kAvx2, CpuIsa::kScalar};  // widest first

}  // namespace

const char* cpu_isa_name(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kScalar: return "scalar";
    case CpuIsa::kAvx2: return "avx2";
    case CpuIsa::kAvx512: return "avx512";
  }
  return "unknown";
}

bool cpu_isa_available(CpuIsa isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (isa == CpuIsa::kAvx2) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  }
  if (isa == CpuIsa::kAvx512) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           cpu_isa_available(CpuIsa::kAvx2);
  }
#endif
  return isa == CpuIsa::kScalar;
}

CpuIsa choose_cpu_isa(std::optional<CpuIsa> asked) {
  const char* name = std::getenv("KADENZ_CPU_ISA");
  if (!asked.has_value() && name != nullptr && *name != '\0') {
    for (const CpuIsa isa : kAll) {
      if (std::strcmp(name, cpu_isa_name(isa)) == 0) asked = isa;
    }
    if (!asked.has_value()) {
      throw HostError("unsupported_cpu_isa",
                      std::string("KADENZ_CPU_ISA is '") + name + "'; it may be scalar, avx2 or avx512.");
    }
  }
  if (asked.has_value()) {
    if (cpu_isa_available(*asked)) return *asked;
    throw HostError("unsupported_cpu_isa",
                    std::string("This machine can't run the ") + cpu_isa_name(*asked) + " kernels.");
  }
  for (const CpuIsa isa : kAll) {
    if (cpu_isa_available(isa)) return isa;
  }
  return CpuIsa::kScalar;
}

}  // namespace kadenz
