// The passes over logits for one instruction set. Like the decoder's kernels, this file includes no header of
// the standard library that has code: compiled with this file's flags, it might serve the rest of the
// program.
#include "host/lanes_scalar.h"
#include "host/logit_kernel_table.h"

namespace kadenz {

const LogitKernels& scalar_logit_kernels() {
  static constexpr LogitKernels kTable = logit_kernel_table<ScalarLanes>();
  return kTable;
}

}  // namespace kadenz
