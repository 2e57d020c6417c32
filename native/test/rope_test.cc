// Our own log, exp, pow, sine and cosine, and the rotary frequencies made from them.
#include <cmath>

#include "check.h"
#include "model/exact_math.h"
#include "model/rope.h"
#include "random.h"

namespace kadenz::test {
namespace {

bool close(double a, double b, double relative) {
  return std::fabs(a - b) <= relative * std::fabs(b) + 1e-300;
}

double plain_frequency(double theta, size_t pair, int64_t head_dim) {
  return std::pow(theta, -2.0 * static_cast<double>(pair) / static_cast<double>(head_dim));
}

}  // namespace

TEST("log, exp, pow, sine and cosine agree with the C library to a few units in the last place of a double") {
  Random random(51);
  for (int round = 0; round < 20000; ++round) {
    const double u = static_cast<double>(random.uniform());
    const double positive = std::exp(u * 80);
    EXPECT(std::fabs(exact_log(positive) - std::log(positive)) <
           2e-15 * std::max(1.0, std::fabs(std::log(positive))));
    EXPECT(close(exact_exp(u * 300), std::exp(u * 300), 1e-15));
    EXPECT(close(exact_pow(1e6, std::fabs(u)), std::pow(1e6, std::fabs(u)), 4e-15));
    const double angle = u * 1e6;
    double sine = 0, cosine = 0;
    exact_sin_cos(angle, &sine, &cosine);
    EXPECT(std::fabs(sine - std::sin(angle)) < 1e-15 && std::fabs(cosine - std::cos(angle)) < 1e-15);
  }
}

TEST("plain and linear rotary frequencies are powers of theta, the linear ones slowed by the factor") {
  for (const int64_t head_dim : {2, 20, 64, 80, 128}) {
    const std::vector<float> plain = rope_inverse_frequencies({RopeKind::kDefault, 500000.0}, head_dim);
    const std::vector<float> linear = rope_inverse_frequencies({RopeKind::kLinear, 500000.0, 4.0}, head_dim);
    EXPECT(plain.size() == static_cast<size_t>(head_dim / 2) && plain[0] == 1.0F);
    for (size_t i = 0; i < plain.size(); ++i) {
      EXPECT(close(static_cast<double>(plain[i]), plain_frequency(500000.0, i, head_dim), 1e-6));
      EXPECT(linear[i] == plain[i] / 4.0F);
    }
  }
}

TEST("llama3 frequencies keep short wavelengths, slow long ones by the factor, and blend between") {
  const RopeConfig rope{RopeKind::kLlama3, 500000.0, 8.0, 1.0, 4.0, 8192};
  const std::vector<float> frequencies = rope_inverse_frequencies(rope, 128);
  int kept = 0, slowed = 0, blended = 0;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double plain = plain_frequency(500000.0, i, 128);
    const double wavelength = 2 * 3.14159265358979323846 / plain;
    double expected = plain;
    if (wavelength > 8192.0 / 1.0) {
      expected = plain / 8.0, ++slowed;
    } else if (wavelength < 8192.0 / 4.0) {
      ++kept;
    } else {
      const double smooth = (8192.0 / wavelength - 1.0) / (4.0 - 1.0);
      expected = (1 - smooth) * plain / 8.0 + smooth * plain, ++blended;
    }
    EXPECT(close(static_cast<double>(frequencies[i]), expected, 3e-6));
  }
  EXPECT(kept > 0 && slowed > 0 && blended > 0);
}

TEST("yarn frequencies keep dimensions that turn often, slow those that turn rarely, along a ramp") {
  for (const bool truncate : {true, false}) {
    RopeConfig rope{RopeKind::kYarn, 10000.0, 16.0};
    rope.original_max_position_embeddings = 4096, rope.beta_fast = 32, rope.beta_slow = 1,
    rope.truncate = truncate;
    const std::vector<float> frequencies = rope_inverse_frequencies(rope, 128);
    const auto dimension = [&](double turns) {
      return 128 * std::log(4096 / (turns * 2 * 3.14159265358979323846)) / (2 * std::log(10000.0));
    };
    double low = dimension(32), high = dimension(1);
    if (truncate) low = std::floor(low), high = std::ceil(high);
    for (size_t i = 0; i < frequencies.size(); ++i) {
      const double plain = plain_frequency(10000.0, i, 128);
      const double ramp = std::min(1.0, std::max(0.0, (static_cast<double>(i) - low) / (high - low)));
      EXPECT(close(static_cast<double>(frequencies[i]), plain / 16.0 * ramp + plain * (1 - ramp), 3e-6));
    }
    EXPECT(frequencies[1] > 0.8F &&
           frequencies[63] < static_cast<float>(plain_frequency(10000.0, 63, 128)) / 15);
  }
}

}  // namespace kadenz::test
