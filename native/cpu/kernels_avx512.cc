// The kernels for machines with AVX-512 (F, BW, DQ, VL). Nothing else is compiled with this file's flags: it
// includes no header of the standard library that has code, whose inline functions the linker might hand to
// the rest of the program.
#include "cpu/kernel_table.h"
#include "cpu/kernels.h"
#include "cpu/vector_avx512.h"

namespace kadenz {

const CpuKernels& avx512_kernels() {
  static constexpr CpuKernels kTable = kernel_table<Avx512Vector>();
  return kTable;
}

}  // namespace kadenz
