// The kernels for any x86-64 machine. Nothing else is compiled with this file's flags: it includes no header
// of the standard library that has code, whose inline functions the linker might hand to the rest of the
// program.
#include "cpu/kernel_table.h"
#include "cpu/kernels.h"
#include "cpu/vector_scalar.h"

namespace kadenz {

const CpuKernels& scalar_kernels() {
  static constexpr CpuKernels kTable = kernel_table<ScalarVector>();
  return kTable;
}

}  // namespace kadenz
