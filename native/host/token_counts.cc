#include "host/token_counts.h"

#include <algorithm>

namespace kadenz {
namespace {

constexpr size_t kLeastPositions = 64;

size_t first_position(int32_t token_id, size_t mask) {
  return (static_cast<uint32_t>(token_id) * 0x9e3779b1U >> 7) & mask;
}

}  // namespace

void TokenCounts::clear() {
  entries_.clear();
  std::fill(positions_.begin(), positions_.end(), 0);
}

void TokenCounts::grow() {
  positions_.assign(std::max(kLeastPositions, positions_.size() * 2), 0);
  const size_t mask = positions_.size() - 1;
  for (size_t i = 0; i < entries_.size(); ++i) {
    size_t position = first_position(entries_[i].token_id, mask);
    while (positions_[position] != 0) position = (position + 1) & mask;
    positions_[position] = static_cast<uint32_t>(i + 1);
  }
}

TokenCount& TokenCounts::entry_of(int32_t token_id) {
  if ((entries_.size() + 1) * 2 > positions_.size()) grow();
  const size_t mask = positions_.size() - 1;
  size_t position = first_position(token_id, mask);
  while (positions_[position] != 0) {
    TokenCount& entry = entries_[positions_[position] - 1];
    if (entry.token_id == token_id) return entry;
    position = (position + 1) & mask;
  }
  entries_.push_back({token_id, 0});
  positions_[position] = static_cast<uint32_t>(entries_.size());
  return entries_.back();
}

}  // namespace kadenz
