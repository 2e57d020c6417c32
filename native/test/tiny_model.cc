#include "tiny_model.h"

#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>

#include "cpu/float_bits.h"
#include "model/rope.h"

namespace kadenz::test {

TemporaryFile::TemporaryFile(const std::string& bytes) {
  std::string pattern = (std::filesystem::temp_directory_path() / "kadenz_test_XXXXXX").string();
  const int descriptor = ::mkstemp(pattern.data());
  if (descriptor < 0) throw std::runtime_error("no temporary file");
  path_ = pattern;
  size_t written = 0;
  while (written < bytes.size()) {
    const ssize_t count = ::write(descriptor, bytes.data() + written, bytes.size() - written);
    if (count <= 0) break;
    written += static_cast<size_t>(count);
  }
  ::close(descriptor);
  if (written != bytes.size()) throw std::runtime_error("the temporary file could not be written");
}

TemporaryFile::~TemporaryFile() { ::unlink(path_.c_str()); }

uint16_t narrow_float16(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(static_cast<double>(value));
  if (magnitude < 0x1p-14)
    return static_cast<uint16_t>(sign | static_cast<int>(std::nearbyint(magnitude * 0x1p24)));
  int exponent = 0;
  const double fraction = std::frexp(magnitude, &exponent);  // in 0.5 .. 1
  const int steps =
      static_cast<int>(std::nearbyint(fraction * 2048));  // 1024 .. 2048; a carry moves the exponent on
  return static_cast<uint16_t>(sign | (((exponent + 13) << 10) + steps));
}

std::string encode(std::vector<float>& values, DType dtype) {
  std::string bytes;
  for (float& value : values) {
    if (dtype == DType::kFloat32) {
      bytes.append(reinterpret_cast<const char*>(&value), 4);
    } else {
      const uint16_t bits = dtype == DType::kFloat16 ? narrow_float16(value) : narrow_bfloat16(value);
      value = dtype == DType::kFloat16 ? widen_float16(bits) : widen_bfloat16(bits);
      bytes.append(reinterpret_cast<const char*>(&bits), 2);
    }
  }
  return bytes;
}

TinyModel make_tiny_model(Random& random, const TinyOptions& options) {
  TinyModel model;
  ModelConfig& config = model.config;
  config.head_dim = options.head_dim != 0 ? options.head_dim : random.one_of<int64_t>({2, 8, 20, 24, 32, 80});
  config.num_key_value_heads = options.key_value_heads != 0 ? options.key_value_heads : random.integer(1, 3);
  config.num_attention_heads =
      options.heads != 0 ? options.heads : config.num_key_value_heads * random.integer(1, 5);
  config.hidden_size = random.integer(9, 70);
  config.intermediate_size = random.integer(9, 150);
  config.num_layers = 3;
  config.vocab_size = random.integer(17, 90);
  config.max_position_embeddings = 4096;
  config.rms_norm_eps = 1e-5;
  config.rope = options.rope;
  config.attention_bias = options.qkv_bias;
  config.attention_output_bias = options.output_bias;
  config.mlp_bias = options.mlp_bias;
  config.qk_norm = options.qk_norm;
  config.tie_word_embeddings = options.tied;
  config.sliding_window = options.sliding_window;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    config.layer_uses_sliding_window.push_back(layer % 2 == 0);
  }

  model.bytes = "pad";  // so that nothing is aligned
  const auto add = [&](const std::string& name, std::vector<int64_t> shape, float scale, float offset) {
    uint64_t count = 1;
    for (const int64_t size : shape) count *= static_cast<uint64_t>(size);
    std::vector<float> values = random.floats(count, scale);
    for (float& value : values) value += offset;
    const uint64_t begin = model.bytes.size();
    model.bytes += encode(values, options.dtype);
    model.descriptions.push_back({name, options.dtype, std::move(shape), 0, begin, model.bytes.size()});
    model.tensors[name] = std::move(values);
  };
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  const int64_t queries = config.num_attention_heads * config.head_dim;
  const int64_t keys = config.num_key_value_heads * config.head_dim;
  const auto spread = [](int64_t inputs) { return 1.7F / std::sqrt(static_cast<float>(inputs)); };
  add("model.embed_tokens.weight", {config.vocab_size, hidden}, 1.0F, 0.0F);
  add("model.norm.weight", {hidden}, 0.2F, 1.0F);
  if (!options.tied) add("lm_head.weight", {config.vocab_size, hidden}, 2 * spread(hidden), 0.0F);
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    add(prefix + "input_layernorm.weight", {hidden}, 0.2F, 1.0F);
    add(prefix + "post_attention_layernorm.weight", {hidden}, 0.2F, 1.0F);
    add(prefix + "self_attn.q_proj.weight", {queries, hidden}, 2 * spread(hidden), 0.0F);
    add(prefix + "self_attn.k_proj.weight", {keys, hidden}, 2 * spread(hidden), 0.0F);
    add(prefix + "self_attn.v_proj.weight", {keys, hidden}, spread(hidden), 0.0F);
    add(prefix + "self_attn.o_proj.weight", {hidden, queries}, spread(queries), 0.0F);
    add(prefix + "mlp.gate_proj.weight", {inner, hidden}, spread(hidden), 0.0F);
    add(prefix + "mlp.up_proj.weight", {inner, hidden}, spread(hidden), 0.0F);
    add(prefix + "mlp.down_proj.weight", {hidden, inner}, spread(inner), 0.0F);
    if (options.qkv_bias) {
      add(prefix + "self_attn.q_proj.bias", {queries}, 0.5F, 0.0F);
      add(prefix + "self_attn.k_proj.bias", {keys}, 0.5F, 0.0F);
      add(prefix + "self_attn.v_proj.bias", {keys}, 0.5F, 0.0F);
    }
    if (options.output_bias) add(prefix + "self_attn.o_proj.bias", {hidden}, 0.5F, 0.0F);
    if (options.mlp_bias) {
      add(prefix + "mlp.gate_proj.bias", {inner}, 0.5F, 0.0F);
      add(prefix + "mlp.up_proj.bias", {inner}, 0.5F, 0.0F);
      add(prefix + "mlp.down_proj.bias", {hidden}, 0.5F, 0.0F);
    }
    if (options.qk_norm) {
      add(prefix + "self_attn.q_norm.weight", {config.head_dim}, 0.2F, 1.0F);
      add(prefix + "self_attn.k_norm.weight", {config.head_dim}, 0.2F, 1.0F);
    }
  }
  return model;
}

namespace {

using Row = std::vector<double>;

struct Reference {
  const TinyModel& model;
  const ModelConfig& config;

  const std::vector<float>* find(const std::string& name) const {
    const auto found = model.tensors.find(name);
    return found == model.tensors.end() ? nullptr : &found->second;
  }
  const std::vector<float>& get(const std::string& name) const { return model.tensors.at(name); }

  Row linear(const Row& x, const std::string& name) const {
    const std::vector<float>& weight = get(name + ".weight");
    const std::vector<float>* bias = find(name + ".bias");
    Row y(weight.size() / x.size());
    for (size_t n = 0; n < y.size(); ++n) {
      y[n] = bias == nullptr ? 0.0 : static_cast<double>((*bias)[n]);
      for (size_t k = 0; k < x.size(); ++k) y[n] += x[k] * static_cast<double>(weight[n * x.size() + k]);
    }
    return y;
  }

  Row norm(const Row& x, const std::string& name) const {
    const std::vector<float>& weight = get(name + ".weight");
    double squares = 0;
    for (const double value : x) squares += value * value;
    Row y(x.size());
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(x.size()) + config.rms_norm_eps);
    for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] * scale * static_cast<double>(weight[i]);
    return y;
  }

  // One head of x, normed where the model does, turned to its position
  Row head(const Row& x, int64_t index, const std::string& norm_name, int64_t position,
           const std::vector<float>& frequencies) const {
    const size_t dim = static_cast<size_t>(config.head_dim);
    Row part(x.begin() + index * config.head_dim, x.begin() + (index + 1) * config.head_dim);
    if (config.qk_norm) part = norm(part, norm_name);
    Row turned(dim);
    const double factor = config.rope.kind == RopeKind::kYarn ? config.rope.attention_factor : 1.0;
    for (size_t i = 0; i < dim / 2; ++i) {
      const double angle = static_cast<double>(static_cast<float>(position) * frequencies[i]);
      const double c = std::cos(angle) * factor;
      const double s = std::sin(angle) * factor;
      turned[i] = part[i] * c - part[i + dim / 2] * s;
      turned[i + dim / 2] = part[i + dim / 2] * c + part[i] * s;
    }
    return turned;
  }
};

}  // namespace

std::vector<std::vector<double>> reference_logits(const TinyModel& model,
                                                  const std::vector<int32_t>& tokens) {
  const ModelConfig& config = model.config;
  const Reference reference{model, config};
  const std::vector<float> frequencies = rope_inverse_frequencies(config.rope, config.head_dim);
  const size_t dim = static_cast<size_t>(config.head_dim);
  const int64_t group = config.num_attention_heads / config.num_key_value_heads;

  std::vector<Row> hidden;
  for (const int32_t token : tokens) {
    const auto begin = reference.get("model.embed_tokens.weight").begin() + token * config.hidden_size;
    hidden.emplace_back(begin, begin + config.hidden_size);
  }
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    const int64_t window =
        config.layer_uses_sliding_window[static_cast<size_t>(layer)] != 0 ? config.sliding_window : 0;
    std::vector<std::vector<Row>> keys, values;  // [position][kv head]
    std::vector<Row> normed;
    for (size_t position = 0; position < tokens.size(); ++position) {
      normed.push_back(reference.norm(hidden[position], prefix + "input_layernorm"));
      const Row k = reference.linear(normed.back(), prefix + "self_attn.k_proj");
      const Row v = reference.linear(normed.back(), prefix + "self_attn.v_proj");
      keys.emplace_back(), values.emplace_back();
      for (int64_t h = 0; h < config.num_key_value_heads; ++h) {
        keys.back().push_back(
            reference.head(k, h, prefix + "self_attn.k_norm", static_cast<int64_t>(position), frequencies));
        values.back().emplace_back(v.begin() + h * config.head_dim, v.begin() + (h + 1) * config.head_dim);
      }
    }
    for (size_t position = 0; position < tokens.size(); ++position) {
      const Row q = reference.linear(normed[position], prefix + "self_attn.q_proj");
      Row mixed;
      for (int64_t h = 0; h < config.num_attention_heads; ++h) {
        const Row query =
            reference.head(q, h, prefix + "self_attn.q_norm", static_cast<int64_t>(position), frequencies);
        const size_t kv = static_cast<size_t>(h / group);
        const size_t first = window == 0 || static_cast<int64_t>(position) < window
                                 ? 0
                                 : position - static_cast<size_t>(window) + 1;
        Row scores;
        double largest = -1e300;
        for (size_t j = first; j <= position; ++j) {
          double score = 0;
          for (size_t d = 0; d < dim; ++d) score += query[d] * keys[j][kv][d];
          scores.push_back(score / std::sqrt(static_cast<double>(dim)));
          largest = std::max(largest, scores.back());
        }
        double sum = 0;
        Row out(dim);
        for (size_t j = first; j <= position; ++j) {
          const double weight = std::exp(scores[j - first] - largest);
          sum += weight;
          for (size_t d = 0; d < dim; ++d) out[d] += weight * values[j][kv][d];
        }
        for (const double value : out) mixed.push_back(value / sum);
      }
      const Row attended = reference.linear(mixed, prefix + "self_attn.o_proj");
      for (size_t i = 0; i < attended.size(); ++i) hidden[position][i] += attended[i];
      const Row x = reference.norm(hidden[position], prefix + "post_attention_layernorm");
      Row gate = reference.linear(x, prefix + "mlp.gate_proj");
      const Row up = reference.linear(x, prefix + "mlp.up_proj");
      for (size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1.0 + std::exp(-gate[i])) * up[i];
      const Row fed = reference.linear(gate, prefix + "mlp.down_proj");
      for (size_t i = 0; i < fed.size(); ++i) hidden[position][i] += fed[i];
    }
  }
  std::vector<std::vector<double>> logits;
  for (const Row& row : hidden) {
    logits.push_back(reference.linear(reference.norm(row, "model.norm"),
                                      config.tie_word_embeddings ? "model.embed_tokens" : "lm_head"));
  }
  return logits;
}

}  // namespace kadenz::test
