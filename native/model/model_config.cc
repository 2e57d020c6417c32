#include "model/model_config.h"

#include <cmath>
#include <string>

#include "model/error.h"

namespace kadenz {
namespace {

[[noreturn]] void refuse(const char* field, const std::string& value, const std::string& limit) {
  throw HostError("invalid_model_config",
                  std::string("The model's ") + field + " is " + value + "; it must be " + limit + ".");
}

void check_range(const char* field, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high) {
    refuse(field, std::to_string(value), std::to_string(low) + " to " + std::to_string(high));
  }
}

// Bounds are those of a sane number, so that logarithms and quotients of it stay finite.
void check_positive(const char* field, double value, double high) {
  if (!(value > 1e-12 && value <= high)) {
    refuse(field, std::to_string(value), "a positive number up to " + std::to_string(high));
  }
}

void validate_rope(const RopeConfig& rope) {
  if (rope.kind > RopeKind::kYarn)
    refuse("rope kind", std::to_string(static_cast<int>(rope.kind)), "a known kind");
  check_positive("rope_theta", rope.theta, 1e15);
  if (!std::isfinite(rope.attention_factor)) refuse("rope attention_factor", "not finite", "a finite number");
  if (rope.kind == RopeKind::kDefault) return;
  check_positive("rope factor", rope.factor, 1e9);
  if (rope.kind == RopeKind::kLinear) return;
  check_range("rope original_max_position_embeddings", rope.original_max_position_embeddings, 1,
              int64_t{1} << 24);
  if (rope.kind == RopeKind::kLlama3) {
    check_positive("rope low_freq_factor", rope.low_freq_factor, 1e9);
    check_positive("rope high_freq_factor", rope.high_freq_factor, 1e9);
    if (rope.high_freq_factor == rope.low_freq_factor) {
      refuse("rope high_freq_factor", std::to_string(rope.high_freq_factor),
             "different from low_freq_factor");
    }
    return;
  }
  check_positive("rope beta_fast", rope.beta_fast, 1e9);
  check_positive("rope beta_slow", rope.beta_slow, 1e9);
  if (!(rope.theta > 1.0)) refuse("rope_theta", std::to_string(rope.theta), "greater than 1 for yarn");
}

}  // namespace

void validate(const ModelConfig& config) {
  check_range("hidden_size", config.hidden_size, 1, 1 << 20);
  check_range("intermediate_size", config.intermediate_size, 1, 1 << 22);
  check_range("num_hidden_layers", config.num_layers, 1, 1 << 12);
  check_range("num_attention_heads", config.num_attention_heads, 1, 1 << 14);
  check_range("num_key_value_heads", config.num_key_value_heads, 1, config.num_attention_heads);
  check_range("head_dim", config.head_dim, 2, 1 << 12);
  check_range("vocab_size", config.vocab_size, 1, 1 << 27);
  check_range("max_position_embeddings", config.max_position_embeddings, 1, 1 << 24);
  check_range("sliding_window", config.sliding_window, 0, int64_t{1} << 31);
  if (config.head_dim % 2 != 0)
    refuse("head_dim", std::to_string(config.head_dim), "even (RoPE turns pairs)");
  if (config.num_attention_heads % config.num_key_value_heads != 0) {
    refuse("num_key_value_heads", std::to_string(config.num_key_value_heads),
           "a divisor of num_attention_heads = " + std::to_string(config.num_attention_heads));
  }
  if (!(config.rms_norm_eps >= 0.0 && config.rms_norm_eps <= 1.0)) {
    refuse("rms_norm_eps", std::to_string(config.rms_norm_eps), "0 to 1");
  }
  const size_t flags = config.layer_uses_sliding_window.size();
  if (flags != static_cast<size_t>(config.num_layers) && !(config.sliding_window == 0 && flags == 0)) {
    refuse("list of layers with a sliding window", std::to_string(flags) + " long",
           "as long as there are layers, " + std::to_string(config.num_layers));
  }
  validate_rope(config.rope);
}

}  // namespace kadenz
