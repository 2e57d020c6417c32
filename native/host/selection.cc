#include "host/selection.h"

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <limits>
#include <numeric>
#include <utility>

#include "model/exact_math.h"

namespace kadenz {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Ascending keys: logit descending, then id ascending. -0 counts as 0.
uint64_t order_key(float logit, uint32_t token) {
  const uint32_t bits = std::bit_cast<uint32_t>(logit + 0.0F);
  const uint32_t ascending = (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
  return (static_cast<uint64_t>(~ascending) << 32) | token;
}

// Ascending. The keys' ids are ascending already, so a stable sort by the upper half is enough: three passes
// of 11 bits.
void sort_keys(std::vector<uint64_t>& keys, std::vector<uint64_t>& other) {
  constexpr size_t kFewKeys = 512;
  if (keys.size() < kFewKeys) {
    std::sort(keys.begin(), keys.end());
    return;
  }
  constexpr uint64_t kDigits = 1 << 11;
  other.resize(keys.size());
  for (const int shift : {32, 43, 54}) {
    std::array<uint32_t, kDigits> place{};
    for (const uint64_t key : keys) ++place[key >> shift & (kDigits - 1)];
    uint32_t sum = 0;
    for (uint32_t& count : place) sum += std::exchange(count, sum);
    for (const uint64_t key : keys) other[place[key >> shift & (kDigits - 1)]++] = key;
    keys.swap(other);
  }
}

float scaled(const ScaledRow& row, float logit) { return (logit - row.maximum) * row.scale; }

}  // namespace

// Tokens of at least this logit and this x, -infinity never. group_maxima_ must be the row's.
void Selection::collect(const ScaledRow& row, float least_logit, float least_x) {
  keys_.clear();
  const auto passes = [&](float logit) {
    return logit >= least_logit && logit > -kInfinity && scaled(row, logit) >= least_x;
  };
  for (size_t group = 0; group < group_maxima_.size(); ++group) {
    if (!passes(group_maxima_[group])) continue;
    const int64_t first = static_cast<int64_t>(group) * kLogitGroup;
    const int64_t end = std::min(first + kLogitGroup, row.count);
    for (int64_t i = first; i < end; ++i) {
      if (passes(row.logits[i])) keys_.push_back(order_key(row.logits[i], static_cast<uint32_t>(i)));
    }
  }
}

// At least k groups hold a logit as large as the k-th largest of the groups' maxima, so the row's k-th
// largest is no smaller, and only what reaches it needs a closer look.
float Selection::kth_largest(const ScaledRow& row, int64_t k) {
  float floor = -kInfinity;
  if (k <= static_cast<int64_t>(group_maxima_.size())) {
    sorting_ = group_maxima_;
    std::nth_element(sorting_.begin(), sorting_.begin() + (k - 1), sorting_.end(), std::greater<>());
    floor = sorting_[static_cast<size_t>(k - 1)];
  }
  collect(row, floor, -kInfinity);
  if (k > static_cast<int64_t>(keys_.size())) return -kInfinity;
  std::nth_element(keys_.begin(), keys_.begin() + (k - 1), keys_.end());
  return row.logits[static_cast<uint32_t>(keys_[static_cast<size_t>(k - 1)])];
}

// tokens_ and their e^x, in the order of the keys
void Selection::weigh(const ScaledRow& row) {
  tokens_.resize(keys_.size());
  values_.resize(keys_.size());
  for (size_t i = 0; i < keys_.size(); ++i) {
    tokens_[i] = static_cast<uint32_t>(keys_[i]);
    values_[i] = scaled(row, row.logits[tokens_[i]]);
  }
  kernels_.exp(values_.data(), static_cast<int64_t>(values_.size()), values_.data());
}

void Selection::finish(const ScaledRow& row) {
  sort_keys(keys_, sorted_);
  weigh(row);
}

// Cuts the sorted set behind the token whose running sum reaches the target; returns that sum.
double Selection::cut(double target) {
  double sum = 0;
  for (size_t i = 0; i < values_.size(); ++i) {
    sum += values_[i];
    if (sum < target) continue;
    tokens_.resize(i + 1);
    values_.resize(i + 1);
  }
  return sum;
}

// top_p alone: the set is nearly always small, so the threshold is lowered step by step until what is over it
// suffices. Where the steps lie doesn't show: the set found is always the first part of one and the same
// order.
void Selection::keep_nucleus(const ScaledRow& row, float top_p, double* sum) {
  constexpr float kLowest = -88.0F;  // e^x is 0 below
  const double target = top_p * kernels_.exp_sum(row);
  for (float least_x = -2.0F;; least_x = std::max(least_x * 1.5F, kLowest)) {
    collect(row, -kInfinity, least_x);
    weigh(row);
    if (std::accumulate(values_.begin(), values_.end(), 0.0) < target && least_x > kLowest) continue;
    finish(row);
    *sum = cut(target);
    if (*sum >= target || least_x == kLowest) return;
  }
}

std::span<const uint32_t> Selection::keep(const ScaledRow& row, const TokenFilters& filters, double* sum) {
  group_maxima_.resize(static_cast<size_t>((row.count + kLogitGroup - 1) / kLogitGroup));
  kernels_.group_maxima(row.logits, row.count, group_maxima_.data());
  const bool has_top_k = filters.top_k > 0 && filters.top_k < row.count;
  if (!has_top_k && filters.min_p == 0) {
    keep_nucleus(row, filters.top_p, sum);
    return tokens_;
  }
  // The k-th largest of all is the k-th largest of what min_p keeps, or min_p keeps fewer than k.
  const float least_logit = has_top_k ? kth_largest(row, filters.top_k) : -kInfinity;
  const float least_x = filters.min_p > 0 ? static_cast<float>(exact_log(filters.min_p)) : -kInfinity;
  collect(row, least_logit, least_x);
  finish(row);
  *sum = cut(kInfinity);
  if (filters.top_p < 1) *sum = cut(filters.top_p * *sum);
  return tokens_;
}

std::span<const uint32_t> Selection::most_likely(const float* logits, int64_t count, int64_t k) {
  const ScaledRow row{logits, count, 0.0F, 1.0F};
  group_maxima_.resize(static_cast<size_t>((count + kLogitGroup - 1) / kLogitGroup));
  kernels_.group_maxima(logits, count, group_maxima_.data());
  k = std::min(k, count);
  if (k == 0) return {};
  const float least = kth_largest(row, k);
  collect(row, least, -kInfinity);
  sort_keys(keys_, sorted_);
  tokens_.resize(std::min(keys_.size(), static_cast<size_t>(k)));
  for (size_t i = 0; i < tokens_.size(); ++i) tokens_[i] = static_cast<uint32_t>(keys_[i]);
  return tokens_;
}

uint32_t Selection::noisy_argmax(const ScaledRow& row, std::span<const uint32_t> kept, const NoiseKey& key) {
  words_.resize(kept.size());
  values_.resize(kept.size());
  for (size_t i = 0; i < kept.size(); ++i) words_[i] = noise_word(key, kept[i]);
  kernels_.gumbel(words_.data(), static_cast<int64_t>(words_.size()), values_.data());
  size_t best = 0;
  for (size_t i = 0; i < kept.size(); ++i) {
    values_[i] += scaled(row, row.logits[kept[i]]);
    if (values_[i] > values_[best] || (values_[i] == values_[best] && kept[i] < kept[best])) best = i;
  }
  return kept[best];
}

}  // namespace kadenz
