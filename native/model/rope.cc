#include "model/rope.h"

#include <algorithm>
#include <cmath>

#include "model/exact_math.h"

namespace kadenz {
namespace {

constexpr double kPi = 3.14159265358979323846;

// theta ^ (2i / head_dim)
std::vector<float> wavelength_scales(double theta, int64_t head_dim) {
  std::vector<float> scales;
  const double base = static_cast<double>(static_cast<float>(theta));
  for (int64_t i = 0; i < head_dim; i += 2) {
    const float exponent = static_cast<float>(i) / static_cast<float>(head_dim);
    scales.push_back(static_cast<float>(exact_pow(base, static_cast<double>(exponent))));
  }
  return scales;
}

// Long wavelengths are stretched by the factor, short ones kept, those between blended.
void apply_llama3(const RopeConfig& rope, std::vector<float>& frequencies) {
  const double context = static_cast<double>(rope.original_max_position_embeddings);
  const float long_wavelength = static_cast<float>(context / rope.low_freq_factor);
  const float short_wavelength = static_cast<float>(context / rope.high_freq_factor);
  const float factor = static_cast<float>(rope.factor);
  const float low = static_cast<float>(rope.low_freq_factor);
  const float width = static_cast<float>(rope.high_freq_factor - rope.low_freq_factor);
  for (float& frequency : frequencies) {
    const float wavelength = (1.0F / frequency) * static_cast<float>(2.0 * kPi);
    if (wavelength > long_wavelength) {
      frequency = frequency / factor;
    } else if (!(wavelength < short_wavelength)) {
      const float smooth = ((1.0F / wavelength) * static_cast<float>(context) - low) / width;
      frequency = (1.0F - smooth) * frequency / factor + smooth * frequency;
    }
  }
}

// The dimension whose wavelength turns num_rotations times within the original context.
double correction_dimension(const RopeConfig& rope, double num_rotations, int64_t head_dim) {
  const double context = static_cast<double>(rope.original_max_position_embeddings);
  return static_cast<double>(head_dim) * exact_log(context / (num_rotations * 2.0 * kPi)) /
         (2.0 * exact_log(rope.theta));
}

void apply_yarn(const RopeConfig& rope, int64_t head_dim, std::vector<float>& frequencies,
                const std::vector<float>& scales) {
  double low = correction_dimension(rope, rope.beta_fast, head_dim);
  double high = correction_dimension(rope, rope.beta_slow, head_dim);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(head_dim - 1));
  if (low == high) high += 0.001;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float position = (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low);
    const float ramp = std::min(std::max(position, 0.0F), 1.0F);
    const float keep = 1.0F - ramp;
    const float interpolated = 1.0F / (static_cast<float>(rope.factor) * scales[i]);
    frequencies[i] = interpolated * (1.0F - keep) + frequencies[i] * keep;
  }
}

}  // namespace

std::vector<float> rope_inverse_frequencies(const RopeConfig& rope, int64_t head_dim) {
  const std::vector<float> scales = wavelength_scales(rope.theta, head_dim);
  std::vector<float> frequencies;
  for (const float scale : scales) frequencies.push_back(1.0F / scale);
  switch (rope.kind) {
    case RopeKind::kDefault: break;
    case RopeKind::kLinear:
      for (float& frequency : frequencies) frequency /= static_cast<float>(rope.factor);
      break;
    case RopeKind::kLlama3: apply_llama3(rope, frequencies); break;
    case RopeKind::kYarn: apply_yarn(rope, head_dim, frequencies, scales); break;
  }
  return frequencies;
}

}  // namespace kadenz
