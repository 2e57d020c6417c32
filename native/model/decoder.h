// The decoder-only transformer of Llama 2/3, Mistral, Qwen2 and Qwen3, written once against ops.h.
//
// Lifecycle: the constructor packs the weights (and gives the mapped pages back); forward() runs one batch,
// writes its keys and values into the paged cache and keeps the final-normed hidden state of the output rows;
// logits() turns kept rows into logits, as often and in as small portions as the caller's memory likes, until
// the next forward().
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "model/batch.h"
#include "model/batch_check.h"
#include "model/model_config.h"
#include "model/ops.h"
#include "model/weights.h"

namespace kadenz {

struct Reserve {
  uint32_t rows = 0;
  uint32_t kept_rows = 0;
};

class Decoder {
 public:
  // Activations grow with the largest batch, unless `reserve` says what it will be. cache.num_blocks is the
  // most: fewer are allocated where the device has no memory for more.
  // Throws HostError: invalid_model_config, invalid_cache_shape, missing_tensor, wrong_shape, out_of_memory.
  Decoder(const ModelConfig& config, WeightFiles& weights, Ops& ops, const CacheShape& cache,
          const Reserve& reserve = {});
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  // Throws HostError("invalid_batch") before anything was written when a row, position, block or token is out
  // of range.
  void forward(const DecoderBatch& batch);

  // Logits of kept rows first .. first+count-1 into out[count][vocab_size] in host memory, or into
  // activations of the device.
  void logits(uint32_t first, uint32_t count, float* out);
  void logits(uint32_t first, uint32_t count, Activations& out);

  // Has the device record the step of `rows` sequences that decode one token each. Between steps only.
  void record_decode(uint32_t rows);

  // Memory that a trainer asks back between rollouts. What is dropped is freed at once; forward() and
  // logits() throw HostError("memory_released") until both are there again. A restored cache holds nothing;
  // weights come from where the device kept them, else from the files.
  void release_cache();
  void restore_cache();
  void release_weights();
  void restore_weights(WeightFiles& weights);

  uint32_t num_blocks() const { return cache_shape_.num_blocks; }
  uint64_t weight_bytes() const;
  uint64_t kv_bytes() const;       // of the whole pool
  uint64_t scratch_bytes() const;  // activations and the device's own buffers, as allocated now

 private:
  struct Layer;

  void load_weights(WeightFiles& weights);
  void drop_weights();
  void check_resident() const;
  Linear head_for(uint32_t first, uint32_t count) const;  // checks the rows
  void reserve(uint32_t rows, uint32_t kept_rows);
  void run_layers(const StepShape& shape, std::span<const uint32_t> output_rows);
  void feed_forward(size_t index, Activations& hidden, Activations& normed, uint32_t rows);
  Norm norm_before(size_t index) const;  // of layer `index`; of the head after the last one

  ModelConfig config_;
  CacheShape cache_shape_;
  AttentionShape attention_shape_;
  Ops& ops_;
  std::vector<Layer> layers_;
  std::unique_ptr<WeightMatrix> embedding_;
  std::unique_ptr<WeightMatrix> output_head_;  // null when tied: the embedding serves
  std::unique_ptr<WeightVector> final_norm_;
  std::unique_ptr<KvCache> cache_;
  uint64_t weight_bytes_ = 0;

  std::unique_ptr<Activations> hidden_, normed_, qkv_, attention_;  // [row_capacity_][...]
  std::unique_ptr<Activations> gated_;  // [rows of one feed-forward chunk][intermediate]
  std::unique_ptr<Activations> kept_hidden_, kept_normed_, kept_attention_;  // [kept_capacity_][...]
  uint32_t row_capacity_ = 0;
  uint32_t kept_capacity_ = 0;
  uint32_t kept_rows_ = 0;
  const Activations* final_ = nullptr;  // the kept rows' final hidden states
  bool weights_offloaded_ = false;
  std::optional<BatchCheck> batch_check_;  // there whenever the cache is
};

}  // namespace kadenz
