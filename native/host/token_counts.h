// Which tokens a sequence has seen, for its penalties: each distinct token once, with how often it was
// sampled. The entries stand in order of first sight; a table of positions finds a token's entry. Penalties
// touch each entry by itself, so the order never reaches the bits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace kadenz {

struct TokenCount {
  int32_t token_id;
  uint32_t output_count;  // 0: seen in the prompt only
};

class TokenCounts {
 public:
  void clear();
  void add_prompt_token(int32_t token_id) { entry_of(token_id); }
  void add_output_token(int32_t token_id) { ++entry_of(token_id).output_count; }
  std::span<const TokenCount> entries() const { return entries_; }

 private:
  TokenCount& entry_of(int32_t token_id);
  void grow();

  std::vector<TokenCount> entries_;
  std::vector<uint32_t>
      positions_;  // open addressing, a power of two; 0 = empty, else index into entries_ + 1
};

}  // namespace kadenz
