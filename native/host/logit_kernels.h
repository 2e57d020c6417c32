// The passes over a whole row of logits that sampling and log-probs need. One source (logit_kernel_table.h,
// templates over 16 lanes) is compiled three times; all give the same bits.
//
// A row is worked on in groups of 64 vocabulary indices, the last one filled up with -infinity. Sums keep 64
// partial sums, by index mod 64, and fold them in index order, in double: the order never depends on the
// vector's width. Logits are scaled as x = (logit - maximum) * scale, where scale is 1 / temperature: so x <=
// 0, and 0 at the maximum.
#pragma once

#include <cstdint>

#include "host/philox.h"

namespace kadenz {

enum class CpuIsa : uint8_t;  // cpu/isa.h, whose headers of the standard library the kernels must not include

inline constexpr int64_t kLogitGroup = 64;

struct ScaledRow {
  const float* logits;
  int64_t count;
  float maximum;  // finite, the largest of them
  float scale;    // positive, finite
};

struct LogitKernels {
  // The largest logit. *has_nan tells whether any is not a number (then the result means nothing).
  float (*maximum)(const float* logits, int64_t count, bool* has_nan);
  // maxima[g] = the largest of group g
  void (*group_maxima)(const float* logits, int64_t count, float* maxima);
  // The first index that holds `value`; count when none does
  int64_t (*find)(const float* logits, int64_t count, float value);
  // How many stand before `index` in the order (logit descending, index ascending)
  int64_t (*count_ahead)(const float* logits, int64_t count, int64_t index);
  // sum of e^x
  double (*exp_sum)(const ScaledRow& row);
  // The index with the largest x + Gumbel noise, the lowest of equals. Where exp_sum is not null, the sum of
  // e^x as well.
  int64_t (*noisy_argmax)(const ScaledRow& row, const NoiseKey& key, double* exp_sum);
  // output[i] = e^x of input[i] <= 0
  void (*exp)(const float* input, int64_t count, float* output);
  // output[i] = Gumbel noise of a random word: -ln(-ln(1 - v)), v = (word + 1/2) / 2^32 as a float, never 0
  // or 1
  void (*gumbel)(const uint32_t* words, int64_t count, float* output);
};

const LogitKernels& scalar_logit_kernels();
const LogitKernels& avx2_logit_kernels();
const LogitKernels& avx512_logit_kernels();
const LogitKernels& logit_kernels(CpuIsa isa);

}  // namespace kadenz
