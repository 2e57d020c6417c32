// The world of the sampling tests: rows of logits, items (a sample or a score of a row, with its parameters),
// both drawn at random, and the plan that makes a step of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "cuda/sampling_step.h"
#include "test/check.h"
#include "test/random.h"

namespace kadenz::cuda::sampling_test {
namespace {

using ::kadenz::test::Random;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// A row of logits and the position of the token after it.
struct Row {
  std::vector<float> logits;
  uint32_t position = 20;
};

struct Item {
  uint32_t row = 0;
  uint64_t seed = 1;
  uint32_t sample = 0;
  float temperature = 1, top_p = 1, min_p = 0, repetition = 1, presence = 0, frequency = 0;
  uint32_t top_k = 0, min_tokens = 0, prompt_tokens = 4;
  int32_t logprobs = 0, prompt_logprobs = 0;
  bool processed = false;
  int32_t score_token = -1;  // -1: a sample
  std::vector<int32_t> history;
  std::vector<int32_t> stops;
  std::vector<LogitBias> bias;

  bool is_greedy() const { return temperature < 1e-5F; }
};

std::string describe(const Item& item, uint32_t vocab) {
  const auto text = [](const char* name, double value) {
    return std::string(" ") + name + "=" + std::to_string(value);
  };
  return "vocab " + std::to_string(vocab) + " row " + std::to_string(item.row) +
         " seed=" + std::to_string(item.seed) + text("temperature", item.temperature) +
         text("top_p", item.top_p) + text("top_k", item.top_k) + text("min_p", item.min_p) +
         text("repetition", item.repetition) + text("presence", item.presence) +
         text("frequency", item.frequency) + text("logprobs", item.logprobs) +
         text("prompt_logprobs", item.prompt_logprobs) + text("processed", item.processed) +
         text("score_token", item.score_token) + text("min_tokens", item.min_tokens) +
         text("stops", double(item.stops.size())) + text("bias", double(item.bias.size())) +
         " KADENZ_NATIVE_SEED=" + std::to_string(test::base_seed());
}

// A plan whose vectors live here: every item has a slot of its own, every row one more.
class Step {
 public:
  Step(const std::vector<Row>& rows, const std::vector<Item>& items, uint32_t vocab)
      : slots(static_cast<uint32_t>(items.size() + rows.size())) {
    limits.max_num_seqs = static_cast<uint32_t>(items.size() + rows.size());
    limits.max_num_batched_tokens = limits.max_num_seqs;
    limits.block_size = 1U << 20;
    limits.vocab_size = vocab;
    const uint32_t num_items = static_cast<uint32_t>(items.size());
    for (uint32_t i = 0; i < num_items; ++i) {
      const Item& item = items[i];
      open(i, item);
      if (item.score_token < 0) {
        sample_row_.push_back(item.row), sample_slot_.push_back(i);
      } else {
        score_row_.push_back(item.row), score_slot_.push_back(i), score_token_.push_back(item.score_token);
      }
    }
    for (uint32_t r = 0; r < rows.size(); ++r) {
      open(num_items + r, Item{});
      table_slot_.push_back(num_items + r), table_index_.push_back(0), table_block_.push_back(r);
      sequence_start_.push_back(rows[r].position - 1), sequence_num_tokens_.push_back(1),
          token_ids_.push_back(0);
    }
    sequence_slot_ = table_slot_;
    refresh();
    slots.apply(plan);
  }

  // The plan of the step after: one position further, nothing opened.
  void advance() {
    open_slot_.clear(), open_sample_.clear(), open_prompt_tokens_.clear(), open_params_.clear();
    history_end_.clear(), stop_end_.clear(), bias_end_.clear();
    history_.clear(), stops_.clear(), bias_ids_.clear(), bias_.clear();
    table_slot_.clear(), table_index_.clear(), table_block_.clear();
    for (uint32_t& start : sequence_start_) ++start;
    for (const uint32_t slot : sample_slot_) ++slots[slot].history_tokens;
    refresh();
  }

  void build() { batch.build(plan, limits, slots, {}); }

  HostLimits limits;
  SlotTable slots;
  Plan plan;
  InputBatch batch;

 private:
  void open(uint32_t slot, const Item& item) {
    open_slot_.push_back(slot), open_sample_.push_back(item.sample);
    open_prompt_tokens_.push_back(item.prompt_tokens);
    open_params_.push_back(wire::SamplingParams(
        item.seed, item.temperature, item.top_p, item.min_p, item.repetition, item.presence, item.frequency,
        item.top_k, 1000, item.min_tokens, item.logprobs, item.prompt_logprobs,
        item.processed ? wire::LogprobsMode::processed : wire::LogprobsMode::raw, false, 0));
    history_.insert(history_.end(), item.history.begin(), item.history.end());
    history_end_.push_back(static_cast<uint32_t>(history_.size()));
    stops_.insert(stops_.end(), item.stops.begin(), item.stops.end());
    stop_end_.push_back(static_cast<uint32_t>(stops_.size()));
    for (const LogitBias& entry : item.bias) bias_ids_.push_back(entry.token_id), bias_.push_back(entry.bias);
    bias_end_.push_back(static_cast<uint32_t>(bias_.size()));
  }
  void refresh() {
    plan.open_slot = open_slot_, plan.open_sample = open_sample_,
    plan.open_prompt_tokens = open_prompt_tokens_;
    plan.open_params = open_params_, plan.open_history_end = {history_end_},
    plan.history_token_ids = history_;
    plan.open_stop_end = {stop_end_}, plan.stop_token_ids = stops_, plan.open_bias_end = {bias_end_};
    plan.bias_token_ids = bias_ids_, plan.bias = bias_;
    plan.table_slot = table_slot_, plan.table_index = table_index_, plan.table_block = table_block_;
    plan.sequence_slot = sequence_slot_, plan.sequence_start = sequence_start_;
    plan.sequence_num_tokens = sequence_num_tokens_, plan.token_ids = token_ids_;
    plan.sample_row = sample_row_, plan.sample_slot = sample_slot_;
    plan.score_row = score_row_, plan.score_slot = score_slot_, plan.score_token = score_token_;
  }

  std::vector<uint32_t> open_slot_, open_sample_, open_prompt_tokens_, history_end_, stop_end_, bias_end_;
  std::vector<wire::SamplingParams> open_params_;
  std::vector<int32_t> history_, stops_, bias_ids_;
  std::vector<float> bias_;
  std::vector<uint32_t> table_slot_, table_index_, table_block_;
  std::vector<uint32_t> sequence_slot_, sequence_start_, sequence_num_tokens_;
  std::vector<int32_t> token_ids_;
  std::vector<uint32_t> sample_row_, sample_slot_, score_row_, score_slot_;
  std::vector<int32_t> score_token_;
};

// Nearly normal, of the given spread.
float bell(Random& random, float spread) {
  return spread * (random.uniform() + random.uniform() + random.uniform());
}

Row random_row(Random& random, uint32_t vocab) {
  Row row;
  row.position = static_cast<uint32_t>(random.integer(6, 40));
  row.logits.resize(vocab);
  const float spread = random.one_of({0.3F, 2.5F, 2.5F, 9.0F});
  for (float& logit : row.logits) logit = bell(random, spread);
  switch (random.bits() % 6) {
    case 0:  // ties everywhere
      for (float& logit : row.logits) logit = std::round(logit * 2) / 2;
      break;
    case 1:  // one token has nearly everything
      row.logits[random.bits() % vocab] = 30.0F;
      break;
    case 2:  // most are impossible
      for (float& logit : row.logits) logit = random.bits() % 16 == 0 ? logit : -kInfinity;
      row.logits[random.bits() % vocab] = 1.0F;
      break;
    default:
      break;
  }
  return row;
}

Item random_item(Random& random, const std::vector<Row>& rows, uint32_t vocab) {
  Item item;
  item.row = static_cast<uint32_t>(random.bits() % rows.size());
  item.seed = random.bits();
  item.sample = static_cast<uint32_t>(random.integer(0, 100));
  item.temperature = random.one_of({0.0F, 0.3F, 0.7F, 1.0F, 1.0F, 1.0F, 1.8F});
  const auto token = [&] { return static_cast<int32_t>(random.bits() % vocab); };
  if (random.bits() % 3 == 0) item.top_p = random.one_of({0.1F, 0.5F, 0.9F, 0.99F});
  if (random.bits() % 4 == 0) item.top_k = static_cast<uint32_t>(random.one_of({1, 2, 20, 50, 1000, 100000}));
  if (random.bits() % 4 == 0) item.min_p = random.one_of({0.001F, 0.05F, 0.3F, 1.0F});
  item.logprobs = random.one_of({-1, 0, 0, 1, 5, 20, 300});
  item.prompt_logprobs = random.one_of({0, 0, 1, 7, 1024});
  item.processed = random.bits() % 2 == 0;
  const uint32_t position = rows[item.row].position;
  if (random.bits() % 4 == 0) {
    item.repetition = random.one_of({1.0F, 1.3F, 0.8F});
    item.presence = random.one_of({0.0F, 0.5F, -0.5F});
    item.frequency = random.one_of({0.0F, 0.25F});
    for (uint32_t i = 0; i < position; ++i) item.history.push_back(token());
    item.history[position - 1] = item.history[position - 2] = item.history[0];
  }
  if (random.bits() % 4 == 0) {
    std::set<int32_t> ids;
    for (int i = 0; i < 40; ++i) ids.insert(token());
    for (const int32_t id : ids) item.bias.push_back({id, random.one_of({-kInfinity, 3.0F, 12.0F, -2.0F})});
  }
  if (random.bits() % 4 == 0) {
    item.min_tokens = static_cast<uint32_t>(random.integer(0, 60));
    const auto& logits = rows[item.row].logits;
    item.stops = {token(),
                  static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin())};
  }
  if (random.bits() % 3 == 0) item.score_token = token();
  return item;
}

}  // namespace
}  // namespace kadenz::cuda::sampling_test
