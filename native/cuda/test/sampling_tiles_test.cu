// Plain items bit for bit: every tile's statistics and every outcome against a naive twin that works all
// tokens out in full, one tile a warp; and the start that lets the kernel leave nearly all of them out, for
// every noise word there is.
#include "cuda/kernels/sampling_tiles.cuh"

#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "cuda/test/rows_device.cuh"
#include "cuda/test/sampling_world.cuh"

namespace kadenz::cuda::sampling_test {
namespace {

using rows_test::DeviceArray;

__device__ float naive_maximum(float value) {
  for (int step = 16; step > 0; step /= 2) {
    value = maximum_of(value, __shfl_xor_sync(kAllLanes, value, step));
  }
  return value;
}

__device__ SamplingTile naive_tile(const float* logits, uint32_t vocab, uint32_t first,
                                   const SampleParams& item) {
  const uint32_t lane = threadIdx.x;
  const auto token_of = [&](int k) { return first + k / 4 * 128 + lane * 4 + k % 4; };
  float own[16], maximum = -infinity();
  for (int k = 0; k < 16; ++k) {
    own[k] = token_of(k) < vocab ? logits[token_of(k)] : -infinity();
    maximum = maximum_of(maximum, own[k]);
  }
  maximum = naive_maximum(maximum);
  if (!(maximum > -infinity())) return {maximum, 0.0F, 0.0F, -1};
  const bool infinite = maximum == infinity();
  const RowView tile{logits, vocab, infinite ? 0.0F : maximum, item.scale, infinite};
  const float power_scale = __fmul_rn(item.is_processed != 0 ? item.scale : 1.0F, kLog2E);
  float sums[4];
  for (int k = 0; k < 16; ++k) {
    own[k] = tile.settled(own[k]);
    const float power = exp2_of(__fmul_rn(__fsub_rn(own[k], tile.maximum), power_scale));
    sums[k % 4] = k < 4 ? power : __fadd_rn(sums[k % 4], power);
  }
  float sum = __fadd_rn(__fadd_rn(sums[0], sums[1]), __fadd_rn(sums[2], sums[3]));
  for (int step = 16; step > 0; step /= 2) sum = __fadd_rn(sum, __shfl_xor_sync(kAllLanes, sum, step));
  if (item.score_token >= 0) return {maximum, sum, 0.0F, -1};

  const NoiseSource noise = noise_source(item);
  Candidate winner{-infinity(), -1};
  for (int k = 0; k < 16; ++k) {
    if (own[k] == -infinity()) continue;
    const uint32_t quad[1] = {token_of(k) / 4};
    uint32_t words[1][4];
    noise_words(noise, quad, words);
    const float drawn = __fadd_rn(tile.x_of(own[k]), gumbel_of(words[0][k % 4]));
    winner.meet(item.is_greedy != 0 ? own[k] : drawn, static_cast<int32_t>(token_of(k)));
  }
  for (int step = 16; step > 0; step /= 2) {
    const float value = __shfl_xor_sync(kAllLanes, winner.value, step);
    const int32_t id = __shfl_xor_sync(kAllLanes, winner.id, step);
    winner.meet(value, id);
  }
  return {maximum, sum, item.is_greedy != 0 ? 0.0F : winner.value, winner.id};
}

// grid (tiles, items), one warp each
__global__ void naive_tiles(const SamplingTarget target, const SampleParams* items, SamplingTile* tiles) {
  const SampleParams& item = items[blockIdx.y];
  const SamplingTile said = naive_tile(target.logits + item.output * target.logits_stride, target.vocab_size,
                                       blockIdx.x * kSamplingTile, item);
  if (threadIdx.x == 0) tiles[uint64_t{blockIdx.y} * gridDim.x + blockIdx.x] = said;
}

// one warp an item
__global__ void naive_fold(const SamplingTarget target, const SampleParams* items, const SamplingTile* tiles,
                           uint32_t count, SampleOutcome* outcomes) {
  const SampleParams& item = items[blockIdx.x];
  tiles += uint64_t{blockIdx.x} * count;
  const float sum_scale = item.is_processed != 0 ? item.scale : 1.0F;
  float maximum = -infinity();
  for (uint32_t t = threadIdx.x; t < count; t += 32) maximum = maximum_of(maximum, tiles[t].maximum);
  maximum = naive_maximum(maximum);
  SampleOutcome outcome{item.score_token, target.code_of_failure, not_a_number(), 0, 0};
  if (maximum > -infinity()) {
    const bool infinite = maximum == infinity();
    double sum = 0, best = 0;
    int32_t token = -1;
    const auto meet = [&](double value, int32_t id) {
      if (id < 0 || (token >= 0 && (value < best || (value == best && id > token)))) return;
      best = value;
      token = id;
    };
    for (uint32_t t = threadIdx.x; t < count; t += 32) {
      const SamplingTile tile = tiles[t];
      if (tile.maximum == -infinity() || (infinite && tile.maximum != infinity())) continue;
      const double behind =
          infinite ? 0.0 : static_cast<double>(tile.maximum) - static_cast<double>(maximum);
      const float factor = expf(static_cast<float>(__dmul_rn(behind, sum_scale)));
      sum = __dadd_rn(sum, __dmul_rn(tile.sum, factor));
      meet(__dadd_rn(tile.best, __dmul_rn(behind, item.scale)), tile.best_id);
    }
    for (int step = 16; step > 0; step /= 2) {
      sum = __dadd_rn(sum, __shfl_xor_sync(kAllLanes, sum, step));
      const double value = __shfl_xor_sync(kAllLanes, best, step);
      const int32_t id = __shfl_xor_sync(kAllLanes, token, step);
      meet(value, id);
    }
    if (item.score_token >= 0) token = item.score_token;
    outcome = {token, 0, not_a_number(), 0, 0};
    if (item.logprobs >= 0) {
      const RowView row{target.logits + item.output * target.logits_stride, target.vocab_size,
                        infinite ? 0.0F : maximum, sum_scale, infinite};
      outcome.logprob = __fsub_rn(row.x_of(row.at(token)), static_cast<float>(log(sum)));
    }
  }
  if (threadIdx.x == 0) outcomes[blockIdx.x] = outcome;
}

SampleParams plain_item(uint32_t row, uint32_t number) {
  SampleParams item{};
  item.seed = number + 1;
  item.output = row;
  item.outcome = number;
  item.position = 20;
  item.score_token = -1;
  item.scale = 1;
  item.least_x = -kInfinity;
  item.top_p = 1;
  item.repetition = 1;
  return item;
}

template <class Value>
uint32_t bits_of(Value value) {
  return std::bit_cast<uint32_t>(value);
}

// Rows lie `stride` apart, the first one `shift` elements from an aligned address.
void expect_naive(const std::vector<Row>& rows, const std::vector<SampleParams>& items, uint32_t stride,
                  uint32_t shift, const std::string& what) {
  const uint32_t vocab = static_cast<uint32_t>(rows[0].logits.size());
  const uint32_t count = static_cast<uint32_t>(items.size());
  const uint32_t num_tiles = sampling_tiles(vocab);
  std::vector<float> logits(rows.size() * stride, 1e30F);  // what lies between the rows would win
  for (size_t r = 0; r < rows.size(); ++r) {
    std::copy(rows[r].logits.begin(), rows[r].logits.end(),
              logits.begin() + static_cast<ptrdiff_t>(r * stride));
  }
  const DeviceArray<float> device_logits(logits, shift);
  const DeviceArray<SampleParams> device_items(items);
  const DeviceArray<SamplingTile> tiles(uint64_t{count} * num_tiles), twin_tiles(uint64_t{count} * num_tiles);
  const DeviceArray<SamplingTile> general_tiles(uint64_t{count} * num_tiles);
  const DeviceArray<SampleOutcome> outcomes(count), twin_outcomes(count), general_outcomes(count);
  const DeviceArray<int32_t> tokens(count);
  SamplingTarget target = {.logits = device_logits.data(),
                                 .logits_stride = stride,
                                 .first_output = 0,
                                 .vocab_size = vocab,
                                 .poisoned = nullptr,
                                 .code_of_failure = 70,
                                 .outcomes = outcomes.data(),
                                 .sampled_tokens = tokens.data(),
                                 .top_token_ids = nullptr,
                                 .top_logprobs = nullptr};
  sample_plain(target, device_items.data(), count, tiles.data(), nullptr);
  naive_tiles<<<dim3(num_tiles, count), 32>>>(target, device_items.data(), twin_tiles.data());
  check_launch("naive_tiles");
  naive_fold<<<count, 32>>>(target, device_items.data(), twin_tiles.data(), num_tiles, twin_outcomes.data());
  check_launch("naive_fold");
  target.outcomes = general_outcomes.data();  // the other way, which takes any item
  sample_general(target, device_items.data(), count, general_tiles.data(), nullptr, nullptr);

  const auto of_item = [&](size_t i) {
    return what + ", vocab " + std::to_string(vocab) + " stride " + std::to_string(stride) + " shift " +
           std::to_string(shift) + " item " + std::to_string(i) + " of " + std::to_string(count) + " row " +
           std::to_string(items[i].output) + " seed " + std::to_string(items[i].seed) + " scale " +
           std::to_string(items[i].scale) + " processed " + std::to_string(items[i].is_processed) +
           " greedy " + std::to_string(items[i].is_greedy) + " score " +
           std::to_string(items[i].score_token) +
           " KADENZ_NATIVE_SEED=" + std::to_string(test::base_seed());
  };
  const auto show_tile = [](const SamplingTile& tile) {
    return "maximum " + std::to_string(tile.maximum) + " sum " + std::to_string(tile.sum) + " best " +
           std::to_string(tile.best) + " of " + std::to_string(tile.best_id);
  };
  const std::vector<SamplingTile> got = tiles.read("plain_tiles"), expected = twin_tiles.read("naive_tiles");
  for (size_t i = 0; i < got.size(); ++i) {
    const bool same = bits_of(got[i].maximum) == bits_of(expected[i].maximum) &&
                      bits_of(got[i].sum) == bits_of(expected[i].sum) &&
                      bits_of(got[i].best) == bits_of(expected[i].best) &&
                      got[i].best_id == expected[i].best_id;
    if (same) continue;
    EXPECT_NOTE(same, of_item(i / num_tiles) + " tile " + std::to_string(i % num_tiles) + ": got " +
                          show_tile(got[i]) + ", expected " + show_tile(expected[i]));
  }
  const std::vector<SampleOutcome> twin = twin_outcomes.read("naive_fold");
  const auto expect_outcomes = [&](const std::vector<SampleOutcome>& said, const std::string& way) {
    for (size_t i = 0; i < count; ++i) {
      EXPECT_NOTE(said[i].token_id == twin[i].token_id && said[i].code == twin[i].code &&
                      bits_of(said[i].logprob) == bits_of(twin[i].logprob),
                  way + ", " + of_item(i) + ": got token " + std::to_string(said[i].token_id) + " code " +
                      std::to_string(said[i].code) + " logprob " + std::to_string(said[i].logprob) +
                      ", expected " + std::to_string(twin[i].token_id) + " code " +
                      std::to_string(twin[i].code) + " logprob " + std::to_string(twin[i].logprob));
    }
  };
  expect_outcomes(outcomes.read("plain_fold"), "plain");
  expect_outcomes(general_outcomes.read("general_items"), "general");
}

SampleParams random_plain_item(Random& random, const std::vector<Row>& rows, uint32_t number) {
  SampleParams item = plain_item(static_cast<uint32_t>(random.bits() % rows.size()), number);
  item.seed = random.bits();
  item.position = static_cast<uint32_t>(random.integer(1, 5000));
  item.sample = static_cast<uint32_t>(random.integer(0, 100));
  item.logprobs = random.one_of({-1, 0, 0});
  item.is_processed = random.bits() % 2;
  item.scale = random.one_of({1.0F, 1.0F, 1 / 0.7F, 1 / 0.3F, 100.0F, 0.3F, 0.01F, 1e5F, 1e-20F, 1e20F});
  if (random.bits() % 5 == 0) item.is_greedy = 1, item.scale = 1;
  if (random.bits() % 5 == 0) item.score_token = static_cast<int32_t>(random.bits() % rows[0].logits.size());
  return item;
}

// Rows of every kind: those of random_row, and the ones that need care.
std::vector<Row> many_rows(Random& random, uint32_t vocab) {
  std::vector<Row> rows;
  for (int i = 0; i < 14; ++i) rows.push_back(random_row(random, vocab));
  const auto place = [&] { return random.bits() % vocab; };
  rows[0].logits.assign(vocab, -3.0F);
  rows[1].logits.assign(vocab, 0.0F);
  rows[1].logits[place()] = 6.0F;  // the largest rarely wins
  for (size_t i = 0; i < vocab; ++i) {
    if (i / kSamplingTile % 2 == 1) rows[2].logits[i] = -kInfinity;  // whole tiles
  }
  rows[3].logits[place()] = kNaN;
  rows[4].logits[place()] = kInfinity, rows[4].logits[place()] = kInfinity;
  rows[5].logits[place()] = kInfinity, rows[5].logits[place()] = kNaN;
  rows[6].logits.assign(vocab, -kInfinity);
  rows[7].logits.assign(vocab, -kInfinity), rows[7].logits[place()] = -1e30F;
  rows[8].logits.assign(vocab, -0.0F), rows[8].logits[place()] = 0.0F;
  for (float& logit : rows[9].logits) logit *= 40;
  for (float& logit : rows[10].logits) logit += 1e4F;
  return rows;
}

// By how much a token's start is behind its true place, for every word and many x: the most of each thread.
__global__ void rounding_of_words(double* largest) {
  const uint32_t thread = blockIdx.x * blockDim.x + threadIdx.x;
  const uint32_t threads = gridDim.x * blockDim.x;
  constexpr float kScales[] = {1.0F, 1 / 0.7F, 100.0F, 0.013F};
  double most = -1e300;
  for (uint64_t word = thread; word < 1ULL << 32; word += threads) {
    const uint64_t mixed = (word * 0x9e3779b97f4a7c15ULL) ^ (word << 29);
    const float scale = kScales[mixed >> 62];
    const float behind = -static_cast<float>(mixed >> 20 & 0xffffff) * 0x1p-24F * 30.0F / scale;
    const Race race = race_of(scale);
    const double start = race.start_of(static_cast<uint32_t>(word), behind);
    const float value = __fadd_rn(__fmul_rn(behind, scale), gumbel_of(static_cast<uint32_t>(word)));
    most = fmax(most, scale * start - 32 * 0.6931471805599453 + value);
  }
  largest[thread] = most;
}

}  // namespace

TEST("sampling tiles: no word's start is behind its true place by more than a quarter of what is allowed") {
  constexpr uint32_t kThreads = 1024 * 256;
  const DeviceArray<double> largest(kThreads);
  rounding_of_words<<<1024, 256>>>(largest.data());
  check_launch("rounding_of_words");
  double most = -1e300;
  for (const double value : largest.read("rounding_of_words")) most = std::fmax(most, value);
  EXPECT_NOTE(most < kRounding / 4.0, "behind by " + std::to_string(most * 1e6) + "e-6");
  EXPECT_NOTE(most > -3e-5, "behind by " + std::to_string(most * 1e6) + "e-6: worse than need be");
}

TEST("sampling tiles: tiles and outcomes have the bits of the full comparison, for rows of every kind") {
  for (const uint32_t vocab : {1U, 5U, 413U, 511U, 512U, 513U, 2047U, 4001U, 32000U}) {
    Random random(1100 + vocab);
    const std::vector<Row> rows = many_rows(random, vocab);
    for (const uint32_t gap : {0U, 3U, 64U}) {
      std::vector<SampleParams> items;
      for (uint32_t i = 0; i < 150; ++i) items.push_back(random_plain_item(random, rows, i));
      expect_naive(rows, items, vocab + gap, gap == 3 ? 1 : 0, "many rows");
    }
  }
}

TEST("sampling tiles: the bits don't depend on how many tiles a warp works out in a go") {
  constexpr uint32_t kVocab = 151936;
  Random random(1200);
  const std::vector<Row> rows = many_rows(random, kVocab);
  for (const uint32_t count : {1U, 30U, 64U, 100U, 512U}) {  // 1, 1, 2, 3 and 8 tiles on 132 multiprocessors
    std::vector<SampleParams> items;
    for (uint32_t i = 0; i < count; ++i) items.push_back(random_plain_item(random, rows, i));
    expect_naive(rows, items, kVocab, 0, "together");
  }
}

TEST("sampling tiles: the smallest and the largest noise words win and lose as in the full comparison") {
  const struct {
    uint64_t seed;
    uint32_t token, word;
  } extremes[] = {{4741155, 267, 0},         {9207810, 175, 0},         {15379437, 229, 0},
                  {18011102, 4, 0},          {27524825, 362, 0},        {28006589, 188, 0},
                  {24271671, 58, UINT32_MAX}, {35140689, 363, UINT32_MAX}};
  for (const auto& extreme : extremes) {
    EXPECT(noise_word({extreme.seed, 20, 0}, extreme.token) == extreme.word);
    Random random(1300);
    std::vector<Row> rows;
    std::vector<SampleParams> items;
    const auto add = [&](float scale) {  // of the row that comes next
      items.push_back(plain_item(static_cast<uint32_t>(rows.size()), static_cast<uint32_t>(items.size())));
      items.back().seed = extreme.seed;
      items.back().scale = scale;
    };
    for (const float x : {0.0F, -5.0F, -10.0F, -19.0F, -21.0F, -23.0F, -26.0F, -40.0F, -90.0F, -kInfinity}) {
      for (const float others : {0.0F, 0.5F, 2.5F, 12.0F}) {
        Row row;
        row.logits.resize(512);
        for (float& logit : row.logits) logit = bell(random, others);
        row.logits[(extreme.token + 77) % 512] = 3 * others;  // the largest
        row.logits[extreme.token] = 3 * others + x;
        add(1.0F);
        add(3.0F);
        rows.push_back(row);
        for (float& logit : row.logits) logit = -kInfinity;  // alone, or with one other
        row.logits[extreme.token] = x;
        if (others > 0) row.logits[(extreme.token + 200) % 512] = 0;
        add(1.0F);
        rows.push_back(row);
      }
    }
    expect_naive(rows, items, 512, 0, "extreme word of seed " + std::to_string(extreme.seed));
  }
}

}  // namespace kadenz::cuda::sampling_test
