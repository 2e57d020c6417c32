// What a model is, as plain numbers. config.json is read and judged in TypeScript; what arrives here is
// resolved (no defaults are filled in natively) and checked once more for sign and range before a size is
// computed from it.
#pragma once

#include <cstdint>
#include <vector>

namespace kadenz {

enum class RopeKind : uint8_t { kDefault, kLinear, kLlama3, kYarn };

// rope_theta and rope_scaling. Fields that a kind doesn't use are ignored.
struct RopeConfig {
  RopeKind kind = RopeKind::kDefault;
  double theta = 10000.0;
  double factor = 1.0;                           // linear, llama3, yarn
  double low_freq_factor = 1.0;                  // llama3
  double high_freq_factor = 4.0;                 // llama3
  int64_t original_max_position_embeddings = 0;  // llama3, yarn
  double beta_fast = 32.0;                       // yarn
  double beta_slow = 1.0;                        // yarn
  double attention_factor = 1.0;                 // multiplies cos and sin; 1 but for yarn
  bool truncate = true;                          // yarn: round the correction range to whole dimensions
};

struct ModelConfig {
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;  // even
  int64_t vocab_size = 0;
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 0.0;
  RopeConfig rope;
  bool attention_bias = false;         // q, k and v projections have a bias (Qwen2, Llama's attention_bias)
  bool attention_output_bias = false;  // so has o (Llama's attention_bias)
  bool mlp_bias = false;               // gate, up and down have one
  bool qk_norm = false;                // RMSNorm over head_dim on q and k before RoPE (Qwen3)
  bool tie_word_embeddings = false;
  int64_t sliding_window = 0;  // 0 = none; key j is visible to query i when i - j < sliding_window
  std::vector<uint8_t> layer_uses_sliding_window;  // one per layer; may be empty when sliding_window is 0
};

// Throws HostError("invalid_model_config") naming the field and the value.
void validate(const ModelConfig& config);

}  // namespace kadenz
