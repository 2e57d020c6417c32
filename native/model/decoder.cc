#include "model/decoder.h"

#include <algorithm>
#include <initializer_list>
#include <string>
#include <utility>

#include "model/error.h"
#include "model/float_environment.h"
#include "model/rope.h"

namespace kadenz {
namespace {

constexpr uint32_t kFeedForwardRows = 512;  // bounds the widest activations, whatever the batch
constexpr uint64_t kMaxRows = uint64_t{1} << 20;
constexpr uint64_t kMaxPosition = uint64_t{1} << 24;  // a float still counts positions exactly

// Packs one layer's or the model's tensors and gives the mapped pages back at once.
class Packer {
 public:
  Packer(WeightFiles& files, Ops& ops, WeightPrecision precision)
      : files_(files), ops_(ops), precision_(precision) {}

  std::unique_ptr<WeightMatrix> matrix(const std::vector<TensorView>& parts,
                                       MatrixUse use = MatrixUse::kLinear) {
    std::unique_ptr<WeightMatrix> packed = ops_.pack_matrix(parts, precision_, use);
    bytes_ += packed->bytes();
    forget(parts);
    return packed;
  }

  std::unique_ptr<WeightVector> vector(const std::vector<TensorView>& parts) {
    std::unique_ptr<WeightVector> packed = ops_.pack_vector(parts, precision_);
    bytes_ += packed->bytes();
    forget(parts);
    return packed;
  }

  uint64_t bytes() const { return bytes_; }

 private:
  void forget(const std::vector<TensorView>& parts) {
    for (const TensorView& part : parts) files_.forget(part);
  }

  WeightFiles& files_;
  Ops& ops_;
  WeightPrecision precision_;
  uint64_t bytes_ = 0;
};

[[noreturn]] void refuse_batch(const std::string& sentence) { throw HostError("invalid_batch", sentence); }

void check_cache_shape(const CacheShape& cache) {
  const bool power_of_two = (cache.block_size & (cache.block_size - 1)) == 0;
  if (cache.block_size < 8 || cache.block_size > 64 || !power_of_two) {
    throw HostError("invalid_cache_shape", "The block size is " + std::to_string(cache.block_size) +
                                               "; it must be 8, 16, 32 or 64.");
  }
  if (cache.num_blocks == 0)
    throw HostError("invalid_cache_shape", "The KV cache has 0 blocks; it needs at least 1.");
  if (cache.storage != DType::kFloat32 && cache.storage != DType::kBFloat16) {
    throw HostError("invalid_cache_shape", "The KV cache is stored as float32 or bfloat16.");
  }
}

}  // namespace

struct Decoder::Layer {
  std::unique_ptr<WeightVector> attention_norm, feed_forward_norm;
  std::unique_ptr<WeightVector> query_norm, key_norm;  // Qwen3
  std::unique_ptr<WeightMatrix> qkv, output, gate, up, down;
  std::unique_ptr<WeightVector> qkv_bias, output_bias, gate_bias, up_bias, down_bias;
  uint32_t window = 0;
};

Decoder::Decoder(const ModelConfig& config, WeightFiles& weights, Ops& ops, const CacheShape& cache)
    : config_(config), cache_shape_(cache), ops_(ops) {
  const FloatEnvironment environment;
  validate(config);
  check_cache_shape(cache);
  attention_shape_ = {
      static_cast<uint32_t>(config.num_layers), static_cast<uint32_t>(config.num_attention_heads),
      static_cast<uint32_t>(config.num_key_value_heads), static_cast<uint32_t>(config.head_dim)};
  rotary_ = {rope_inverse_frequencies(config.rope, config.head_dim),
             config.rope.kind == RopeKind::kYarn ? static_cast<float>(config.rope.attention_factor) : 1.0F};

  load_weights(weights);
  restore_cache();
}

void Decoder::load_weights(WeightFiles& weights) {
  const ModelConfig& config = config_;
  Ops& ops = ops_;
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  const int64_t queries = config.num_attention_heads * config.head_dim;
  const int64_t keys = config.num_key_value_heads * config.head_dim;
  const bool rounded = cache_shape_.storage == DType::kBFloat16;
  Packer pack(weights, ops, rounded ? WeightPrecision::kBFloat16 : WeightPrecision::kExact);

  embedding_ =
      pack.matrix({weights.require("model.embed_tokens.weight", {config.vocab_size, hidden})},
                  config.tie_word_embeddings ? MatrixUse::kLinearAndEmbedding : MatrixUse::kEmbedding);
  for (int64_t index = 0; index < config.num_layers; ++index) {
    const std::string prefix = "model.layers." + std::to_string(index) + ".";
    const auto tensor = [&](const char* name, std::initializer_list<int64_t> shape) {
      return weights.require(prefix + name, shape);
    };
    Layer layer;
    layer.attention_norm = pack.vector({tensor("input_layernorm.weight", {hidden})});
    layer.qkv = pack.matrix({tensor("self_attn.q_proj.weight", {queries, hidden}),
                             tensor("self_attn.k_proj.weight", {keys, hidden}),
                             tensor("self_attn.v_proj.weight", {keys, hidden})});
    if (config.attention_bias) {
      layer.qkv_bias =
          pack.vector({tensor("self_attn.q_proj.bias", {queries}), tensor("self_attn.k_proj.bias", {keys}),
                       tensor("self_attn.v_proj.bias", {keys})});
    }
    if (config.qk_norm) {
      layer.query_norm = pack.vector({tensor("self_attn.q_norm.weight", {config.head_dim})});
      layer.key_norm = pack.vector({tensor("self_attn.k_norm.weight", {config.head_dim})});
    }
    layer.output = pack.matrix({tensor("self_attn.o_proj.weight", {hidden, queries})});
    if (config.attention_output_bias)
      layer.output_bias = pack.vector({tensor("self_attn.o_proj.bias", {hidden})});
    layer.feed_forward_norm = pack.vector({tensor("post_attention_layernorm.weight", {hidden})});
    layer.gate = pack.matrix({tensor("mlp.gate_proj.weight", {inner, hidden})});
    layer.up = pack.matrix({tensor("mlp.up_proj.weight", {inner, hidden})});
    layer.down = pack.matrix({tensor("mlp.down_proj.weight", {hidden, inner})});
    if (config.mlp_bias) {
      layer.gate_bias = pack.vector({tensor("mlp.gate_proj.bias", {inner})});
      layer.up_bias = pack.vector({tensor("mlp.up_proj.bias", {inner})});
      layer.down_bias = pack.vector({tensor("mlp.down_proj.bias", {hidden})});
    }
    const bool windowed =
        config.sliding_window > 0 && config.layer_uses_sliding_window[static_cast<size_t>(index)] != 0;
    layer.window = windowed ? static_cast<uint32_t>(config.sliding_window) : 0;
    layers_.push_back(std::move(layer));
  }
  final_norm_ = pack.vector({weights.require("model.norm.weight", {hidden})});
  if (!config.tie_word_embeddings) {
    output_head_ = pack.matrix({weights.require("lm_head.weight", {config.vocab_size, hidden})});
  }
  weight_bytes_ = pack.bytes();
}

void Decoder::restore_cache() {
  cache_ = ops_.allocate_kv_cache(attention_shape_, cache_shape_);
  block_writers_.assign(cache_shape_.num_blocks, 0);
}

void Decoder::release_cache() { cache_.reset(); }

void Decoder::release_weights() {
  layers_.clear();
  embedding_.reset();
  output_head_.reset();
  final_norm_.reset();
  weight_bytes_ = 0;
  kept_rows_ = 0;
}

void Decoder::restore_weights(WeightFiles& weights) {
  release_weights();
  try {
    load_weights(weights);
  } catch (...) {
    release_weights();  // all or nothing: half a model must not pass for one
    throw;
  }
}

Decoder::~Decoder() = default;

void Decoder::check_resident() const {
  if (embedding_ == nullptr)
    throw HostError("memory_released", "The weights are released; resume them first.");
  if (cache_ == nullptr) throw HostError("memory_released", "The KV cache is released; resume it first.");
}

void Decoder::check(const DecoderBatch& batch) {
  const uint64_t rows = batch.token_ids.size();
  if (rows > kMaxRows || batch.output_rows.size() > kMaxRows) {
    refuse_batch("A batch of " + std::to_string(rows) + " rows with " +
                 std::to_string(batch.output_rows.size()) + " outputs is over the limit of " +
                 std::to_string(kMaxRows) + ".");
  }
  for (const int32_t token : batch.token_ids) {
    if (token < 0 || token >= config_.vocab_size) {
      refuse_batch("Token id " + std::to_string(token) + " is outside the vocabulary of " +
                   std::to_string(config_.vocab_size) + ".");
    }
  }
  for (const uint32_t row : batch.output_rows) {
    if (row >= rows) {
      refuse_batch("Output row " + std::to_string(row) + " is outside the batch of " + std::to_string(rows) +
                   " rows.");
    }
  }
  for (const BlockCopy& copy : batch.copies) {
    if (copy.source >= cache_shape_.num_blocks || copy.target >= cache_shape_.num_blocks) {
      refuse_batch("A copy of block " + std::to_string(copy.source) + " to " + std::to_string(copy.target) +
                   " is outside the " + std::to_string(cache_shape_.num_blocks) + " blocks of the KV cache.");
    }
  }
  ++step_stamp_;
  uint64_t next_row = 0;
  for (size_t index = 0; index < batch.sequences.size(); ++index) {
    const SequenceSpan& span = batch.sequences[index];
    const std::string name = "Sequence " + std::to_string(index) + " of the batch";
    if (span.first_row != next_row) {
      refuse_batch(name + " starts at row " + std::to_string(span.first_row) + "; row " +
                   std::to_string(next_row) + " is next.");
    }
    next_row += span.num_rows;
    const uint64_t end = uint64_t{span.start_position} + span.num_rows;
    if (end > kMaxPosition) refuse_batch(name + " reaches position " + std::to_string(end) + ".");
    const uint64_t blocks = (end + cache_shape_.block_size - 1) / cache_shape_.block_size;
    if (span.num_rows > 0 && (blocks > span.num_blocks || span.block_table == nullptr)) {
      refuse_batch(name + " needs " + std::to_string(blocks) + " blocks; its table has " +
                   std::to_string(span.num_blocks) + ".");
    }
    if (span.num_rows == 0) continue;
    for (uint64_t block = 0; block < blocks; ++block) {
      if (span.block_table[block] >= cache_shape_.num_blocks) {
        refuse_batch(name + " names block " + std::to_string(span.block_table[block]) + " of " +
                     std::to_string(cache_shape_.num_blocks) + ".");
      }
    }
    for (uint64_t block = span.start_position / cache_shape_.block_size; block < blocks; ++block) {
      uint64_t& writer = block_writers_[span.block_table[block]];
      if (writer == step_stamp_) {
        refuse_batch(name + " writes block " + std::to_string(span.block_table[block]) +
                     ", which is written already in this step.");
      }
      writer = step_stamp_;
    }
  }
  if (next_row != rows) {
    refuse_batch("The sequences cover " + std::to_string(next_row) + " of the batch's " +
                 std::to_string(rows) + " rows.");
  }
}

void Decoder::reserve(uint32_t rows, uint32_t kept_rows) {
  const uint32_t hidden = static_cast<uint32_t>(config_.hidden_size);
  const uint32_t queries = attention_shape_.num_heads * attention_shape_.head_dim;
  const uint32_t keys = attention_shape_.num_key_value_heads * attention_shape_.head_dim;
  const auto round = [](uint32_t count) { return (count + 63) / 64 * 64; };
  const uint32_t all = round(std::max(rows, kept_rows));
  if (all > row_capacity_) {
    hidden_.reset(), normed_.reset(), qkv_.reset(), attention_.reset(), gated_.reset();
    row_capacity_ = 0;
    hidden_ = ops_.allocate_activations(all, hidden);
    normed_ = ops_.allocate_activations(all, hidden);
    qkv_ = ops_.allocate_activations(all, queries + 2 * keys);
    attention_ = ops_.allocate_activations(all, queries);
    gated_ = ops_.allocate_activations(std::min(all, kFeedForwardRows),
                                       static_cast<uint32_t>(config_.intermediate_size));
    row_capacity_ = all;
  }
  if (round(kept_rows) > kept_capacity_) {
    kept_hidden_.reset(), kept_attention_.reset();
    kept_capacity_ = 0;
    kept_hidden_ = ops_.allocate_activations(round(kept_rows), hidden);
    kept_attention_ = ops_.allocate_activations(round(kept_rows), queries);
    kept_capacity_ = round(kept_rows);
  }
}

void Decoder::feed_forward(const Layer& layer, Activations& hidden, uint32_t rows) {
  ops_.rms_norm(hidden, rows, *layer.feed_forward_norm, static_cast<float>(config_.rms_norm_eps), *normed_);
  for (uint32_t first = 0; first < rows; first += kFeedForwardRows) {
    const uint32_t count = std::min(kFeedForwardRows, rows - first);
    ops_.gated_linear(*normed_, {first, count}, {layer.gate.get(), layer.gate_bias.get()},
                      {layer.up.get(), layer.up_bias.get()}, *gated_);
    ops_.linear_add(*gated_, {0, count}, {layer.down.get(), layer.down_bias.get()}, hidden, first);
  }
}

void Decoder::forward(const DecoderBatch& batch) {
  kept_rows_ = 0;
  check_resident();
  check(batch);
  const uint32_t rows = static_cast<uint32_t>(batch.token_ids.size());
  const uint32_t kept = static_cast<uint32_t>(batch.output_rows.size());
  const float epsilon = static_cast<float>(config_.rms_norm_eps);
  reserve(rows, kept);
  ops_.begin_step(batch, attention_shape_, rotary_);
  ops_.copy_blocks(*cache_, batch.copies);
  if (rows == 0) return;
  ops_.embed(*embedding_, *hidden_);
  for (size_t index = 0; index < layers_.size(); ++index) {
    const Layer& layer = layers_[index];
    const uint32_t number = static_cast<uint32_t>(index);
    ops_.rms_norm(*hidden_, rows, *layer.attention_norm, epsilon, *normed_);
    ops_.linear(*normed_, {0, rows}, {layer.qkv.get(), layer.qkv_bias.get()}, *qkv_);
    ops_.rotate_and_store(*qkv_, layer.query_norm.get(), layer.key_norm.get(), epsilon, *cache_, number);
    if (index + 1 < layers_.size()) {
      ops_.attend(*qkv_, *cache_, number, layer.window, *attention_);
      ops_.linear_add(*attention_, {0, rows}, {layer.output.get(), layer.output_bias.get()}, *hidden_, 0);
      feed_forward(layer, *hidden_, rows);
    } else if (kept > 0) {  // the last layer: only what is asked for goes on
      ops_.attend(*qkv_, *cache_, number, layer.window, *attention_);
      ops_.gather_rows(*hidden_, batch.output_rows, *kept_hidden_);
      ops_.gather_rows(*attention_, batch.output_rows, *kept_attention_);
      ops_.linear_add(*kept_attention_, {0, kept}, {layer.output.get(), layer.output_bias.get()},
                      *kept_hidden_, 0);
      feed_forward(layer, *kept_hidden_, kept);
      ops_.rms_norm(*kept_hidden_, kept, *final_norm_, epsilon, *kept_hidden_);
    }
  }
  kept_rows_ = kept;
}

void Decoder::logits(uint32_t first, uint32_t count, float* out) {
  check_resident();
  if (uint64_t{first} + count > kept_rows_) {
    refuse_batch("Logits of rows " + std::to_string(first) + " to " +
                 std::to_string(uint64_t{first} + count) + " are asked for; the step kept " +
                 std::to_string(kept_rows_) + ".");
  }
  if (count == 0) return;
  const FloatEnvironment environment;
  const WeightMatrix& head = output_head_ != nullptr ? *output_head_ : *embedding_;
  ops_.read_linear(*kept_hidden_, {first, count}, {&head, nullptr}, out);
}

uint64_t Decoder::weight_bytes() const { return weight_bytes_; }

uint64_t Decoder::kv_bytes() const { return cache_ == nullptr ? 0 : cache_->bytes(); }

uint64_t Decoder::scratch_bytes() const {
  uint64_t bytes = ops_.scratch_bytes();
  for (const Activations* buffer : {hidden_.get(), normed_.get(), qkv_.get(), attention_.get(), gated_.get(),
                                    kept_hidden_.get(), kept_attention_.get()}) {
    if (buffer != nullptr) bytes += buffer->bytes();
  }
  return bytes;
}

}  // namespace kadenz
