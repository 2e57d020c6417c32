#include "host/sampling_step.h"

#include <algorithm>
#include <exception>
#include <string>
#include <tuple>

#include "model/error.h"
#include "model/float_environment.h"

namespace kadenz {
namespace {

constexpr uint64_t kLogitsBytes = uint64_t{32} << 20;  // of one chunk
constexpr uint32_t kLeastChunkRows = 16;
constexpr uint32_t kMostChunkRows = 256;
constexpr uint64_t kMostTopEntries = uint64_t{1} << 26;

uint64_t entries_for(int32_t logprobs) { return logprobs < 1 ? 0 : static_cast<uint64_t>(logprobs); }

// Makes room for every outcome and its list.
template <class EntriesOf>
void lay_out(Outcomes& outcomes, size_t count, EntriesOf entries_of) {
  uint64_t entries = 0;
  outcomes.tokens.assign(count, TokenOutcome{});
  outcomes.top_begin.resize(count);
  for (size_t i = 0; i < count; ++i) {
    outcomes.top_begin[i] = static_cast<uint32_t>(entries);
    entries += entries_of(i);
    if (entries > kMostTopEntries) {
      throw HostError("step_failed", "The step's log-prob lists have more than " +
                                         std::to_string(kMostTopEntries) + " entries.");
    }
  }
  outcomes.top_token_ids.resize(entries);
  outcomes.top_logprobs.resize(entries);
}

bool needs_log_sum(const wire::SamplingParams& params, bool is_score) {
  return params.logprobs_mode() == wire::LogprobsMode::raw && (is_score || params.logprobs() >= 0);
}

}  // namespace

// A Sampler holds buffers of a row's size; as many exist as ever ran at once.
class SamplingStep::BorrowedSampler {
 public:
  explicit BorrowedSampler(SamplingStep& owner) : owner_(owner) {
    const std::lock_guard lock(owner_.samplers_mutex_);
    if (!owner_.idle_samplers_.empty()) {
      sampler_ = std::move(owner_.idle_samplers_.back());
      owner_.idle_samplers_.pop_back();
    } else {
      sampler_ = std::make_unique<Sampler>(owner_.kernels_, owner_.vocab_size_);
    }
  }
  ~BorrowedSampler() {
    const std::lock_guard lock(owner_.samplers_mutex_);
    owner_.idle_samplers_.push_back(std::move(sampler_));
  }
  BorrowedSampler(const BorrowedSampler&) = delete;
  BorrowedSampler& operator=(const BorrowedSampler&) = delete;

  Sampler& operator*() { return *sampler_; }

 private:
  SamplingStep& owner_;
  std::unique_ptr<Sampler> sampler_;
};

SamplingStep::SamplingStep(const LogitKernels& kernels, uint32_t vocab_size)
    : kernels_(kernels), vocab_size_(vocab_size) {
  const uint64_t rows = kLogitsBytes / (uint64_t{vocab_size} * sizeof(float)) / 16 * 16;
  chunk_rows_ = static_cast<uint32_t>(std::clamp<uint64_t>(rows, kLeastChunkRows, kMostChunkRows));
}

void SamplingStep::list_items(const Plan& plan, const InputBatch& batch, const SlotTable& slots) {
  lay_out(samples_, plan.sample_row.size(),
          [&](size_t i) { return entries_for(slots[plan.sample_slot[i]].params.logprobs()); });
  lay_out(scores_, plan.score_row.size(),
          [&](size_t i) { return entries_for(slots[plan.score_slot[i]].params.prompt_logprobs()); });
  items_.clear();
  for (uint32_t i = 0; i < plan.sample_row.size(); ++i)
    items_.push_back({batch.output_index(plan.sample_row[i]), i, false});
  for (uint32_t i = 0; i < plan.score_row.size(); ++i)
    items_.push_back({batch.output_index(plan.score_row[i]), i, true});
  std::sort(items_.begin(), items_.end(), [](const Item& a, const Item& b) {
    return std::tie(a.output, a.is_score, a.index) < std::tie(b.output, b.is_score, b.index);
  });
}

void SamplingStep::run_item(const Item& item, LogitRow& row, const Plan& plan, const InputBatch& batch,
                            const SlotTable& slots, Sampler& sampler) {
  Outcomes& outcomes = item.is_score ? scores_ : samples_;
  const uint32_t begin = outcomes.top_begin[item.index];
  const TopList top{outcomes.top_token_ids.data() + begin, outcomes.top_logprobs.data() + begin};
  TokenOutcome& outcome = outcomes.tokens[item.index];
  if (item.is_score) {
    outcome = sampler.score(row, slots[plan.score_slot[item.index]], plan.score_token[item.index], top);
    return;
  }
  const uint32_t plan_row = plan.sample_row[item.index];
  if (batch.is_poisoned(plan_row)) {
    outcome.code = wire::ErrorCode::nan_logits;
  } else {
    outcome = sampler.sample(row, slots[plan.sample_slot[item.index]], batch.position(plan_row) + 1, top);
  }
}

// First one task a row: what the row's items share, and its first item while the row is in the cache. Then
// the further items of rows that have several (a fan-out), one task each.
void SamplingStep::run_chunk(uint32_t first_output, uint32_t count, size_t first_item, size_t end_item,
                             const Plan& plan, const InputBatch& batch, const SlotTable& slots, Ops& ops) {
  rows_.assign(count, LogitRow{});
  std::vector<size_t> row_begin;
  std::vector<size_t> further;
  for (size_t i = first_item; i < end_item; ++i) {
    if (i == first_item || items_[i].output != items_[i - 1].output) {
      row_begin.push_back(i);
    } else {
      further.push_back(i);
    }
  }
  row_begin.push_back(end_item);

  std::mutex failure_mutex;
  std::exception_ptr failure;
  const auto guarded = [&](auto work) {
    const FloatEnvironment environment;
    try {
      BorrowedSampler sampler(*this);
      work(*sampler);
    } catch (...) {
      const std::lock_guard lock(failure_mutex);
      failure = std::current_exception();
    }
  };
  ops.parallel_for(static_cast<uint32_t>(row_begin.size() - 1), [&](uint32_t task) {
    guarded([&](Sampler& sampler) {
      const size_t begin = row_begin[task];
      const size_t end = row_begin[task + 1];
      LogitRow& row = rows_[items_[begin].output - first_output];
      row.logits = logits_.data() + size_t{items_[begin].output - first_output} * vocab_size_;
      sampler.prepare(row);
      run_item(items_[begin], row, plan, batch, slots, sampler);
      for (size_t i = begin + 1; i < end; ++i) {
        const Item& item = items_[i];
        const Slot& slot = slots[item.is_score ? plan.score_slot[item.index] : plan.sample_slot[item.index]];
        if (needs_log_sum(slot.params, item.is_score)) sampler.ensure_log_sum(row);
      }
    });
  });
  if (failure == nullptr && !further.empty()) {
    ops.parallel_for(static_cast<uint32_t>(further.size()), [&](uint32_t task) {
      guarded([&](Sampler& sampler) {
        const Item& item = items_[further[task]];
        run_item(item, rows_[item.output - first_output], plan, batch, slots, sampler);
      });
    });
  }
  if (failure != nullptr) std::rethrow_exception(failure);
}

void SamplingStep::run(const Plan& plan, const InputBatch& batch, const SlotTable& slots, Decoder& decoder,
                       Ops& ops) {
  list_items(plan, batch, slots);
  const uint32_t outputs = static_cast<uint32_t>(batch.num_outputs());
  const size_t needed = size_t{std::min(outputs, chunk_rows_)} * vocab_size_;
  if (logits_.size() < needed) logits_.resize(needed);
  size_t item = 0;
  for (uint32_t first = 0; first < outputs; first += chunk_rows_) {
    const uint32_t count = std::min(chunk_rows_, outputs - first);
    decoder.logits(first, count, logits_.data());
    const size_t first_item = item;
    while (item < items_.size() && items_[item].output < first + count) ++item;
    run_chunk(first, count, first_item, item, plan, batch, slots, ops);
  }
}

}  // namespace kadenz
