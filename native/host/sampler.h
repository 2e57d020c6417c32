// One sampled or scored token from one row of logits. The order, as vLLM's sampler has it:
//
//   logit bias > repetition penalty (prompt and output) > frequency, presence penalty (output only) >
//   stop ids masked before min_tokens > temperature > min_p > top_k > top_p > Gumbel noise, largest wins
//
//   repetition penalty r  positive logits are divided by r, others multiplied (transformers, vLLM)
//   frequency penalty f   logit -= f * times sampled (OpenAI, vLLM)
//   presence penalty p    logit -= p if sampled at all (OpenAI, vLLM)
//   temperature           below 1e-5 is greedy: the largest penalised logit, the lowest id of equals; no
//                         filter applies, and processed log-probs are those at temperature 1
//
// Log-probs: raw is the log-softmax of the model's logits; processed that of what was sampled from,
// renormalised over the kept set. A scored prompt token has the processed log-prob of what can be known of
// its row alone: bias, temperature and filters, no penalties and no mask; -infinity where the filters would
// have dropped it.
//
// A row with a NaN, or with no logit above -infinity, fails (nan_logits). Where logits are +infinity, they
// share the probability equally. Everything here depends on the row, the slot's request and the position
// alone.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "host/logit_kernels.h"
#include "host/selection.h"
#include "host/slots.h"
#include "types_generated.h"

namespace kadenz {

// A row of the model's logits with what its samples and scores share.
struct LogitRow {
  float* logits = nullptr;
  float maximum = 0;
  bool failed = false;
  bool has_log_sum = false;
  float log_sum = 0;  // ln of the sum of e^(logit - maximum)
};

struct TokenOutcome {
  int32_t token_id = -1;
  wire::ErrorCode code = wire::ErrorCode::none;
  float logprob = std::numeric_limits<float>::quiet_NaN();
  uint32_t rank = 0;
  uint32_t top_count = 0;  // entries written to the top lists
};

// Where the k most likely tokens go.
struct TopList {
  int32_t* token_ids;
  float* logprobs;
};

class Sampler {
 public:
  Sampler(const LogitKernels& kernels, uint32_t vocab_size)
      : kernels_(kernels), count_(vocab_size), selection_(kernels) {}

  // Finds the maximum, and settles infinities (the row is changed where it has some). Once for each row,
  // before the rest.
  void prepare(LogitRow& row) const;
  void ensure_log_sum(LogitRow& row) const;

  // The token at `position`, the one after the row. A row whose log-sum is needed must have it, or be this
  // call's alone.
  TokenOutcome sample(LogitRow& row, const Slot& slot, uint32_t position, TopList top);
  // The log-prob of a prompt token after the row.
  TokenOutcome score(LogitRow& row, const Slot& slot, int32_t token_id, TopList top);

 private:
  // What a token is drawn from: the row's own logits or an edited copy, and the kept set if there are
  // filters.
  struct Distribution {
    ScaledRow row;
    bool edited = false;
    bool filtered = false;
    std::span<const uint32_t> kept;
    double sum = 0;  // of e^x, over the kept set; 0 = not known yet
  };

  bool edit(const LogitRow& row, const Slot& slot, uint32_t position, bool is_sample,
            Distribution& distribution);
  void filter(const Slot& slot, Distribution& distribution);
  int64_t choose(LogitRow& row, const Slot& slot, uint32_t position, Distribution& distribution);
  void describe_raw(LogitRow& row, int64_t token, int32_t logprobs, TopList top, TokenOutcome& outcome);
  void describe_processed(Distribution& distribution, int64_t token, int32_t logprobs, TopList top,
                          TokenOutcome& outcome);

  const LogitKernels& kernels_;
  int64_t count_;
  Selection selection_;
  std::vector<float> edited_;
};

}  // namespace kadenz
