// The matmul for shapes that cuBLASLt's allowed algorithms do not take (rows that
// are no multiple of 16 bytes, as in tiny test models): Y[r][n] = sum over k, in
// ascending order, of X[r][k] W[n][k], one float32 fused multiply-add each. Every
// output has its own chain, so rows cannot touch each other's bits. Right, not fast.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/half.h"

namespace kadenz::cuda {

struct PlainMatmul {
  Half dtype;
  const void* weight;  // Half [outputs][inputs]
  const void* input;   // Half [rows][inputs]
  uint32_t rows, outputs, inputs;
  void* output;  // [rows][outputs]
  bool half_output;
};

void plain_matmul(const PlainMatmul& args, cudaStream_t stream);

}  // namespace kadenz::cuda
