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

void check_cache_shape(const CacheShape& cache) {
  const bool power_of_two = (cache.block_size & (cache.block_size - 1)) == 0;
  if (cache.block_size < 8 || cache.block_size > 64 || !power_of_two) {
    throw HostError("invalid_cache_shape", "The block size is " + std::to_string(cache.block_size) +
                                               "; it must be 8, 16, 32 or 64.");
  }
  if (cache.num_blocks == 0)
    throw HostError("invalid_cache_shape", "The KV cache has 0 blocks; it needs at least 1.");
}

WeightPrecision precision_of(DType storage) {
  switch (storage) {
    case DType::kFloat16: return WeightPrecision::kFloat16;
    case DType::kBFloat16: return WeightPrecision::kBFloat16;
    case DType::kFloat32: break;
  }
  return WeightPrecision::kExact;
}

}  // namespace

struct Decoder::Layer {
  std::unique_ptr<WeightVector> attention_norm, feed_forward_norm;
  std::unique_ptr<WeightVector> query_norm, key_norm;  // Qwen3
  std::unique_ptr<WeightMatrix> qkv, output, gate_up, down;
  std::unique_ptr<WeightVector> qkv_bias, output_bias, gate_up_bias, down_bias;
  uint32_t window = 0;
};

Decoder::Decoder(const ModelConfig& config, WeightFiles& weights, Ops& ops, const CacheShape& cache,
                 const Reserve& reserved)
    : config_(config), cache_shape_(cache), ops_(ops) {
  const FloatEnvironment environment;
  validate(config);
  check_cache_shape(cache);
  attention_shape_ = {
      static_cast<uint32_t>(config.num_layers), static_cast<uint32_t>(config.num_attention_heads),
      static_cast<uint32_t>(config.num_key_value_heads), static_cast<uint32_t>(config.head_dim)};
  ops.use_rotary(
      {rope_inverse_frequencies(config.rope, config.head_dim),
       config.rope.kind == RopeKind::kYarn ? static_cast<float>(config.rope.attention_factor) : 1.0F});

  load_weights(weights);
  reserve(reserved.rows, reserved.kept_rows);
  cache_shape_.num_blocks = ops.affordable_blocks(attention_shape_, cache);
  restore_cache();
}

void Decoder::load_weights(WeightFiles& weights) {
  const ModelConfig& config = config_;
  Ops& ops = ops_;
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  const int64_t queries = config.num_attention_heads * config.head_dim;
  const int64_t keys = config.num_key_value_heads * config.head_dim;
  Packer pack(weights, ops, precision_of(cache_shape_.storage));

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
    layer.gate_up = pack.matrix({tensor("mlp.gate_proj.weight", {inner, hidden}),
                                 tensor("mlp.up_proj.weight", {inner, hidden})},
                                MatrixUse::kGated);
    layer.down = pack.matrix({tensor("mlp.down_proj.weight", {hidden, inner})});
    if (config.mlp_bias) {
      layer.gate_up_bias =
          pack.vector({tensor("mlp.gate_proj.bias", {inner}), tensor("mlp.up_proj.bias", {inner})});
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
  ops.finish_packing();
  weight_bytes_ = pack.bytes();
}

void Decoder::restore_cache() {
  cache_ = ops_.allocate_kv_cache(attention_shape_, cache_shape_);
  batch_check_.emplace(BatchLimits{config_.vocab_size, cache_shape_.num_blocks, cache_shape_.block_size,
                                   ops_.gathers_samples()});
}

void Decoder::release_cache() { cache_.reset(); }

void Decoder::release_weights() {
  if (!weights_offloaded_ && embedding_ != nullptr && ops_.offload_weights()) {
    weights_offloaded_ = true;
  } else {
    drop_weights();
  }
  kept_rows_ = 0;
}

void Decoder::drop_weights() {
  layers_.clear();
  embedding_.reset();
  output_head_.reset();
  final_norm_.reset();
  weight_bytes_ = 0;
}

void Decoder::restore_weights(WeightFiles& weights) {
  if (weights_offloaded_) {
    ops_.restore_weights();
    weights_offloaded_ = false;
    return;
  }
  drop_weights();
  try {
    load_weights(weights);
  } catch (...) {
    drop_weights();  // all or nothing: half a model must not pass for one
    throw;
  }
}

Decoder::~Decoder() = default;

void Decoder::check_resident() const {
  if (embedding_ == nullptr || weights_offloaded_)
    throw HostError("memory_released", "The weights are released; resume them first.");
  if (cache_ == nullptr) throw HostError("memory_released", "The KV cache is released; resume it first.");
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
    hidden_ = ops_.allocate_activations(all, hidden, ActivationUse::kResidual);
    normed_ = ops_.allocate_activations(all, hidden, ActivationUse::kOperand);
    qkv_ = ops_.allocate_activations(all, queries + 2 * keys, ActivationUse::kSums);
    attention_ = ops_.allocate_activations(all, queries, ActivationUse::kOperand);
    gated_ = ops_.allocate_activations(std::min(all, ops_.feed_forward_rows()),
                                       static_cast<uint32_t>(config_.intermediate_size),
                                       ActivationUse::kOperand);
    row_capacity_ = all;
  }
  if (round(kept_rows) > kept_capacity_) {
    kept_hidden_.reset(), kept_normed_.reset(), kept_attention_.reset();
    kept_capacity_ = 0;
    kept_hidden_ = ops_.allocate_activations(round(kept_rows), hidden, ActivationUse::kResidual);
    kept_normed_ = ops_.allocate_activations(round(kept_rows), hidden, ActivationUse::kOperand);
    kept_attention_ = ops_.allocate_activations(round(kept_rows), queries, ActivationUse::kOperand);
    kept_capacity_ = round(kept_rows);
  }
}

Norm Decoder::norm_before(size_t index) const {
  const WeightVector& weight = index < layers_.size() ? *layers_[index].attention_norm : *final_norm_;
  return {&weight, static_cast<float>(config_.rms_norm_eps)};
}

// The second half of layer `index`; leaves the norm before the next one (or the head) in `normed`.
void Decoder::feed_forward(size_t index, Activations& hidden, Activations& normed, uint32_t rows) {
  const Layer& layer = layers_[index];
  const uint32_t most = ops_.feed_forward_rows();
  for (uint32_t first = 0; first < rows; first += most) {
    const uint32_t count = std::min(most, rows - first);
    ops_.gated_linear(normed, {first, count}, {layer.gate_up.get(), layer.gate_up_bias.get()}, *gated_);
    ops_.linear_add_norm(*gated_, {0, count}, {layer.down.get(), layer.down_bias.get()}, hidden, first,
                         norm_before(index + 1), normed);
  }
}

void Decoder::run_layers(const StepShape& shape, std::span<const uint32_t> output_rows) {
  const float epsilon = static_cast<float>(config_.rms_norm_eps);
  const uint32_t kept = static_cast<uint32_t>(output_rows.size());
  ops_.embed(*embedding_, *hidden_);
  ops_.rms_norm(*hidden_, shape.rows, norm_before(0), *normed_);
  for (size_t index = 0; index < layers_.size(); ++index) {
    const Layer& layer = layers_[index];
    const uint32_t number = static_cast<uint32_t>(index);
    const Linear output{layer.output.get(), layer.output_bias.get()};
    const Norm inner_norm{layer.feed_forward_norm.get(), epsilon};
    ops_.linear(*normed_, {0, shape.rows}, {layer.qkv.get(), layer.qkv_bias.get()}, *qkv_);
    ops_.rotate_and_store(*qkv_, layer.query_norm.get(), layer.key_norm.get(), epsilon, *cache_, number);
    if (index + 1 < layers_.size() || shape.decodes) {
      ops_.attend(*qkv_, *cache_, number, layer.window, *attention_);
      ops_.linear_add_norm(*attention_, {0, shape.rows}, output, *hidden_, 0, inner_norm, *normed_);
      feed_forward(index, *hidden_, *normed_, shape.rows);
    } else if (kept > 0) {  // the last layer: only what is asked for goes on
      ops_.attend(*qkv_, *cache_, number, layer.window, *attention_);
      ops_.gather_rows(*hidden_, output_rows, *kept_hidden_);
      ops_.gather_rows(*attention_, output_rows, *kept_attention_);
      ops_.linear_add_norm(*kept_attention_, {0, kept}, output, *kept_hidden_, 0, inner_norm, *kept_normed_);
      feed_forward(index, *kept_hidden_, *kept_normed_, kept);
    }
  }
}

void Decoder::forward(const DecoderBatch& batch) {
  kept_rows_ = 0;
  check_resident();
  batch_check_->check(batch);
  const uint32_t rows = static_cast<uint32_t>(batch.token_ids.size());
  const uint32_t kept = static_cast<uint32_t>(batch.output_rows.size());
  reserve(rows, kept);
  const uint32_t run_rows = ops_.begin_step(batch, attention_shape_);
  ops_.copy_blocks(*cache_, batch.copies);
  if (rows == 0) return;
  const StepShape shape{run_rows, decodes(batch)};
  ops_.run(shape, [&] { run_layers(shape, batch.output_rows); });
  final_ = shape.decodes ? normed_.get() : kept_normed_.get();
  kept_rows_ = kept;
}

void Decoder::record_decode(uint32_t rows) {
  const StepShape shape{rows, true};
  ops_.record(shape, [&] { run_layers(shape, {}); });
}

Linear Decoder::head_for(uint32_t first, uint32_t count) const {
  check_resident();
  if (uint64_t{first} + count > kept_rows_) {
    refuse_batch("Logits of rows " + std::to_string(first) + " to " +
                 std::to_string(uint64_t{first} + count) + " are asked for; the step kept " +
                 std::to_string(kept_rows_) + ".");
  }
  return {output_head_ != nullptr ? output_head_.get() : embedding_.get(), nullptr};
}

void Decoder::logits(uint32_t first, uint32_t count, float* out) {
  const Linear head = head_for(first, count);
  if (count == 0) return;
  const FloatEnvironment environment;
  ops_.read_linear(*final_, {first, count}, head, out);
}

void Decoder::logits(uint32_t first, uint32_t count, Activations& out) {
  const Linear head = head_for(first, count);
  if (count > 0) ops_.linear(*final_, {first, count}, head, out);
}

uint64_t Decoder::weight_bytes() const { return weight_bytes_; }

uint64_t Decoder::kv_bytes() const { return cache_ == nullptr ? 0 : cache_->bytes(); }

uint64_t Decoder::scratch_bytes() const {
  uint64_t bytes = ops_.scratch_bytes();
  for (const Activations* buffer : {hidden_.get(), normed_.get(), qkv_.get(), attention_.get(), gated_.get(),
                                    kept_hidden_.get(), kept_normed_.get(), kept_attention_.get()}) {
    if (buffer != nullptr) bytes += buffer->bytes();
  }
  return bytes;
}

}  // namespace kadenz
