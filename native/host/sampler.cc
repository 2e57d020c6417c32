#include "host/sampler.h"

#include <algorithm>
#include <cmath>

#include "model/exact_math.h"

namespace kadenz {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kGreedyBelow = 1e-5F;

bool is_greedy(const wire::SamplingParams& params) { return params.temperature() < kGreedyBelow; }

float scale_of(const wire::SamplingParams& params) {
  return is_greedy(params) ? 1.0F : 1.0F / params.temperature();
}

// The one place where a log-prob is made, so that a token's is the same when it is sampled and when it is
// scored.
float log_prob(const ScaledRow& row, float log_sum, int64_t token) {
  return (row.logits[token] - row.maximum) * row.scale - log_sum;
}

float log_of_sum(double sum) { return static_cast<float>(exact_log(sum)); }

void apply_penalties(const Slot& slot, float* logits) {
  const float repetition = slot.params.repetition_penalty();
  const float frequency = slot.params.frequency_penalty();
  const float presence = slot.params.presence_penalty();
  for (const TokenCount& seen : slot.counts.entries()) {
    float& logit = logits[seen.token_id];
    if (repetition != 1) logit = logit > 0 ? logit / repetition : logit * repetition;
    if (seen.output_count == 0) continue;
    if (frequency != 0) logit = logit - frequency * static_cast<float>(seen.output_count);
    if (presence != 0) logit = logit - presence;
  }
}

}  // namespace

void Sampler::prepare(LogitRow& row) const {
  bool has_nan = false;
  row.maximum = kernels_.maximum(row.logits, count_, &has_nan);
  row.has_log_sum = false;
  row.failed = has_nan || row.maximum == -kInfinity;
  if (row.failed || row.maximum != kInfinity) return;
  for (int64_t i = 0; i < count_; ++i) row.logits[i] = row.logits[i] == kInfinity ? 0.0F : -kInfinity;
  row.maximum = 0;
}

void Sampler::ensure_log_sum(LogitRow& row) const {
  if (row.has_log_sum || row.failed) return;
  row.log_sum = log_of_sum(kernels_.exp_sum({row.logits, count_, row.maximum, 1.0F}));
  row.has_log_sum = true;
}

// False: the edited row has nothing to sample from.
bool Sampler::edit(const LogitRow& row, const Slot& slot, uint32_t position, bool is_sample,
                   Distribution& distribution) {
  const wire::SamplingParams& params = slot.params;
  distribution.row = {row.logits, count_, row.maximum, scale_of(params)};
  const bool penalises = is_sample && slot.has_penalties && !slot.counts.entries().empty();
  const bool masks = is_sample && !slot.stop_token_ids.empty() &&
                     position < uint64_t{slot.prompt_tokens} + params.min_tokens();
  if (slot.bias.empty() && !penalises && !masks) return true;

  edited_.assign(row.logits, row.logits + count_);
  for (const LogitBias& entry : slot.bias) edited_[static_cast<size_t>(entry.token_id)] += entry.bias;
  if (penalises) apply_penalties(slot, edited_.data());
  if (masks) {
    for (const int32_t token_id : slot.stop_token_ids) edited_[static_cast<size_t>(token_id)] = -kInfinity;
  }
  LogitRow result;
  result.logits = edited_.data();
  prepare(result);
  distribution.row.logits = result.logits;
  distribution.row.maximum = result.maximum;
  distribution.edited = true;
  return !result.failed;
}

void Sampler::filter(const Slot& slot, Distribution& distribution) {
  const wire::SamplingParams& params = slot.params;
  const bool has_top_k = params.top_k() > 0 && params.top_k() < count_;
  distribution.filtered = !is_greedy(params) && (params.min_p() > 0 || has_top_k || params.top_p() < 1);
  if (!distribution.filtered) return;
  distribution.kept =
      selection_.keep(distribution.row, {params.min_p(), params.top_k(), params.top_p()}, &distribution.sum);
}

int64_t Sampler::choose(LogitRow& row, const Slot& slot, uint32_t position, Distribution& distribution) {
  const wire::SamplingParams& params = slot.params;
  if (is_greedy(params)) return kernels_.find(distribution.row.logits, count_, distribution.row.maximum);
  const NoiseKey key{params.seed(), position, slot.sample};
  if (distribution.filtered) return selection_.noisy_argmax(distribution.row, distribution.kept, key);
  // The pass that samples gives the sum of e^x at little more cost: the row's own when nothing was changed.
  const bool plain = !distribution.edited && distribution.row.scale == 1;
  const bool raw = params.logprobs_mode() == wire::LogprobsMode::raw;
  const bool wants_sum = params.logprobs() >= 0 && (raw ? plain && !row.has_log_sum : true);
  const int64_t token = kernels_.noisy_argmax(distribution.row, key, wants_sum ? &distribution.sum : nullptr);
  if (wants_sum && raw) {
    row.log_sum = log_of_sum(distribution.sum);
    row.has_log_sum = true;
  }
  return token;
}

void Sampler::describe_raw(LogitRow& row, int64_t token, int32_t logprobs, TopList top,
                           TokenOutcome& outcome) {
  ensure_log_sum(row);
  const ScaledRow raw{row.logits, count_, row.maximum, 1.0F};
  outcome.logprob = log_prob(raw, row.log_sum, token);
  if (logprobs < 1) return;
  outcome.rank = static_cast<uint32_t>(kernels_.count_ahead(row.logits, count_, token) + 1);
  for (const uint32_t likely : selection_.most_likely(row.logits, count_, logprobs)) {
    top.token_ids[outcome.top_count] = static_cast<int32_t>(likely);
    top.logprobs[outcome.top_count++] = log_prob(raw, row.log_sum, likely);
  }
}

void Sampler::describe_processed(Distribution& distribution, int64_t token, int32_t logprobs, TopList top,
                                 TokenOutcome& outcome) {
  const ScaledRow& row = distribution.row;
  if (distribution.sum == 0) distribution.sum = kernels_.exp_sum(row);
  const float log_sum = log_of_sum(distribution.sum);
  const std::span<const uint32_t> kept = distribution.kept;
  const bool in_set = !distribution.filtered ||
                      std::find(kept.begin(), kept.end(), static_cast<uint32_t>(token)) != kept.end();
  outcome.logprob = in_set ? log_prob(row, log_sum, token) : -kInfinity;
  if (logprobs < 1) return;
  outcome.rank = static_cast<uint32_t>(kernels_.count_ahead(row.logits, count_, token) + 1);
  const std::span<const uint32_t> likely =
      distribution.filtered ? kept.first(std::min(kept.size(), static_cast<size_t>(logprobs)))
                            : selection_.most_likely(row.logits, count_, logprobs);
  for (const uint32_t token_id : likely) {
    top.token_ids[outcome.top_count] = static_cast<int32_t>(token_id);
    top.logprobs[outcome.top_count++] = log_prob(row, log_sum, token_id);
  }
}

TokenOutcome Sampler::sample(LogitRow& row, const Slot& slot, uint32_t position, TopList top) {
  TokenOutcome outcome;
  Distribution distribution;
  if (row.failed || !edit(row, slot, position, true, distribution)) {
    outcome.code = wire::ErrorCode::nan_logits;
    return outcome;
  }
  filter(slot, distribution);
  const int64_t token = choose(row, slot, position, distribution);
  outcome.token_id = static_cast<int32_t>(token);
  const int32_t logprobs = slot.params.logprobs();
  if (logprobs < 0) return outcome;
  if (slot.params.logprobs_mode() == wire::LogprobsMode::raw) {
    describe_raw(row, token, logprobs, top, outcome);
  } else {
    describe_processed(distribution, token, logprobs, top, outcome);
  }
  return outcome;
}

TokenOutcome Sampler::score(LogitRow& row, const Slot& slot, int32_t token_id, TopList top) {
  TokenOutcome outcome;
  outcome.token_id = token_id;
  Distribution distribution;
  const bool raw = slot.params.logprobs_mode() == wire::LogprobsMode::raw;
  if (row.failed || (!raw && !edit(row, slot, 0, false, distribution))) {
    outcome.code = wire::ErrorCode::nan_logits;
    return outcome;
  }
  const int32_t logprobs = slot.params.prompt_logprobs();
  if (raw) {
    describe_raw(row, token_id, logprobs, top, outcome);
  } else {
    filter(slot, distribution);
    describe_processed(distribution, token_id, logprobs, top, outcome);
  }
  return outcome;
}

}  // namespace kadenz
