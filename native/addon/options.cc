#include "addon/options.h"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

namespace kadenz {
namespace {

// Reads one object's fields; `path` names it in errors.
class Fields {
 public:
  Fields(Napi::Object object, std::string path) : object_(object), path_(std::move(path)) {}

  Napi::Value value(const char* name) const { return object_.Get(name); }
  bool has(const char* name) const { return !value(name).IsUndefined() && !value(name).IsNull(); }

  double number(const char* name) const {
    const Napi::Value found = value(name);
    if (!found.IsNumber()) fail(name, "a number");
    return found.As<Napi::Number>().DoubleValue();
  }
  int64_t integer(const char* name, int64_t least, int64_t most) const {
    const double found = number(name);
    if (std::trunc(found) != found || found < static_cast<double>(least) ||
        found > static_cast<double>(most)) {
      fail(name, "an integer from " + std::to_string(least) + " to " + std::to_string(most));
    }
    return static_cast<int64_t>(found);
  }
  int64_t size(const char* name) const { return integer(name, 0, kMostSafe); }
  uint32_t count(const char* name) const {
    return static_cast<uint32_t>(integer(name, 0, std::numeric_limits<uint32_t>::max()));
  }
  bool boolean(const char* name) const {
    const Napi::Value found = value(name);
    if (!found.IsBoolean()) fail(name, "a boolean");
    return found.As<Napi::Boolean>().Value();
  }
  std::string text(const char* name) const {
    const Napi::Value found = value(name);
    if (!found.IsString()) fail(name, "a string");
    return found.As<Napi::String>().Utf8Value();
  }
  Napi::Array array(const char* name) const {
    const Napi::Value found = value(name);
    if (!found.IsArray()) fail(name, "an array");
    return found.As<Napi::Array>();
  }
  Fields fields(const char* name) const {
    const Napi::Value found = value(name);
    if (!found.IsObject()) fail(name, "an object");
    return {found.As<Napi::Object>(), path_ + name + "."};
  }
  // One of the names, by its index
  template <class Enum>
  Enum choice(const char* name, std::initializer_list<const char*> names) const {
    const std::string found = text(name);
    std::string list;
    uint8_t index = 0;
    for (const char* candidate : names) {
      if (found == candidate) return static_cast<Enum>(index);
      list += (index++ == 0 ? "" : ", ") + std::string(candidate);
    }
    fail(name, "one of " + list);
  }
  [[noreturn]] void fail(const std::string& name, const std::string& expected) const {
    throw Napi::TypeError::New(object_.Env(), "NativeHost: " + path_ + name + " must be " + expected + ".");
  }

 private:
  static constexpr int64_t kMostSafe = (int64_t{1} << 53) - 1;

  Napi::Object object_;
  std::string path_;
};

RopeConfig read_rope(const Fields& fields) {
  RopeConfig rope;
  rope.kind = fields.choice<RopeKind>("kind", {"default", "linear", "llama3", "yarn"});
  rope.theta = fields.number("theta");
  rope.factor = fields.number("factor");
  rope.low_freq_factor = fields.number("lowFreqFactor");
  rope.high_freq_factor = fields.number("highFreqFactor");
  rope.original_max_position_embeddings = fields.size("originalMaxPositionEmbeddings");
  rope.beta_fast = fields.number("betaFast");
  rope.beta_slow = fields.number("betaSlow");
  rope.attention_factor = fields.number("attentionFactor");
  rope.truncate = fields.boolean("truncate");
  return rope;
}

ModelConfig read_config(const Fields& fields) {
  ModelConfig config;
  config.hidden_size = fields.size("hiddenSize");
  config.intermediate_size = fields.size("intermediateSize");
  config.num_layers = fields.size("numLayers");
  config.num_attention_heads = fields.size("numAttentionHeads");
  config.num_key_value_heads = fields.size("numKeyValueHeads");
  config.head_dim = fields.size("headDim");
  config.vocab_size = fields.size("vocabSize");
  config.max_position_embeddings = fields.size("maxPositionEmbeddings");
  config.rms_norm_eps = fields.number("rmsNormEps");
  config.rope = read_rope(fields.fields("rope"));
  config.attention_bias = fields.boolean("attentionBias");
  config.attention_output_bias = fields.boolean("attentionOutputBias");
  config.mlp_bias = fields.boolean("mlpBias");
  config.qk_norm = fields.boolean("qkNorm");
  config.tie_word_embeddings = fields.boolean("tieWordEmbeddings");
  config.sliding_window = fields.size("slidingWindow");
  const Napi::Array windowed = fields.array("layerUsesSlidingWindow");
  for (uint32_t i = 0; i < windowed.Length(); ++i) {
    config.layer_uses_sliding_window.push_back(windowed.Get(i).ToBoolean().Value() ? 1 : 0);
  }
  return config;
}

std::vector<TensorDescription> read_tensors(const Fields& options) {
  const Napi::Array list = options.array("tensors");
  std::vector<TensorDescription> tensors;
  tensors.reserve(list.Length());
  for (uint32_t i = 0; i < list.Length(); ++i) {
    const Napi::HandleScope scope(list.Env());
    const std::string path = "tensors[" + std::to_string(i) + "]";
    const Napi::Value entry = list.Get(i);
    if (!entry.IsObject()) options.fail(path, "an object");
    const Fields fields(entry.As<Napi::Object>(), path + ".");
    TensorDescription tensor;
    tensor.name = fields.text("name");
    tensor.dtype = fields.choice<DType>("dtype", {"float32", "float16", "bfloat16"});
    const Napi::Array shape = fields.array("shape");
    for (uint32_t k = 0; k < shape.Length(); ++k) {
      const Napi::Value size = shape.Get(k);
      if (!size.IsNumber()) fields.fail("shape", "an array of numbers");
      tensor.shape.push_back(size.As<Napi::Number>().Int64Value());
    }
    tensor.file = static_cast<int32_t>(fields.integer("file", 0, std::numeric_limits<int32_t>::max()));
    tensor.begin_bytes = static_cast<uint64_t>(fields.size("beginBytes"));
    tensor.end_bytes = static_cast<uint64_t>(fields.size("endBytes"));
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

void read_cuda(const Fields& fields, HostOptions& options) {
  CudaOptions& cuda = options.cuda;
  cuda.plugin_path = fields.text("pluginPath");
  cuda.device_index = fields.count("deviceIndex");
  cuda.gpu_memory_utilization = fields.number("gpuMemoryUtilization");
  cuda.graphs = fields.boolean("cudaGraphs");
  cuda.unrestricted_matmul = fields.boolean("unrestrictedMatmul");
  cuda.fit_blocks = options.limits.num_blocks == 0;
  if (cuda.fit_blocks) options.limits.num_blocks = fields.count("mostBlocks");
}

// Called back while the host is made, in the same thread and call.
Progress read_progress(const Napi::Object& object) {
  const Napi::Value callback = object.Get("progress");
  if (!callback.IsFunction()) return {};
  const Napi::Function function = callback.As<Napi::Function>();
  return [function](const char* stage, uint64_t done, uint64_t total) {
    const Napi::Env env = function.Env();
    const Napi::HandleScope scope(env);
    function.Call({Napi::String::New(env, stage), Napi::Number::New(env, static_cast<double>(done)),
                   Napi::Number::New(env, static_cast<double>(total))});
  };
}

}  // namespace

HostOptions read_host_options(const Napi::Object& object) {
  const Fields fields(object, "");
  HostOptions options;
  options.config = read_config(fields.fields("config"));
  options.tensors = read_tensors(fields);
  const Napi::Array files = fields.array("files");
  for (uint32_t i = 0; i < files.Length(); ++i) {
    const Napi::Value path = files.Get(i);
    if (!path.IsString()) fields.fail("files", "an array of strings");
    options.files.push_back(path.As<Napi::String>().Utf8Value());
  }
  options.dtype = fields.choice<DType>("dtype", {"float32", "float16", "bfloat16"});
  options.limits.num_blocks = fields.count("numBlocks");
  options.limits.block_size = fields.count("blockSize");
  options.limits.max_num_seqs = fields.count("maxNumSeqs");
  options.limits.max_model_len = fields.count("maxModelLen");
  options.limits.max_num_batched_tokens = fields.count("maxNumBatchedTokens");
  options.num_threads = fields.count("numThreads");
  if (fields.has("device")) options.device = fields.choice<DeviceKind>("device", {"cpu", "cuda"});
  if (options.device == DeviceKind::kCuda) read_cuda(fields, options);
  if (fields.has("isa")) options.isa = fields.choice<CpuIsa>("isa", {"scalar", "avx2", "avx512"});
  options.progress = read_progress(object);
  return options;
}

}  // namespace kadenz
