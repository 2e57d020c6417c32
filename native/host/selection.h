// Choosing tokens of a row by their place in the order (logit descending, id ascending): the k most likely,
// and the set that min_p, top_k and top_p keep. Only what may be chosen is ever sorted: groups of 64 whose
// largest logit is under the threshold are passed over.
//
// The filters are vLLM's, in its order (min_p, then top_k, then top_p), with transformers' and vLLM's
// definitions:
//   min_p   keeps tokens at least min_p times as likely as the most likely one
//   top_k   keeps tokens whose logit is at least the k-th largest; equals of the k-th all stay
//   top_p   of what is left, renormalised: the smallest set, in the order above, whose sum reaches top_p
//           (at least one token)
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "host/logit_kernels.h"

namespace kadenz {

struct TokenFilters {
  float min_p;     // 0 = off
  uint32_t top_k;  // 0 = off
  float top_p;     // 1 = off
};

class Selection {
 public:
  explicit Selection(const LogitKernels& kernels) : kernels_(kernels) {}

  // The k most likely tokens (fewer when others are -infinity), in order. Valid until the next call.
  std::span<const uint32_t> most_likely(const float* logits, int64_t count, int64_t k);

  // The kept set in order, and the sum of e^x over it, added up in that order.
  std::span<const uint32_t> keep(const ScaledRow& row, const TokenFilters& filters, double* sum);

  // The token of the kept set with the largest x + Gumbel noise, the lowest id of equals
  uint32_t noisy_argmax(const ScaledRow& row, std::span<const uint32_t> kept, const NoiseKey& key);

 private:
  void collect(const ScaledRow& row, float least_logit, float least_x);
  float kth_largest(const ScaledRow& row, int64_t k);
  void keep_nucleus(const ScaledRow& row, float top_p, double* sum);
  void weigh(const ScaledRow& row);
  void finish(const ScaledRow& row);
  double cut(double target);

  const LogitKernels& kernels_;
  std::vector<float> group_maxima_;
  std::vector<float> sorting_;
  std::vector<uint64_t> keys_;  // ascending = the order above
  std::vector<uint64_t> sorted_;
  std::vector<uint32_t> tokens_;  // of keys_
  std::vector<float> values_;     // x of tokens_, then e^x
  std::vector<uint32_t> words_;
};

}  // namespace kadenz
