// Sampling as a whole, one row at a time: each step of its order against a plain definition, frequencies
// against probabilities, and log-probs that are the same bits whichever way they are asked for.
#include "host/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "check.h"
#include "cpu/isa.h"
#include "random.h"

namespace kadenz::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

struct Params {
  uint64_t seed = 1;
  float temperature = 1, top_p = 1, min_p = 0, repetition = 1, presence = 0, frequency = 0;
  uint32_t top_k = 0, min_tokens = 0;
  int32_t logprobs = 0, prompt_logprobs = 0;
  wire::LogprobsMode mode = wire::LogprobsMode::raw;
};

Slot slot_of(const Params& p) {
  Slot slot;
  slot.open = true;
  slot.params =
      wire::SamplingParams(p.seed, p.temperature, p.top_p, p.min_p, p.repetition, p.presence, p.frequency,
                           p.top_k, 100, p.min_tokens, p.logprobs, p.prompt_logprobs, p.mode, false, 0);
  slot.has_penalties = p.repetition != 1 || p.presence != 0 || p.frequency != 0;
  slot.prompt_tokens = 4;
  return slot;
}

// One row with its own sampler; each call starts from the row's original logits.
class Bench {
 public:
  explicit Bench(std::vector<float> logits, CpuIsa isa = choose_cpu_isa({}))
      : logits_(std::move(logits)), sampler_(logit_kernels(isa), static_cast<uint32_t>(logits_.size())) {}

  TokenOutcome sample(const Slot& slot, uint32_t position = 4) {
    LogitRow row = fresh_row();
    return sampler_.sample(row, slot, position, {token_ids.data(), logprobs.data()});
  }
  TokenOutcome score(const Slot& slot, int32_t token_id) {
    LogitRow row = fresh_row();
    return sampler_.score(row, slot, token_id, {token_ids.data(), logprobs.data()});
  }
  // How often each token comes in `count` samples of one request
  std::vector<int> frequencies(Slot slot, int count) {
    std::vector<int> seen(logits_.size());
    for (int i = 0; i < count; ++i) {
      slot.sample = static_cast<uint32_t>(i);
      ++seen[static_cast<size_t>(sample(slot).token_id)];
    }
    return seen;
  }

  std::vector<int32_t> token_ids = std::vector<int32_t>(4096);
  std::vector<float> logprobs = std::vector<float>(4096);

 private:
  LogitRow fresh_row() {
    work_ = logits_;
    LogitRow row;
    row.logits = work_.data();
    sampler_.prepare(row);
    return row;
  }

  std::vector<float> logits_;
  std::vector<float> work_;
  Sampler sampler_;
};

std::vector<double> softmax(const std::vector<float>& logits, double temperature = 1) {
  double sum = 0;
  std::vector<double> result;
  const double largest = *std::max_element(logits.begin(), logits.end());
  for (const float logit : logits) result.push_back(std::exp((logit - largest) / temperature));
  for (const double value : result) sum += value;
  for (double& value : result) value /= sum;
  return result;
}

// Pearson's statistic; tokens of probability 0 must never have come.
double chi_square(const std::vector<int>& seen, const std::vector<double>& probabilities, int count) {
  double statistic = 0;
  for (size_t i = 0; i < seen.size(); ++i) {
    if (probabilities[i] == 0) {
      EXPECT_NOTE(seen[i] == 0, "token " + std::to_string(i) + " has probability 0");
      continue;
    }
    const double expected = probabilities[i] * count;
    statistic += (seen[i] - expected) * (seen[i] - expected) / expected;
  }
  return statistic;
}

std::vector<float> with_large_tail(size_t count) {
  std::vector<float> logits(count, -30.0F);
  const float head[] = {2.0F, 1.0F, 0.5F, 0.0F, -1.0F, 1.5F};
  std::copy(std::begin(head), std::end(head), logits.begin() + static_cast<ptrdiff_t>(count / 2));
  return logits;
}

}  // namespace

TEST("temperature 0 takes the largest logit, the lowest id of equals, whatever the filters say") {
  std::vector<float> logits(200, 0.0F);
  logits[150] = logits[73] = logits[199] = 5.0F;
  Bench bench(logits);
  EXPECT(bench.sample(slot_of({.temperature = 0})).token_id == 73);
  EXPECT(bench.sample(slot_of({.temperature = 0, .top_p = 0.01F, .min_p = 1, .top_k = 1})).token_id == 73);
  EXPECT(bench.sample(slot_of({.temperature = 1e-6F})).token_id == 73);
}

TEST("samples come as often as their probabilities say, at temperatures 1 and 0.5, and with each filter") {
  const std::vector<float> logits = with_large_tail(300);
  Bench bench(logits);
  constexpr int kCount = 20000;
  constexpr double kLimit = 30;  // of 5 degrees of freedom: 1 in 60,000; the seed is fixed
  const auto without_tail = [&](std::vector<float> kept) {
    for (float& logit : kept) logit = logit < -20 ? -kInfinity : logit;
    return kept;
  };
  const std::vector<float> head = without_tail(logits);
  EXPECT(chi_square(bench.frequencies(slot_of({}), kCount), softmax(head), kCount) < kLimit);
  EXPECT(chi_square(bench.frequencies(slot_of({.temperature = 0.5F}), kCount), softmax(head, 0.5), kCount) <
         kLimit);
  std::vector<float> top3 = head;  // 2, 1.5, 1
  top3[152] = top3[153] = top3[154] = -kInfinity;
  EXPECT(chi_square(bench.frequencies(slot_of({.top_k = 3}), kCount), softmax(top3), kCount) < kLimit);
  // e^-1 = 0.37 of the largest passes 0.3, e^-1.5 = 0.22 doesn't
  EXPECT(chi_square(bench.frequencies(slot_of({.min_p = 0.3F}), kCount), softmax(top3), kCount) < kLimit);
  // probabilities 0.41 0.25 0.15 0.09 0.06 0.02: three reach 0.8
  EXPECT(chi_square(bench.frequencies(slot_of({.top_p = 0.8F}), kCount), softmax(top3), kCount) < kLimit);
}

TEST("another seed, position or sample index gives another draw, the same ones the same") {
  Bench bench(std::vector<float>(5000, 0.0F));
  Slot slot = slot_of({.seed = 7});
  const int32_t first = bench.sample(slot, 10).token_id;
  EXPECT(first == bench.sample(slot, 10).token_id);
  EXPECT(first != bench.sample(slot, 11).token_id);
  slot.sample = 1;
  EXPECT(first != bench.sample(slot, 10).token_id);
  EXPECT(first != bench.sample(slot_of({.seed = 8}), 10).token_id);
}

TEST(
    "repetition divides positive and multiplies negative logits, of prompt and output; the others count "
    "outputs only") {
  std::vector<float> logits(70, -50.0F);
  logits[1] = 3.0F, logits[2] = -3.0F, logits[3] = 3.0F, logits[4] = 3.0F;
  Slot slot = slot_of({.temperature = 0,
                       .repetition = 2,
                       .presence = 0.25F,
                       .frequency = 0.5F,
                       .logprobs = 4,
                       .mode = wire::LogprobsMode::processed});
  slot.counts.add_prompt_token(1);
  slot.counts.add_prompt_token(2);
  for (int i = 0; i < 3; ++i) slot.counts.add_output_token(3);
  Bench bench(logits);
  const TokenOutcome outcome = bench.sample(slot);
  EXPECT(outcome.token_id == 4);
  EXPECT(outcome.top_count == 4);
  EXPECT((std::vector<int32_t>(bench.token_ids.begin(), bench.token_ids.begin() + 4) ==
          std::vector<int32_t>{4, 1, 3, 2}));
  const float expected[] = {3.0F, 1.5F, 1.5F - 3 * 0.5F - 0.25F, -6.0F};
  for (size_t i = 1; i < 4; ++i) {
    EXPECT(std::fabs((bench.logprobs[0] - bench.logprobs[i]) - (expected[0] - expected[i])) < 1e-5);
  }
}

TEST("biases shift logits before all else, and -infinity forbids a token") {
  std::vector<float> logits(100, 0.0F);
  logits[10] = 5.0F;
  Slot slot = slot_of({.temperature = 0});
  slot.bias = {{10, -4.0F}, {20, 3.0F}};
  Bench bench(logits);
  EXPECT(bench.sample(slot).token_id == 20);
  slot.bias = {{10, -kInfinity}};
  EXPECT(bench.sample(slot).token_id == 0);
}

TEST("stop ids are out of the question until min_tokens were made") {
  std::vector<float> logits(100, 0.0F);
  logits[2] = 9.0F, logits[5] = 8.0F, logits[6] = 1.0F;
  Slot slot = slot_of(
      {.temperature = 0, .min_tokens = 3});  // a prompt of 4 tokens: positions 4, 5, 6 are the first three
  slot.stop_token_ids = {2, 5};
  Bench bench(logits);
  for (const uint32_t position : {4, 5, 6}) EXPECT(bench.sample(slot, position).token_id == 6);
  EXPECT(bench.sample(slot, 7).token_id == 2);
}

TEST("top_k keeps all equals of the k-th, top_p of equals the lower ids") {
  std::vector<float> logits(130, -10.0F);
  logits[3] = 2.0F, logits[70] = 1.0F, logits[90] = 1.0F, logits[128] = 1.0F;
  Bench bench(logits);
  const auto kept = [&](const Params& params) {
    const std::vector<int> seen = bench.frequencies(slot_of(params), 3000);
    std::vector<size_t> tokens;
    for (size_t i = 0; i < seen.size(); ++i) {
      if (seen[i] > 0) tokens.push_back(i);
    }
    return tokens;
  };
  EXPECT((kept({.top_k = 2}) == std::vector<size_t>{3, 70, 90, 128}));
  EXPECT((kept({.top_k = 1}) == std::vector<size_t>{3}));
  EXPECT((kept({.top_p = 0.6F}) == std::vector<size_t>{3, 70}));  // 0.47, then 0.17 each
  EXPECT((kept({.top_p = 1e-6F}) == std::vector<size_t>{3}));
  EXPECT((kept({.min_p = 1.0F}) == std::vector<size_t>{3}));
  EXPECT((kept({.top_p = 0.6F, .top_k = 2}) == std::vector<size_t>{3, 70}));
}

TEST("a kept set is the same however many tokens are passed over to find it") {
  Random random(44);
  for (int round = 0; round < 60; ++round) {
    const size_t count = static_cast<size_t>(random.integer(2, 2500));
    std::vector<float> logits = random.floats(count, random.one_of({0.5F, 5.0F, 40.0F}));
    for (size_t i = 0; i < count / 4; ++i) logits[random.bits() % count] = logits[random.bits() % count];
    const TokenFilters filters{random.one_of({0.0F, 0.01F, 0.5F}),
                               static_cast<uint32_t>(random.one_of({0, 1, 7, 60, 2000})),
                               random.one_of({0.3F, 0.9F, 0.999F})};
    const float largest = *std::max_element(logits.begin(), logits.end());
    // The definition: sort everything, filter by filter.
    std::vector<uint32_t> order(count);
    for (size_t i = 0; i < count; ++i) order[i] = static_cast<uint32_t>(i);
    std::sort(order.begin(), order.end(),
              [&](uint32_t a, uint32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
    std::erase_if(order, [&](uint32_t i) {
      return std::exp(static_cast<double>(logits[i]) - largest) < filters.min_p;
    });
    if (filters.top_k > 0 && filters.top_k < order.size()) {
      const float least = logits[order[filters.top_k - 1]];
      std::erase_if(order, [&](uint32_t i) { return logits[i] < least; });
    }
    double sum = 0, target = 0;
    for (const uint32_t i : order) target += std::exp(static_cast<double>(logits[i]) - largest);
    size_t kept = 0;
    while (kept < order.size() && (kept == 0 || sum < filters.top_p * target)) {
      sum += std::exp(static_cast<double>(logits[order[kept++]]) - largest);
    }
    order.resize(kept);
    for (const CpuIsa isa : {CpuIsa::kScalar, choose_cpu_isa({})}) {
      Selection selection(logit_kernels(isa));
      double own_sum = 0;
      const auto found =
          selection.keep({logits.data(), static_cast<int64_t>(count), largest, 1.0F}, filters, &own_sum);
      EXPECT(std::vector<uint32_t>(found.begin(), found.end()) == order);
      EXPECT(std::fabs(own_sum / sum - 1) < 1e-5);
      const auto likely = selection.most_likely(logits.data(), static_cast<int64_t>(count), 5);
      EXPECT(likely.size() == std::min<size_t>(5, count));
      for (size_t i = 0; i < likely.size() && i < order.size(); ++i) EXPECT(likely[i] == order[i]);
    }
  }
}

TEST("a token's raw log-prob is the same bits sampled, scored, alone or with lists, and near the exact one") {
  Random random(45);
  std::vector<float> logits = random.floats(1777, 9.0F);
  Bench bench(logits);
  const std::vector<double> exact = softmax(logits);
  for (const Params& params :
       {Params{}, Params{.temperature = 0}, Params{.temperature = 0.6F}, Params{.top_p = 0.9F, .top_k = 40},
        Params{.logprobs = 20}, Params{.repetition = 1.5F, .logprobs = 3}}) {
    Slot slot = slot_of(params);
    slot.counts.add_prompt_token(5);
    const TokenOutcome sampled = bench.sample(slot);
    const TokenOutcome scored = bench.score(slot_of({}), sampled.token_id);
    EXPECT(std::bit_cast<uint32_t>(sampled.logprob) == std::bit_cast<uint32_t>(scored.logprob));
    EXPECT(std::fabs(sampled.logprob - std::log(exact[static_cast<size_t>(sampled.token_id)])) < 1e-5);
  }
}

TEST("processed log-probs are those of what was drawn from: renormalised, shorter lists, -infinity outside") {
  const std::vector<float> logits = with_large_tail(300);
  Bench bench(logits);
  const Slot slot = slot_of({.temperature = 0.5F,
                             .top_k = 3,
                             .logprobs = 5,
                             .prompt_logprobs = 5,
                             .mode = wire::LogprobsMode::processed});
  const TokenOutcome sampled = bench.sample(slot);
  EXPECT(sampled.top_count == 3);
  double total = 0;
  for (size_t i = 0; i < 3; ++i) total += std::exp(static_cast<double>(bench.logprobs[i]));
  EXPECT(std::fabs(total - 1) < 1e-6);
  EXPECT(std::fabs((bench.logprobs[0] - bench.logprobs[1]) - (2.0F - 1.5F) / 0.5F) < 1e-5);
  const TokenOutcome scored = bench.score(slot, sampled.token_id);
  EXPECT(std::bit_cast<uint32_t>(sampled.logprob) == std::bit_cast<uint32_t>(scored.logprob));
  EXPECT(bench.score(slot, 0).logprob == -kInfinity);
  const Slot unfiltered = slot_of({.temperature = 2, .mode = wire::LogprobsMode::processed});
  const TokenOutcome plain = bench.sample(unfiltered);
  EXPECT(std::fabs(plain.logprob - std::log(softmax(logits, 2)[static_cast<size_t>(plain.token_id)])) < 1e-5);
  EXPECT(std::bit_cast<uint32_t>(plain.logprob) ==
         std::bit_cast<uint32_t>(bench.score(unfiltered, plain.token_id).logprob));
}

TEST(
    "ranks and lists follow the order (logit descending, id ascending); none are made where none are asked "
    "for") {
  std::vector<float> logits(300, -1.0F);
  logits[250] = 4.0F, logits[17] = 3.0F, logits[99] = 3.0F, logits[3] = 2.0F;
  Bench bench(logits);
  const Slot slot = slot_of({.prompt_logprobs = 4});
  EXPECT(bench.score(slot, 250).rank == 1 && bench.score(slot, 17).rank == 2 &&
         bench.score(slot, 99).rank == 3);
  EXPECT(bench.score(slot, 0).rank == 5 && bench.score(slot, 1).rank == 6);
  EXPECT((std::vector<int32_t>(bench.token_ids.begin(), bench.token_ids.begin() + 4) ==
          std::vector<int32_t>{250, 17, 99, 3}));
  const TokenOutcome without_list = bench.sample(slot_of({.temperature = 0, .logprobs = 0}));
  EXPECT(without_list.rank == 0 && without_list.top_count == 0 && !std::isnan(without_list.logprob));
  EXPECT(std::isnan(bench.sample(slot_of({.temperature = 0, .logprobs = -1})).logprob));
}

TEST("a row with a NaN or without any possible token fails alone; +infinities share the probability") {
  std::vector<float> logits(100, 0.0F);
  logits[40] = kNaN;
  EXPECT(Bench(logits).sample(slot_of({})).code == wire::ErrorCode::nan_logits);
  EXPECT(Bench(logits).sample(slot_of({})).token_id == -1);
  EXPECT(std::isnan(Bench(logits).score(slot_of({}), 3).logprob));
  EXPECT(Bench(std::vector<float>(100, -kInfinity)).sample(slot_of({})).code == wire::ErrorCode::nan_logits);

  logits[40] = 0;
  Slot forbidding = slot_of({});
  for (int32_t i = 0; i < 100; ++i) forbidding.bias.push_back({i, -kInfinity});
  EXPECT(Bench(logits).sample(forbidding).code == wire::ErrorCode::nan_logits);

  logits[30] = logits[60] = kInfinity;
  Bench bench(logits);
  EXPECT(bench.sample(slot_of({.temperature = 0})).token_id == 30);
  const std::vector<int> seen = bench.frequencies(slot_of({}), 2000);
  EXPECT(seen[30] + seen[60] == 2000 && seen[30] > 900 && seen[60] > 900);
  EXPECT(std::fabs(bench.sample(slot_of({})).logprob - std::log(0.5)) < 1e-6);
  EXPECT(bench.score(slot_of({}), 0).logprob == -kInfinity);
}

TEST("every kind of request gives the same token and log-prob bits on every instruction set") {
  Random random(46);
  for (int round = 0; round < 40; ++round) {
    const std::vector<float> logits = random.floats(static_cast<uint64_t>(random.integer(10, 3000)), 12.0F);
    Slot slot = slot_of({.seed = random.bits(),
                         .temperature = random.one_of({0.0F, 0.7F, 1.0F, 1.9F}),
                         .top_p = random.one_of({0.5F, 0.95F, 1.0F}),
                         .min_p = random.one_of({0.0F, 0.02F}),
                         .repetition = random.one_of({1.0F, 1.3F}),
                         .frequency = random.one_of({0.0F, 0.4F}),
                         .top_k = static_cast<uint32_t>(random.one_of({0, 1, 50})),
                         .logprobs = static_cast<int32_t>(random.integer(-1, 5)),
                         .mode = random.one_of({wire::LogprobsMode::raw, wire::LogprobsMode::processed})});
    for (int i = 0; i < 5; ++i)
      slot.counts.add_output_token(static_cast<int32_t>(random.bits() % logits.size()));
    Bench reference(logits, CpuIsa::kScalar);
    const TokenOutcome expected = reference.sample(slot);
    for (const CpuIsa isa : {CpuIsa::kAvx2, CpuIsa::kAvx512}) {
      if (!cpu_isa_available(isa)) continue;
      Bench bench(logits, isa);
      const TokenOutcome outcome = bench.sample(slot);
      EXPECT(outcome.token_id == expected.token_id && outcome.rank == expected.rank &&
             outcome.top_count == expected.top_count);
      EXPECT(std::bit_cast<uint32_t>(outcome.logprob) == std::bit_cast<uint32_t>(expected.logprob));
      EXPECT(bench.token_ids == reference.token_ids);
      for (size_t i = 0; i < outcome.top_count; ++i) {
        EXPECT(std::bit_cast<uint32_t>(bench.logprobs[i]) == std::bit_cast<uint32_t>(reference.logprobs[i]));
      }
    }
  }
}

TEST("token counts keep each token once, however many there are") {
  TokenCounts counts;
  for (int round = 0; round < 2; ++round) {
    for (int32_t token = 0; token < 5000; ++token) counts.add_prompt_token(token * 7);
    for (int32_t token = 0; token < 10000; ++token) counts.add_output_token(token);
    uint64_t outputs = 0;
    for (const TokenCount& entry : counts.entries()) outputs += entry.output_count;
    EXPECT(outputs == 10000 && counts.entries().size() == 10000 + 5000 - 1429);
    counts.clear();
    EXPECT(counts.entries().empty());
  }
}

}  // namespace kadenz::test
