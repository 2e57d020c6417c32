#include "cpu/kv_cache.h"

#include "model/checked_math.h"

namespace kadenz {

PagedKvCache::PagedKvCache(const AttentionShape& shape, const CacheShape& cache)
    : num_layers_(shape.num_layers) {
  const int64_t value_stride = (int64_t{shape.head_dim} + kLanes - 1) / kLanes * kLanes;
  const int64_t slots = int64_t{shape.num_key_value_heads} * cache.block_size;
  const int64_t key_elements = slots * shape.head_dim;
  const uint64_t layer_elements = static_cast<uint64_t>(key_elements + slots * value_stride);
  layer_bytes_ = layer_elements * dtype_bytes(cache.storage);
  const uint64_t block_bytes = checked_multiply(layer_bytes_, shape.num_layers, "a KV cache block");
  storage_ = PageBuffer(checked_multiply(block_bytes, cache.num_blocks, "the KV cache"), "the KV cache");
  layout_ = {shape.num_heads,  shape.num_key_value_heads,
             shape.head_dim,   value_stride,
             cache.block_size, cache.storage,
             storage_.data(),  static_cast<int64_t>(layer_elements * shape.num_layers),
             key_elements};
}

AttentionLayout PagedKvCache::layer(uint32_t index) const {
  AttentionLayout layout = layout_;
  layout.layer_cache = static_cast<std::byte*>(layout.layer_cache) + index * layer_bytes_;
  return layout;
}

std::byte* PagedKvCache::layer_of_block(uint32_t block, uint32_t layer) {
  return storage_.data() + (uint64_t{block} * num_layers_ + layer) * layer_bytes_;
}

}  // namespace kadenz
