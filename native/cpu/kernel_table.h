// The table of kernels of one vector type.
#pragma once

#include "cpu/attention_kernels.h"
#include "cpu/kernels.h"
#include "cpu/matmul_kernels.h"
#include "cpu/row_kernels.h"

namespace kadenz {
namespace {

template <class V>
constexpr CpuKernels kernel_table() {
  return {
      .linear = linear_task<V>,
      .linear_add = linear_add_task<V>,
      .gated_linear = gated_linear_task<V>,
      .rms_norm = rms_norm_row<V>,
      .rotate_and_store = rotate_and_store_any<V>,
      .attend = attend_any<V>,
      .read_panel_row = read_panel_row_any<V>,
      .widen = widen_any<V>,
      .exp = exp_row<V>,
  };
}

}  // namespace
}  // namespace kadenz
