// The two sides of the sampling tests: rows and items run through the device's SamplingStep and through the
// CPU's Sampler, and compared. Where rounding may decide (two tokens' noise, or top_p's cut, nearly tie), an
// item counts as near instead of wrong.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "cpu/isa.h"
#include "cuda/check.h"
#include "cuda/device_buffer.h"
#include "cuda/sampling_step.h"
#include "cuda/test/sampling_world.cuh"
#include "host/philox.h"
#include "host/sampler.h"
#include "test/check.h"

namespace kadenz::cuda::sampling_test {
namespace {

using ::kadenz::test::fail;

struct Result {
  TokenOutcome token;
  std::vector<int32_t> top_ids;
  std::vector<float> top_logprobs;
};

std::string show(const Result& result) {
  return "token " + std::to_string(result.token.token_id) + " code " +
         std::to_string(static_cast<int>(result.token.code)) + " logprob " +
         std::to_string(result.token.logprob) + " rank " + std::to_string(result.token.rank) + " top_count " +
         std::to_string(result.token.top_count);
}

// The logits of the rows that are output rows, one after the other.
DeviceBuffer<float> upload(const Step& step, const std::vector<Row>& rows, uint32_t vocab) {
  const uint32_t outputs = static_cast<uint32_t>(step.batch.num_outputs());
  DeviceBuffer<float> logits(uint64_t{outputs} * vocab + 1);
  std::set<uint32_t> used(step.plan.sample_row.begin(), step.plan.sample_row.end());
  used.insert(step.plan.score_row.begin(), step.plan.score_row.end());
  for (const uint32_t row : used) {
    check(cudaMemcpy(logits.data() + uint64_t{step.batch.output_index(row)} * vocab, rows[row].logits.data(),
                     uint64_t{vocab} * sizeof(float), cudaMemcpyHostToDevice),
          "cudaMemcpy");
  }
  return logits;
}

// In the order of the items.
std::vector<Result> in_order(const std::vector<Item>& items, const Outcomes& samples,
                             const Outcomes& scores) {
  std::vector<Result> results;
  size_t sample = 0, score = 0;
  for (const Item& item : items) {
    const Outcomes& from = item.score_token < 0 ? samples : scores;
    const size_t i = item.score_token < 0 ? sample++ : score++;
    Result result;
    result.token = from.tokens.at(i);
    const auto begin = static_cast<ptrdiff_t>(from.top_begin.at(i));
    const auto end = begin + static_cast<ptrdiff_t>(result.token.top_count);
    result.top_ids.assign(from.top_token_ids.begin() + begin, from.top_token_ids.begin() + end);
    result.top_logprobs.assign(from.top_logprobs.begin() + begin, from.top_logprobs.begin() + end);
    results.push_back(std::move(result));
  }
  return results;
}

std::vector<Result> run_device(const std::vector<Row>& rows, const std::vector<Item>& items,
                               uint32_t chunk_rows = 0, const uint8_t* poisoned = nullptr) {
  const uint32_t vocab = static_cast<uint32_t>(rows[0].logits.size());
  Step step(rows, items, vocab);
  SamplingStep sampling(vocab, step.limits.max_num_seqs, step.limits.max_num_batched_tokens, nullptr,
                        poisoned);
  StepUpload upload_of_step(nullptr);
  step.build();
  const DeviceBuffer<float> logits = upload(step, rows, vocab);
  std::vector<float> before(logits.count()), after(logits.count());
  check(cudaMemcpy(before.data(), logits.data(), logits.bytes(), cudaMemcpyDeviceToHost), "cudaMemcpy");
  sampling.open_slots(step.plan, step.slots);
  sampling.begin(step.plan, step.batch, step.slots, upload_of_step);
  upload_of_step.send();
  const uint32_t outputs = static_cast<uint32_t>(step.batch.num_outputs());
  const uint32_t chunk = chunk_rows == 0 ? sampling.chunk_rows() : chunk_rows;
  for (uint32_t first = 0; first < outputs; first += chunk) {
    sampling.run_chunk(logits.data() + uint64_t{first} * vocab, first, std::min(chunk, outputs - first));
  }
  Outcomes samples, scores;
  sampling.collect(sampling.end(), samples, scores);
  std::vector<int32_t> tokens(samples.tokens.size());
  if (!tokens.empty()) {
    check(cudaMemcpy(tokens.data(), sampling.sampled_tokens(), tokens.size() * 4, cudaMemcpyDeviceToHost),
          "cudaMemcpy");
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    EXPECT_NOTE(tokens[i] == samples.tokens[i].token_id, "sampled_tokens[" + std::to_string(i) + "]");
  }
  check(cudaMemcpy(after.data(), logits.data(), logits.bytes(), cudaMemcpyDeviceToHost), "cudaMemcpy");
  EXPECT_NOTE(std::memcmp(before.data(), after.data(), logits.bytes()) == 0, "the logits were changed");
  return in_order(items, samples, scores);
}

std::vector<Result> run_host(const std::vector<Row>& rows, const std::vector<Item>& items) {
  const uint32_t vocab = static_cast<uint32_t>(rows[0].logits.size());
  Step step(rows, items, vocab);
  Sampler sampler(logit_kernels(choose_cpu_isa({})), vocab);
  std::vector<Result> results;
  for (uint32_t i = 0; i < items.size(); ++i) {
    const Item& item = items[i];
    std::vector<float> logits = rows[item.row].logits;
    LogitRow row;
    row.logits = logits.data();
    sampler.prepare(row);
    Result result;
    const size_t room = static_cast<size_t>(std::max(item.logprobs, item.prompt_logprobs) + 1);
    result.top_ids.resize(room), result.top_logprobs.resize(room);
    const TopList top{result.top_ids.data(), result.top_logprobs.data()};
    result.token = item.score_token < 0 ? sampler.sample(row, step.slots[i], rows[item.row].position, top)
                                        : sampler.score(row, step.slots[i], item.score_token, top);
    result.top_ids.resize(result.token.top_count), result.top_logprobs.resize(result.token.top_count);
    results.push_back(std::move(result));
  }
  return results;
}

// The logits that an item draws from, by the definition in host/sampler.h.
std::vector<float> edited(const Row& row, const Item& item) {
  std::vector<float> logits = row.logits;
  if (*std::max_element(logits.begin(), logits.end()) == kInfinity) {
    for (float& logit : logits) logit = logit == kInfinity ? 0.0F : -kInfinity;
  }
  const bool is_sample = item.score_token < 0;
  if (!is_sample && !item.processed) return logits;
  for (const LogitBias& entry : item.bias) logits[static_cast<size_t>(entry.token_id)] += entry.bias;
  if (!is_sample) return logits;
  std::map<int32_t, uint32_t> seen;
  for (size_t i = 0; i < item.history.size(); ++i) seen[item.history[i]] += i < item.prompt_tokens ? 0 : 1;
  for (const auto& [token, count] : seen) {
    float& logit = logits[static_cast<size_t>(token)];
    logit = logit > 0 ? logit / item.repetition : logit * item.repetition;
    logit = logit - item.frequency * static_cast<float>(count);
    if (count > 0) logit = logit - item.presence;
  }
  if (row.position < item.prompt_tokens + item.min_tokens) {
    for (const int32_t token : item.stops) logits[static_cast<size_t>(token)] = -kInfinity;
  }
  return logits;
}

// x + noise in double; two tokens this near each other may change places.
double noisy_value(const std::vector<float>& logits, const Row& row, const Item& item, int32_t token) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  const double scale = item.is_greedy() ? 1.0 : 1.0 / static_cast<double>(item.temperature);
  const uint32_t word = noise_word({item.seed, row.position, item.sample}, static_cast<uint32_t>(token));
  const double v = std::min((static_cast<double>(word) + 0.5) * 0x1p-32, 1.0 - 0x1p-24);
  return (logits[static_cast<size_t>(token)] - largest) * scale - std::log(-std::log1p(-v));
}

// Whether top_p's cut is so near to a token's end that rounding may move it by a token.
bool cut_is_near(const std::vector<float>& logits, const Item& item) {
  if (item.top_p >= 1 || item.is_greedy()) return false;
  std::vector<float> order;
  for (const float logit : logits) {
    if (logit > -kInfinity) order.push_back(logit);
  }
  std::sort(order.begin(), order.end(), std::greater<>());
  const double largest = order[0], scale = 1.0 / static_cast<double>(item.temperature);
  if (item.top_k > 0 && item.top_k < order.size()) {
    const float least = order[item.top_k - 1];
    while (order.back() < least) order.pop_back();
  }
  if (item.min_p > 0) {
    while ((order.back() - largest) * scale < std::log(item.min_p)) order.pop_back();
  }
  double total = 0, sum = 0;
  for (const float logit : order) total += std::exp((logit - largest) * scale);
  for (const float logit : order) {
    sum += std::exp((logit - largest) * scale);
    if (std::fabs(sum / total - item.top_p) < 4e-6) return true;
  }
  return false;
}

// The CPU adds up 64 float32 sums of a 64th of the row each, which costs it up to 2e-5 on flat, long rows.
bool is_near(float a, float b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  if (a == b) return true;
  return std::fabs(a - b) <= 4e-5 * std::max(1.0, std::fabs(static_cast<double>(a)) / 10);
}

// Returns whether the item was too near a tie or a cut for all of it to be compared.
bool compare(const Row& row, const Item& item, const Result& got, const Result& expected,
             const std::string& what) {
  const std::string note = what + ": got " + show(got) + "; expected " + show(expected) + ";" +
                           describe(item, static_cast<uint32_t>(row.logits.size()));
  EXPECT_NOTE(got.token.code == expected.token.code, note);
  if (got.token.code != wire::ErrorCode::none) {
    EXPECT_NOTE(got.token.token_id == expected.token.token_id && std::isnan(got.token.logprob) &&
                    got.token.top_count == 0 && got.token.rank == 0,
                note);
    return false;
  }
  const std::vector<float> logits = edited(row, item);
  const bool filters = item.score_token < 0 || item.processed;
  const bool near_cut = filters && cut_is_near(logits, item);
  if (got.token.token_id != expected.token.token_id) {
    EXPECT_NOTE(item.score_token < 0 && !item.is_greedy(), note);
    if (near_cut) return true;
    const double a = noisy_value(logits, row, item, got.token.token_id);
    const double b = noisy_value(logits, row, item, expected.token.token_id);
    EXPECT_NOTE(std::fabs(a - b) < 4e-5 * std::max(1.0, std::fabs(a)),
                note + "; values " + std::to_string(a) + " and " + std::to_string(b));
    return true;
  }
  if (near_cut && item.processed) return true;
  EXPECT_NOTE(is_near(got.token.logprob, expected.token.logprob), note);
  EXPECT_NOTE(got.token.rank == expected.token.rank, note);
  EXPECT_NOTE(got.token.top_count == expected.token.top_count, note);
  for (size_t i = 0; i < got.top_ids.size(); ++i) {
    const std::string entry = note + "; entry " + std::to_string(i) + ": got " +
                              std::to_string(got.top_ids[i]) + " " + std::to_string(got.top_logprobs[i]) +
                              ", expected " + std::to_string(expected.top_ids[i]) + " " +
                              std::to_string(expected.top_logprobs[i]);
    EXPECT_NOTE(got.top_ids[i] == expected.top_ids[i], entry);
    EXPECT_NOTE(is_near(got.top_logprobs[i], expected.top_logprobs[i]), entry);
  }
  return false;
}

void expect_like_host(const std::vector<Row>& rows, const std::vector<Item>& items, const std::string& what) {
  const std::vector<Result> got = run_device(rows, items);
  const std::vector<Result> expected = run_host(rows, items);
  size_t near = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    near += compare(rows[items[i].row], items[i], got[i], expected[i], what + ", item " + std::to_string(i))
                ? 1
                : 0;
  }
  EXPECT_NOTE(near * 3 <= items.size(), what + ": " + std::to_string(near) + " of " +
                                            std::to_string(items.size()) +
                                            " items are too near a tie to be compared");
}

void expect_same_bits(const Result& a, const Result& b, const std::string& what) {
  const std::string note = what + ": " + show(a) + " against " + show(b);
  EXPECT_NOTE(a.token.token_id == b.token.token_id && a.token.code == b.token.code, note);
  EXPECT_NOTE(std::bit_cast<uint32_t>(a.token.logprob) == std::bit_cast<uint32_t>(b.token.logprob), note);
  EXPECT_NOTE(a.token.rank == b.token.rank && a.top_ids == b.top_ids, note);
  for (size_t i = 0; i < a.top_logprobs.size(); ++i) {
    EXPECT_NOTE(std::bit_cast<uint32_t>(a.top_logprobs[i]) == std::bit_cast<uint32_t>(b.top_logprobs[i]),
                note);
  }
}

}  // namespace
}  // namespace kadenz::cuda::sampling_test
