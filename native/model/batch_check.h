// Whether a batch may run: everything that the decoder and its kernels index with is checked here, before a
// byte is written. Two sequences that write one block in one step are a caller's mistake too, so the check
// remembers who wrote which block.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/batch.h"

namespace kadenz {

struct BatchLimits {
  int64_t vocab_size = 0;
  uint32_t num_blocks = 0;  // of the KV cache
  uint32_t block_size = 0;
  bool gathers_samples = false;  // a negative token id names a sample of the step before
};

// Throws HostError("invalid_batch").
[[noreturn]] void refuse_batch(const std::string& sentence);

class BatchCheck {
 public:
  explicit BatchCheck(const BatchLimits& limits) : limits_(limits), block_writers_(limits.num_blocks, 0) {}

  // Throws HostError("invalid_batch"), naming the row, sequence, block or token that is out of range.
  void check(const DecoderBatch& batch);

 private:
  void check_rows(const DecoderBatch& batch) const;
  void check_sequence(const SequenceSpan& span, const std::string& name);

  BatchLimits limits_;
  std::vector<uint64_t> block_writers_;  // by block: the last step that wrote it
  uint64_t step_stamp_ = 0;
};

}  // namespace kadenz
