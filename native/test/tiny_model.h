// Small random models in a temporary weights file, and the plainest possible decoder to hold the real one
// against.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "model/model_config.h"
#include "model/weights.h"
#include "random.h"

namespace kadenz::test {

// A file of our own in the temporary folder, removed at the end.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& bytes);
  ~TemporaryFile();
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

uint16_t narrow_float16(float value);  // to nearest even
// The bytes of values in a dtype; the values become what the bytes say.
std::string encode(std::vector<float>& values, DType dtype);

struct TinyModel {
  ModelConfig config;
  std::map<std::string, std::vector<float>> tensors;  // as stored, widened
  std::vector<TensorDescription> descriptions;
  std::string bytes;

  WeightFiles open(const TemporaryFile& file) const { return WeightFiles({file.path()}, descriptions); }
};

// Which differences of the supported architectures a model has.
struct TinyOptions {
  DType dtype = DType::kFloat32;
  bool qkv_bias = false, output_bias = false, mlp_bias = false, qk_norm = false, tied = false;
  int64_t sliding_window = 0;  // on every second layer
  RopeConfig rope;
  int64_t head_dim = 0, heads = 0, key_value_heads = 0;  // 0 = drawn
};

TinyModel make_tiny_model(Random& random, const TinyOptions& options);

// Logits after each token of one sequence, in double with the C library's functions: [token][vocab].
std::vector<std::vector<double>> reference_logits(const TinyModel& model, const std::vector<int32_t>& tokens);

}  // namespace kadenz::test
