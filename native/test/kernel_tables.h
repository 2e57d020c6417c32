// The kernels of every instruction set that this machine can run; the scalar ones come first.
#pragma once

#include <string>
#include <vector>

#include "cpu/isa.h"
#include "cpu/kernels.h"

namespace kadenz::test {

struct NamedKernels {
  std::string name;
  const CpuKernels* kernels;
};

inline std::vector<NamedKernels> runnable_kernels() {
  std::vector<NamedKernels> tables{{"scalar", &scalar_kernels()}};
#if defined(__x86_64__)
  if (cpu_isa_available(CpuIsa::kAvx2)) tables.push_back({"avx2", &avx2_kernels()});
  if (cpu_isa_available(CpuIsa::kAvx512)) tables.push_back({"avx512", &avx512_kernels()});
#endif
  return tables;
}

}  // namespace kadenz::test
