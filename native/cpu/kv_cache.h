// The paged KV cache in memory: [block][layer][keys | values], keys [kv head][dim][slot] so that lanes are
// positions, values [kv head][slot][value_stride] so that lanes are dimensions. A block's layers lie
// together: blocks that were never used are never touched, and copying a block is one stretch of memory.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"
#include "cpu/memory.h"
#include "model/ops.h"

namespace kadenz {

class PagedKvCache : public KvCache {
 public:
  PagedKvCache(const AttentionShape& shape, const CacheShape& cache);

  uint64_t bytes() const override { return storage_.bytes(); }
  uint32_t num_layers() const { return num_layers_; }
  AttentionLayout layer(uint32_t index) const;
  std::byte* layer_of_block(uint32_t block, uint32_t layer);
  uint64_t layer_bytes() const { return layer_bytes_; }  // of one block

 private:
  AttentionLayout layout_{};
  uint32_t num_layers_;
  uint64_t layer_bytes_;
  PageBuffer storage_;
};

}  // namespace kadenz
