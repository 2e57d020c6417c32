// The whole decoder on small random models: against the plain reference, and bit for bit whatever else
// happens around a sequence.
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "check.h"
#include "cpu/cpu_ops.h"
#include "kernel_tables.h"
#include "model/decoder.h"
#include "tiny_model.h"

namespace kadenz::test {
namespace {

using Logits = std::vector<std::vector<float>>;  // by position

struct Rig {
  std::unique_ptr<Ops> ops;
  std::unique_ptr<Decoder> decoder;
  int64_t vocab_size;
  uint32_t block_size;

  Rig(const TinyModel& model, const CacheShape& cache, const CpuOptions& options = {1, {}})
      : ops(make_cpu_ops(options)), vocab_size(model.config.vocab_size), block_size(cache.block_size) {
    const TemporaryFile file(model.bytes);
    WeightFiles weights = model.open(file);
    decoder = std::make_unique<Decoder>(model.config, weights, *ops, cache);
  }
  ~Rig() { decoder.reset(); }

  std::vector<float> row(uint32_t index) {
    std::vector<float> logits(static_cast<size_t>(vocab_size));
    decoder->logits(index, 1, logits.data());
    return logits;
  }
};

// A sequence with its blocks, fed in portions.
struct Feed {
  std::vector<int32_t> tokens;
  std::vector<uint32_t> table;
  uint32_t done = 0;
  Logits logits;
};

// One step: so many tokens of each feed (0 = it sits out), every row's logits kept.
void step(Rig& rig, std::vector<Feed*> feeds, const std::vector<uint32_t>& counts,
          std::vector<BlockCopy> copies = {}) {
  std::vector<int32_t> tokens;
  std::vector<SequenceSpan> spans;
  std::vector<uint32_t> outputs;
  for (size_t i = 0; i < feeds.size(); ++i) {
    Feed& feed = *feeds[i];
    const uint32_t count =
        std::min<uint32_t>(counts[i], static_cast<uint32_t>(feed.tokens.size()) - feed.done);
    if (count == 0) continue;
    spans.push_back({static_cast<uint32_t>(tokens.size()), count, feed.done, feed.table.data(),
                     static_cast<uint32_t>(feed.table.size())});
    for (uint32_t row = 0; row < count; ++row) {
      outputs.push_back(static_cast<uint32_t>(tokens.size()));
      tokens.push_back(feed.tokens[feed.done + row]);
    }
  }
  rig.decoder->forward({tokens, spans, copies, outputs});
  uint32_t output = 0;
  for (size_t i = 0; i < feeds.size(); ++i) {
    Feed& feed = *feeds[i];
    const uint32_t count =
        std::min<uint32_t>(counts[i], static_cast<uint32_t>(feed.tokens.size()) - feed.done);
    for (uint32_t row = 0; row < count; ++row) feed.logits.push_back(rig.row(output++));
    feed.done += count;
  }
}

std::vector<int32_t> draw_tokens(Random& random, const TinyModel& model, int64_t count) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i)
    tokens.push_back(static_cast<int32_t>(random.integer(0, model.config.vocab_size - 1)));
  return tokens;
}

// Blocks for `positions`, taken from a pool in an order of its own.
std::vector<uint32_t> blocks_for(uint32_t first, uint32_t step_size, size_t positions, uint32_t block_size) {
  std::vector<uint32_t> table;
  for (size_t i = 0; i * block_size < positions; ++i)
    table.push_back(first + static_cast<uint32_t>(i) * step_size);
  return table;
}

bool same_bits(const Logits& a, const Logits& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].size() != b[i].size() || std::memcmp(a[i].data(), b[i].data(), a[i].size() * sizeof(float)) != 0)
      return false;
  }
  return true;
}

Logits alone(const TinyModel& model, const std::vector<int32_t>& tokens, uint32_t chunk,
             const CacheShape& cache, const CpuOptions& options = {1, {}}) {
  Rig rig(model, cache, options);
  Feed feed{tokens, blocks_for(1, 2, tokens.size(), cache.block_size), 0, {}};
  while (feed.done < tokens.size()) step(rig, {&feed}, {chunk});
  return feed.logits;
}

std::vector<TinyOptions> architectures() {
  TinyOptions llama2, llama3, mistral, qwen2, qwen3, yarn, biased;
  llama2.heads = llama2.key_value_heads = 4;
  llama3.dtype = DType::kBFloat16, llama3.tied = true;
  llama3.rope = {RopeKind::kLlama3, 500000.0, 8.0, 1.0, 4.0, 32};
  mistral.dtype = DType::kFloat16, mistral.sliding_window = 11;
  qwen2.qkv_bias = true, qwen2.tied = true;
  qwen3.qk_norm = true, qwen3.head_dim = 32, qwen3.rope.theta = 1e6;
  yarn.rope = {RopeKind::kYarn, 10000.0, 4.0, 1.0, 4.0, 16, 32.0, 1.0, 1.1386294361119891, true};
  yarn.head_dim = 24;
  biased.output_bias = biased.qkv_bias = biased.mlp_bias = true;
  biased.rope = {RopeKind::kLinear, 10000.0, 2.5};
  return {llama2, llama3, mistral, qwen2, qwen3, yarn, biased};
}

constexpr CacheShape kCache{64, 16, DType::kFloat32};

}  // namespace

TEST("the decoder agrees with the plain reference in double for every architecture") {
  Random random(31);
  for (const TinyOptions& options : architectures()) {
    const TinyModel model = make_tiny_model(random, options);
    const std::vector<int32_t> tokens = draw_tokens(random, model, 45);
    const std::vector<std::vector<double>> expected = reference_logits(model, tokens);
    const Logits got = alone(model, tokens, 64, kCache);
    for (size_t position = 0; position < tokens.size(); ++position) {
      for (size_t token = 0; token < expected[position].size(); ++token) {
        EXPECT(std::fabs(expected[position][token] - static_cast<double>(got[position][token])) < 1e-4);
      }
    }
  }
}

TEST("a sequence's logits are the same bits in chunks of 1, 3, 16 or all at once") {
  Random random(32);
  for (const TinyOptions& options : architectures()) {
    const TinyModel model = make_tiny_model(random, options);
    const std::vector<int32_t> tokens = draw_tokens(random, model, 61);
    for (const DType storage : {DType::kFloat32, DType::kBFloat16}) {
      const CacheShape cache{64, 16, storage};
      const Logits whole = alone(model, tokens, 61, cache);
      for (const uint32_t chunk : {1U, 3U, 16U}) EXPECT(same_bits(whole, alone(model, tokens, chunk, cache)));
    }
  }
}

TEST("logits are the same bits on every instruction set, for any number of threads and any block size") {
  Random random(33);
  for (const TinyOptions& options : architectures()) {
    const TinyModel model = make_tiny_model(random, options);
    const std::vector<int32_t> tokens = draw_tokens(random, model, 50);
    const Logits expected = alone(model, tokens, 7, kCache, {1, CpuIsa::kScalar});
    for (const CpuIsa isa : {CpuIsa::kScalar, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
      if (!cpu_isa_available(isa)) continue;
      for (const uint32_t threads : {1U, 2U, 5U}) {
        const CacheShape cache{64, random.one_of({8U, 16U, 32U, 64U}), DType::kFloat32};
        EXPECT_NOTE(same_bits(expected, alone(model, tokens, 13, cache, {threads, isa})), cpu_isa_name(isa));
      }
    }
  }
}

TEST(
    "a sequence's logits are the same bits alone and among others that are prefilled and decoded beside it") {
  Random random(34);
  for (const TinyOptions& options : architectures()) {
    const TinyModel model = make_tiny_model(random, options);
    std::vector<Feed> feeds;
    for (uint32_t i = 0; i < 9; ++i) {
      feeds.push_back({draw_tokens(random, model, random.integer(1, 60)), blocks_for(i, 9, 60, 16), 0, {}});
    }
    Rig rig(model, kCache, {2, {}});
    std::vector<Feed*> all;
    for (Feed& feed : feeds) all.push_back(&feed);
    for (int round = 0; round < 70; ++round) {
      std::vector<uint32_t> counts;
      for (size_t i = 0; i < feeds.size(); ++i)
        counts.push_back(static_cast<uint32_t>(random.one_of<int64_t>({0, 1, 1, 5, 20})));
      step(rig, all, counts);
    }
    for (const Feed& feed : feeds) {
      if (feed.done < feed.tokens.size()) continue;
      EXPECT(same_bits(feed.logits, alone(model, feed.tokens, 60, kCache)));
    }
  }
}

TEST("a sequence that goes on from copied and shared blocks has the same bits as one that computed them") {
  Random random(35);
  const TinyModel model = make_tiny_model(random, architectures()[4]);
  const std::vector<int32_t> prompt = draw_tokens(random, model, 37);  // two full blocks and a part
  for (const DType storage : {DType::kFloat32, DType::kBFloat16}) {
    const CacheShape cache{16, 16, storage};
    Rig rig(model, cache, {2, {}});
    Feed first{prompt, {3, 1, 4}, 0, {}};
    step(rig, {&first}, {37});
    // The second shares the full blocks; block 5 gets a copy of the part by way of block 9.
    Feed second{prompt, {3, 1, 5}, 37, {}};
    const std::vector<int32_t> a = draw_tokens(random, model, 9);
    const std::vector<int32_t> b = draw_tokens(random, model, 9);
    first.tokens.insert(first.tokens.end(), a.begin(), a.end());
    second.tokens.insert(second.tokens.end(), b.begin(), b.end());
    step(rig, {&first, &second}, {1, 1}, {{4, 9}, {9, 5}});
    while (first.done < first.tokens.size()) step(rig, {&first, &second}, {1, 1});
    EXPECT(same_bits(first.logits, alone(model, first.tokens, 64, cache)));
    Logits tail = alone(model, second.tokens, 64, cache);
    tail.erase(tail.begin(), tail.begin() + 37);
    EXPECT(same_bits(second.logits, tail));
  }
}

TEST("a sequence may read blocks that another one fills in the same step") {
  Random random(36);
  const TinyModel model = make_tiny_model(random, architectures()[3]);
  const std::vector<int32_t> tokens = draw_tokens(random, model, 40);
  Rig rig(model, kCache);
  Feed writer{tokens, {7, 2, 9}, 0, {}};
  Feed reader{tokens, {7, 2, 5}, 32, {}};
  step(rig, {&writer, &reader}, {40, 40});
  EXPECT(same_bits({writer.logits.begin() + 32, writer.logits.end()}, reader.logits));
}

TEST("only the rows asked for are kept, in the order asked, as often as asked") {
  Random random(37);
  const TinyModel model = make_tiny_model(random, {});
  const std::vector<int32_t> tokens = draw_tokens(random, model, 20);
  const Logits expected = alone(model, tokens, 20, kCache);
  Rig rig(model, kCache);
  const std::vector<uint32_t> table = {0, 1};
  const std::vector<SequenceSpan> spans = {{0, 20, 0, table.data(), 2}};
  const std::vector<uint32_t> outputs = {19, 3, 19, 0};
  rig.decoder->forward({tokens, spans, {}, outputs});
  std::vector<float> logits(static_cast<size_t>(3 * model.config.vocab_size));
  rig.decoder->logits(1, 3, logits.data());
  for (size_t i = 0; i < 3; ++i) {
    EXPECT(std::memcmp(logits.data() + i * static_cast<size_t>(model.config.vocab_size),
                       expected[outputs[i + 1]].data(),
                       static_cast<size_t>(model.config.vocab_size) * sizeof(float)) == 0);
  }
  EXPECT(code_of([&] { rig.decoder->logits(2, 3, logits.data()); }) == "invalid_batch");
  EXPECT(code_of([&] { rig.decoder->logits(0xffffffffU, 0xffffffffU, logits.data()); }) == "invalid_batch");
  rig.decoder->forward({tokens, spans, {}, {}});
  EXPECT(code_of([&] { rig.decoder->logits(0, 1, logits.data()); }) == "invalid_batch");
}

TEST("empty batches, empty sequences and batches that only copy are served") {
  Random random(38);
  const TinyModel model = make_tiny_model(random, {});
  Rig rig(model, kCache);
  rig.decoder->forward({});
  const std::vector<BlockCopy> copies = {{0, 1}};
  rig.decoder->forward({{}, {}, copies, {}});
  const std::vector<int32_t> tokens = {1};
  const std::vector<uint32_t> table = {0};
  const std::vector<SequenceSpan> spans = {
      {0, 0, 5, nullptr, 0}, {0, 1, 0, table.data(), 1}, {1, 0, 0, nullptr, 0}};
  const std::vector<uint32_t> outputs = {0};
  rig.decoder->forward({tokens, spans, {}, outputs});
  EXPECT(rig.row(0) == alone(model, tokens, 1, kCache)[0]);
}

TEST("a batch with any number out of range is refused before anything is written") {
  Random random(39);
  const TinyModel model = make_tiny_model(random, {});
  Rig rig(model, {4, 16, DType::kFloat32});
  Feed feed{draw_tokens(random, model, 20), {0, 1}, 0, {}};
  step(rig, {&feed}, {19});
  const std::vector<uint32_t> table = {2, 3}, bad_table = {2, 4}, twice = {2, 2};
  const std::vector<int32_t> two = {1, 2};
  const auto refused = [&](std::vector<int32_t> tokens, std::vector<SequenceSpan> spans,
                           std::vector<uint32_t> outputs, std::vector<BlockCopy> copies = {}) {
    return code_of([&] { rig.decoder->forward({tokens, spans, copies, outputs}); }) == "invalid_batch";
  };
  const uint32_t* blocks = table.data();
  const int32_t vocab = static_cast<int32_t>(model.config.vocab_size);
  EXPECT(refused({1, vocab}, {{0, 2, 0, blocks, 2}}, {}));
  EXPECT(refused({1, -1}, {{0, 2, 0, blocks, 2}}, {}));
  EXPECT(refused(two, {{0, 2, 0, blocks, 2}}, {2}));
  EXPECT(refused(two, {{0, 1, 0, blocks, 2}}, {}));  // a row of nobody's
  EXPECT(refused(two, {{1, 1, 0, blocks, 2}}, {}));
  EXPECT(refused(two, {{0, 3, 0, blocks, 2}}, {}));   // more rows than tokens
  EXPECT(refused(two, {{0, 2, 31, blocks, 2}}, {}));  // one position past the table
  EXPECT(refused(two, {{0, 2, 0xffffffffU, blocks, 2}}, {}));
  EXPECT(refused(two, {{0, 0xffffffffU, 0, blocks, 2}}, {}));
  EXPECT(refused(two, {{0, 2, 0, nullptr, 2}}, {}));
  EXPECT(refused(two, {{0, 2, 15, bad_table.data(), 2}}, {}));
  EXPECT(refused(two, {{0, 2, 15, twice.data(), 2}}, {}));                 // one block at two places
  EXPECT(refused(two, {{0, 1, 0, blocks, 2}, {1, 1, 5, blocks, 2}}, {}));  // two writers
  EXPECT(refused(two, {{0, 2, 0, blocks, 2}}, {}, {{0, 4}}));
  EXPECT(refused(two, {{0, 2, 0, blocks, 2}}, {}, {{0xffffffffU, 0}}));
  step(rig, {&feed}, {1});
  EXPECT(same_bits(feed.logits, alone(model, feed.tokens, 20, kCache)));
}

TEST("a decoder of an impossible configuration or cache is refused by name") {
  Random random(40);
  const TinyModel good = make_tiny_model(random, {});
  const auto refused = [&](const std::function<void(ModelConfig&, CacheShape&)>& spoil,
                           const std::string& code) {
    TinyModel model = good;
    CacheShape cache = kCache;
    spoil(model.config, cache);
    return code_of([&] { Rig rig(model, cache); }) == code;
  };
  EXPECT(refused([](ModelConfig& c, CacheShape&) { c.head_dim = 7; }, "invalid_model_config"));
  EXPECT(refused([](ModelConfig& c, CacheShape&) { c.hidden_size = -1; }, "invalid_model_config"));
  EXPECT(
      refused([](ModelConfig& c, CacheShape&) { c.num_layers = int64_t{1} << 40; }, "invalid_model_config"));
  EXPECT(refused([](ModelConfig& c, CacheShape&) { c.num_key_value_heads = c.num_attention_heads + 1; },
                 "invalid_model_config"));
  EXPECT(refused([](ModelConfig& c, CacheShape&) { c.rms_norm_eps = std::nan(""); }, "invalid_model_config"));
  EXPECT(refused([](ModelConfig& c, CacheShape&) { c.rope.theta = 0; }, "invalid_model_config"));
  EXPECT(refused(
      [](ModelConfig& c, CacheShape&) { c.sliding_window = 4, c.layer_uses_sliding_window.pop_back(); },
      "invalid_model_config"));
  EXPECT(refused([](ModelConfig& c, CacheShape&) { c.vocab_size += 1; }, "wrong_shape"));
  EXPECT(refused([](ModelConfig& c, CacheShape&) { c.qk_norm = true; }, "missing_tensor"));
  EXPECT(refused([](ModelConfig&, CacheShape& s) { s.block_size = 12; }, "invalid_cache_shape"));
  EXPECT(refused([](ModelConfig&, CacheShape& s) { s.block_size = 128; }, "invalid_cache_shape"));
  EXPECT(refused([](ModelConfig&, CacheShape& s) { s.num_blocks = 0; }, "invalid_cache_shape"));
  EXPECT(refused([](ModelConfig&, CacheShape& s) { s.storage = DType::kFloat16; }, "unsupported_dtype"));
  EXPECT(code_of([&] { Rig rig(good, kCache, {100000, {}}); }) == "invalid_num_threads");
}

TEST("a step's numbers do not depend on the floating-point mode that the calling thread was left in") {
#if defined(__x86_64__)
  Random random(41);
  const TinyModel model = make_tiny_model(random, architectures()[1]);
  const std::vector<int32_t> tokens = draw_tokens(random, model, 20);
  const Logits expected = alone(model, tokens, 20, kCache, {2, {}});
  const unsigned saved = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr(0x1f80 | 0x8040 | 0x6000);  // flush to zero, round towards zero
  const Logits got = alone(model, tokens, 20, kCache, {2, {}});
  __builtin_ia32_ldmxcsr(saved);
  EXPECT(same_bits(expected, got));
#endif
}

}  // namespace kadenz::test
