#include "host/logit_kernels.h"

#include <cstdlib>

#include "cpu/isa.h"

namespace kadenz {

const LogitKernels& logit_kernels(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kScalar: return scalar_logit_kernels();
#if defined(__x86_64__)
    case CpuIsa::kAvx2: return avx2_logit_kernels();
    case CpuIsa::kAvx512: return avx512_logit_kernels();
#else
    default: break;  // never chosen: such a machine has the scalar kernels only
#endif
  }
  std::abort();
}

}  // namespace kadenz
