// The passes over logits: noise against Philox's known answers, bits between instruction sets, and naive
// twins.
#include "host/logit_kernels.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "check.h"
#include "cpu/isa.h"
#include "host/philox.h"
#include "random.h"

namespace kadenz::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kSizes[] = {1, 2, 15, 16, 17, 63, 64, 65, 97, 1000, 4096, 49159};

std::vector<const LogitKernels*> runnable_logit_kernels() {
  std::vector<const LogitKernels*> tables;
  for (const CpuIsa isa : {CpuIsa::kScalar, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
    if (cpu_isa_available(isa)) tables.push_back(&logit_kernels(isa));
  }
  return tables;
}

std::vector<float> random_row(Random& random, int64_t count, float spread) {
  std::vector<float> logits = random.floats(static_cast<uint64_t>(count), spread);
  for (int64_t i = 0; i < count / 10; ++i) logits[random.bits() % logits.size()] = -kInfinity;
  if (!std::isfinite(logits[0])) logits[0] = spread;
  return logits;
}

ScaledRow scaled_row(const LogitKernels& kernels, const std::vector<float>& logits, float scale) {
  bool has_nan = false;
  const float maximum = kernels.maximum(logits.data(), static_cast<int64_t>(logits.size()), &has_nan);
  EXPECT(!has_nan);
  return {logits.data(), static_cast<int64_t>(logits.size()), maximum, scale};
}

}  // namespace

TEST("Philox4x32-10 gives its authors' known answers") {
  const auto same = [](const PhiloxBlock& block, const std::vector<uint32_t>& words) {
    return std::memcmp(block.word, words.data(), sizeof block.word) == 0;
  };
  EXPECT(same(philox({{0, 0, 0, 0}}, 0, 0), {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT(same(philox({{~0U, ~0U, ~0U, ~0U}}, ~0U, ~0U), {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT(same(philox({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0),
              {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST("a token's noise word depends on seed, position, sample and vocabulary index, each of them") {
  const NoiseKey key{0x0123456789abcdefULL, 17, 3};
  const uint32_t word = noise_word(key, 1234);
  EXPECT(word == noise_word(key, 1234));
  EXPECT(word != noise_word(key, 1235) && word != noise_word(key, 1238));
  EXPECT(word != noise_word({key.seed ^ 1, 17, 3}, 1234) &&
         word != noise_word({key.seed ^ (1ULL << 40), 17, 3}, 1234));
  EXPECT(word != noise_word({key.seed, 18, 3}, 1234) && word != noise_word({key.seed, 17, 4}, 1234));
}

TEST("Gumbel noise is -ln(-ln(1 - v)) within float rounding, finite at both ends, on every instruction set") {
  std::vector<uint32_t> words = {0, 1, 2, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff};
  Random random(40);
  for (int i = 0; i < 20000; ++i) words.push_back(static_cast<uint32_t>(random.bits() >> (i % 33)));
  std::vector<float> first;
  for (const LogitKernels* kernels : runnable_logit_kernels()) {
    std::vector<float> noise(words.size());
    kernels->gumbel(words.data(), static_cast<int64_t>(words.size()), noise.data());
    for (size_t i = 0; i < words.size(); ++i) {
      const double v = std::min(std::fma(static_cast<float>(words[i]), 0x1p-32F, 0x1p-33F), 1.0F - 0x1p-24F);
      const double exact = -std::log(-std::log1p(-v));
      EXPECT_NOTE(std::isfinite(noise[i]) && std::fabs(noise[i] - exact) < 3e-6, std::to_string(words[i]));
    }
    if (first.empty()) first = noise;
    EXPECT(std::memcmp(first.data(), noise.data(), first.size() * sizeof(float)) == 0);
  }
}

TEST("every pass over a row gives the same on every instruction set, for any vocabulary size") {
  Random random(41);
  for (const int64_t count : kSizes) {
    const std::vector<float> logits = random_row(random, count, 20.0F);
    const ScaledRow row = scaled_row(scalar_logit_kernels(), logits, 0.7F);
    const NoiseKey key{random.bits(), static_cast<uint32_t>(random.bits()), 2};
    const size_t groups = static_cast<size_t>((count + kLogitGroup - 1) / kLogitGroup);
    std::vector<float> maxima(groups);
    scalar_logit_kernels().group_maxima(logits.data(), count, maxima.data());
    const double sum = scalar_logit_kernels().exp_sum(row);
    const int64_t winner = scalar_logit_kernels().noisy_argmax(row, key, nullptr);
    for (const LogitKernels* kernels : runnable_logit_kernels()) {
      bool has_nan = true;
      EXPECT(kernels->maximum(logits.data(), count, &has_nan) == row.maximum && !has_nan);
      std::vector<float> own(groups);
      kernels->group_maxima(logits.data(), count, own.data());
      EXPECT(own == maxima);
      EXPECT(std::bit_cast<uint64_t>(kernels->exp_sum(row)) == std::bit_cast<uint64_t>(sum));
      double fused = 0;
      EXPECT(kernels->noisy_argmax(row, key, nullptr) == winner);
      EXPECT(kernels->noisy_argmax(row, key, &fused) == winner);
      EXPECT(std::bit_cast<uint64_t>(fused) == std::bit_cast<uint64_t>(sum));
      const int64_t middle = count / 2;
      EXPECT(kernels->count_ahead(logits.data(), count, middle) ==
             scalar_logit_kernels().count_ahead(logits.data(), count, middle));
      EXPECT(kernels->find(logits.data(), count, logits[static_cast<size_t>(middle)]) <= middle);
      EXPECT(kernels->find(logits.data(), count, 12345.0F) == count);
    }
  }
}

TEST("maximum, sum and place in the order agree with their plain definitions") {
  Random random(42);
  for (const int64_t count : kSizes) {
    std::vector<float> logits = random_row(random, count, 5.0F);
    if (count > 20) logits[7] = logits[9] = logits[static_cast<size_t>(count) - 1] = 2.5F;
    for (const LogitKernels* kernels : runnable_logit_kernels()) {
      const ScaledRow row = scaled_row(*kernels, logits, 1.3F);
      double sum = 0;
      for (const float logit : logits) sum += std::exp((static_cast<double>(logit) - row.maximum) * 1.3);
      EXPECT(std::fabs(kernels->exp_sum(row) / sum - 1) < 1e-5);
      for (const int64_t index : {int64_t{0}, count / 2, count - 1}) {
        int64_t ahead = 0;
        for (int64_t i = 0; i < count; ++i) {
          const float logit = logits[static_cast<size_t>(i)], own = logits[static_cast<size_t>(index)];
          ahead += logit > own || (logit == own && i < index) ? 1 : 0;
        }
        EXPECT(kernels->count_ahead(logits.data(), count, index) == ahead);
      }
    }
  }
}

TEST("a NaN anywhere in a row is seen") {
  for (const LogitKernels* kernels : runnable_logit_kernels()) {
    for (const int64_t count : {1, 17, 64, 65, 200}) {
      for (int64_t at = 0; at < count; ++at) {
        std::vector<float> logits(static_cast<size_t>(count), 1.0F);
        bool has_nan = true;
        kernels->maximum(logits.data(), count, &has_nan);
        EXPECT(!has_nan);
        logits[static_cast<size_t>(at)] = std::numeric_limits<float>::quiet_NaN();
        kernels->maximum(logits.data(), count, &has_nan);
        EXPECT(has_nan);
      }
    }
  }
}

TEST("passing over tokens that can't win gives the winner of the full comparison") {
  Random random(43);
  for (int round = 0; round < 300; ++round) {
    const int64_t count = random.integer(1, 3000);
    const float spread = random.one_of({0.0F, 0.1F, 3.0F, 15.0F, 80.0F});
    const std::vector<float> logits = random_row(random, count, spread);
    const NoiseKey key{random.bits(), static_cast<uint32_t>(round), 0};
    for (const LogitKernels* kernels : runnable_logit_kernels()) {
      const ScaledRow row = scaled_row(*kernels, logits, random.one_of({0.2F, 1.0F, 5.0F}));
      std::vector<uint32_t> words(logits.size());
      for (size_t i = 0; i < words.size(); ++i) words[i] = noise_word(key, static_cast<uint32_t>(i));
      std::vector<float> values(logits.size());
      kernels->gumbel(words.data(), count, values.data());
      size_t best = 0;
      for (size_t i = 0; i < values.size(); ++i) {
        values[i] = (logits[i] - row.maximum) * row.scale + values[i];
        if (values[i] > values[best]) best = i;
      }
      EXPECT(kernels->noisy_argmax(row, key, nullptr) == static_cast<int64_t>(best));
    }
  }
}

}  // namespace kadenz::test
