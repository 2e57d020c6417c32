// What the certificate and the choice of algorithms need on the device: operands made of a seed, and outputs
// compared bit by bit. Integer counts only, so the order of the atomic additions does not show.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/half.h"

namespace kadenz::cuda {

// Element i = f(seed, i): either sign, a full mantissa, magnitudes spread
// over 2^16 (bfloat16) or 2^8 (float16, so that sums stay inside its range).
// Such sums keep every difference in order visible in their last bits.
void fill_operand(Half dtype, void* data, uint64_t count, uint64_t seed, cudaStream_t stream);

struct OutputBits {
  const void* output;
  bool half_output;  // then compared with the reference rounded to Half
  uint32_t slices;   // float32 partials, added in order before they are compared
  uint64_t slice_stride;
  const float* reference;
  uint64_t count;
};
// *differing += elements whose bits are not the reference's
void count_differing(Half dtype, const OutputBits& bits, unsigned long long* differing, cudaStream_t stream);
// *digest += a sum over the elements of a hash of place and bits
void add_digest(const float* values, uint64_t count, unsigned long long* digest, cudaStream_t stream);

}  // namespace kadenz::cuda
