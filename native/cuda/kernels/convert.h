// Changes the dtype of an array: float32, float16 and bfloat16, each to each. Widening is exact, narrowing
// rounds to nearest even as IEEE 754 does: what is too large becomes infinite, subnormals stay, NaN stays
// NaN. Each element depends on itself alone.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "model/dtype.h"

namespace kadenz::cuda {

struct Conversion {
  const void* source;  // [count], in device memory or in page-locked host memory, aligned to its dtype
  DType source_dtype;
  void* target;  // [count], in device memory, aligned to its dtype
  DType target_dtype;
  uint64_t count;
};

void convert_elements(const Conversion& conversion, cudaStream_t stream);

}  // namespace kadenz::cuda
