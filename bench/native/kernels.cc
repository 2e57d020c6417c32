// Times of the CPU kernels: matmuls, attention and whole decoder steps of SmolLM2-135M's shape with random
// weights. The machine's own limits (fused multiply-adds a second, bytes read a second) are measured first,
// and every line is put beside them. Usage: bench_kernels [threads] [matmul] [attention] [step]
// [SEQUENCESxSTART ...]
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "cpu/cpu_ops.h"
#include "model/decoder.h"

namespace {

using kadenz::Activations;
using kadenz::DType;

// Wall time; or, with KADENZ_BENCH_CPU_TIME=1 and one thread, the time this process was really running: on a
// machine that others use at the same moment, the only figure that means something.
double now_s() {
  static const bool cpu_time = std::getenv("KADENZ_BENCH_CPU_TIME") != nullptr;
  timespec time{};
  ::clock_gettime(cpu_time ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// Best of several runs, each long enough to be timed: what the machine can do when nobody disturbs it.
template <class F>
double best_s(F run, double budget_s = 0.2) {
  run();
  double best = 1e9;
  const double end = now_s() + budget_s;
  do {
    const double begin = now_s();
    run();
    best = std::min(best, now_s() - begin);
  } while (now_s() < end);
  return best;
}

// Chains of fused multiply-adds that don't wait for each other, enough of them to fill the pipelines.
#if defined(__x86_64__)
__attribute__((target("avx512f"))) double fma_flops_512() {
  constexpr int kChains = 16, kRounds = 200000;
  __m512 sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 x = _mm512_set1_ps(0.5F);
  for (int round = 0; round < kRounds; ++round) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) sums[i] = _mm512_fmadd_ps(x, x, sums[i]);
    asm volatile("" : : "v"(sums[0]), "v"(sums[kChains - 1]));
  }
  for (int i = 1; i < kChains; ++i) sums[0] = _mm512_add_ps(sums[0], sums[i]);
  asm volatile("" : : "v"(sums[0]));
  return 32.0 * kChains * kRounds;
}
__attribute__((target("avx2,fma"))) double fma_flops_256() {
  constexpr int kChains = 12, kRounds = 200000;
  __m256 sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 x = _mm256_set1_ps(0.5F);
  for (int round = 0; round < kRounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = _mm256_fmadd_ps(x, x, sums[i]);
    asm volatile("" : : "x"(sums[0]), "x"(sums[kChains - 1]));
  }
  for (int i = 1; i < kChains; ++i) sums[0] = _mm256_add_ps(sums[0], sums[i]);
  asm volatile("" : : "x"(sums[0]));
  return 16.0 * kChains * kRounds;
}
#endif

struct Limits {
  double flops = 0;  // a second, all threads
  double bytes = 0;  // read a second from memory, all threads
};

template <class F>
double together_s(uint32_t threads, F run) {
  return best_s([&] {
    std::vector<std::thread> others;
    for (uint32_t i = 1; i < threads; ++i) others.emplace_back([&, i] { run(i); });
    run(0);
    for (std::thread& other : others) other.join();
  });
}

Limits measure_limits(uint32_t threads) {
  Limits limits;
#if defined(__x86_64__)
  std::vector<double> done(threads);
  if (kadenz::cpu_isa_available(kadenz::CpuIsa::kAvx512)) {
    const double seconds = together_s(threads, [&](uint32_t i) { done[i] = fma_flops_512(); });
    limits.flops = done[0] * threads / seconds;
  } else if (kadenz::cpu_isa_available(kadenz::CpuIsa::kAvx2)) {
    const double seconds = together_s(threads, [&](uint32_t i) { done[i] = fma_flops_256(); });
    limits.flops = done[0] * threads / seconds;
  }
#endif
  constexpr uint64_t kBytes = uint64_t{512} << 20;
  char* memory =
      static_cast<char*>(::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ::madvise(memory, kBytes, MADV_HUGEPAGE);
  std::memset(memory, 1, kBytes);
  std::vector<uint64_t> sums(threads * 8);
  const double seconds = together_s(threads, [&](uint32_t i) {
    const uint64_t* words = reinterpret_cast<const uint64_t*>(memory) + i * (kBytes / 8 / threads);
    uint64_t sum[8] = {};
    for (uint64_t word = 0; word + 8 <= kBytes / 8 / threads; word += 8) {
      for (int lane = 0; lane < 8; ++lane) sum[lane] += words[word + lane];
    }
    for (int lane = 0; lane < 8; ++lane) sums[i * 8] += sum[lane];
  });
  limits.bytes = static_cast<double>(kBytes) / seconds;
  ::munmap(memory, kBytes);
  return limits;
}

uint64_t noise_state = 1;
float noise() {  // uniform in -1 .. 1
  noise_state = noise_state * 6364136223846793005ULL + 1442695040888963407ULL;
  return static_cast<float>(static_cast<double>(noise_state >> 40) / 8388608.0 - 1.0);
}

uint16_t half_bits(float value) {  // small normal numbers only
  uint32_t bits = 0;
  std::memcpy(&bits, &value, 4);
  if (std::fabs(value) < 1e-4F) return 0;
  return static_cast<uint16_t>(((bits >> 16) & 0x8000) | ((((bits >> 23) & 0xff) - 112) << 10) |
                               ((bits >> 13) & 0x3ff));
}

struct Matrix {
  std::vector<uint16_t> elements;
  kadenz::TensorView view;
  Matrix(int64_t outputs, int64_t inputs) : elements(static_cast<size_t>(outputs * inputs)) {
    const float scale = 1.7F / std::sqrt(static_cast<float>(inputs));
    for (uint16_t& element : elements) element = half_bits(noise() * scale);
    view = {"weight",
            DType::kFloat16,
            {outputs, inputs},
            reinterpret_cast<const std::byte*>(elements.data()),
            elements.size() * 2};
  }
};

void bench_matmul(uint32_t threads, const Limits& limits) {
  const auto ops = kadenz::make_cpu_ops({threads, {}});
  struct Shape {
    const char* name;
    int64_t outputs, inputs;
    bool gated;
  };
  const Shape shapes[] = {{"qkv", 960, 576, false},
                          {"o", 576, 576, false},
                          {"gate*up", 1536, 576, true},
                          {"down", 576, 1536, false},
                          {"head", 49152, 576, false}};
  std::printf("\n%-8s %6s %6s %5s %10s %9s %7s %8s %7s\n", "matmul", "N", "K", "M", "ms", "GFLOP/s", "% peak",
              "GB/s", "% read");
  for (const Shape& shape : shapes) {
    Matrix matrix(shape.outputs, shape.inputs);
    // Enough copies that weights come from memory, as they do in a model
    const double weight_bytes =
        2.0 * static_cast<double>(shape.outputs * shape.inputs) * (shape.gated ? 2 : 1);
    const int copies = std::max(2, static_cast<int>(150e6 / weight_bytes));
    std::vector<std::unique_ptr<kadenz::WeightMatrix>> weights;
    for (int i = 0; i < (shape.gated ? 2 : 1) * copies; ++i) {
      weights.push_back(ops->pack_matrix(std::span(&matrix.view, 1), kadenz::WeightPrecision::kExact,
                                         kadenz::MatrixUse::kLinear));
    }
    for (const uint32_t rows : {1U, 2U, 4U, 8U, 16U, 32U, 64U, 128U, 512U, 2048U}) {
      if (shape.outputs > 10000 && rows > 512) continue;
      const auto input = ops->allocate_activations(rows, static_cast<uint32_t>(shape.inputs));
      const auto output = ops->allocate_activations(rows, static_cast<uint32_t>(shape.outputs));
      const int calls =
          std::max(1, std::min(copies, static_cast<int>(2e9 / (2.0 * rows * weight_bytes / 2))));
      int next = 0;
      const double seconds =
          best_s(
              [&] {
                for (int call = 0; call < calls; ++call) {
                  const kadenz::Linear first{weights[static_cast<size_t>(next)].get(), nullptr};
                  if (shape.gated) {
                    const kadenz::Linear second{weights[static_cast<size_t>(copies + next)].get(), nullptr};
                    ops->gated_linear(*input, {0, rows}, first, second, *output);
                  } else {
                    ops->linear(*input, {0, rows}, first, *output);
                  }
                  next = (next + 1) % copies;
                }
              },
              0.1) /
          calls;
      const double flops = 2.0 * rows * weight_bytes / 2;
      std::printf("%-8s %6ld %6ld %5u %10.4f %9.1f %6.0f%% %8.1f %6.0f%%\n", shape.name, shape.outputs,
                  shape.inputs, rows, seconds * 1e3, flops / seconds / 1e9,
                  100 * flops / seconds / limits.flops, weight_bytes / seconds / 1e9,
                  100 * weight_bytes / seconds / limits.bytes);
    }
  }
}

constexpr uint32_t kBlockSize = 16;

std::vector<std::string> words;  // of the command line

// SEQUENCESxSTART on the command line leaves out all other cases.
bool case_wanted(uint32_t sequences, uint32_t start) {
  bool any = false;
  for (const std::string& word : words) {
    if (word == std::to_string(sequences) + "x" + std::to_string(start)) return true;
    any = any || word.find('x') != std::string::npos;
  }
  return !any;
}

// Rows and block tables of sequences of one length, each on blocks of its own.
struct Batch {
  std::vector<int32_t> tokens;
  std::vector<uint32_t> tables, outputs;
  std::vector<kadenz::SequenceSpan> spans;
  kadenz::DecoderBatch batch;
  Batch(uint32_t sequences, uint32_t start, uint32_t rows, bool all_outputs = false) {
    const uint32_t blocks = (start + rows + kBlockSize - 1) / kBlockSize;
    for (uint32_t i = 0; i < sequences * blocks; ++i) tables.push_back(i);
    for (uint32_t s = 0; s < sequences; ++s) {
      spans.push_back({s * rows, rows, start, tables.data() + s * blocks, blocks});
      for (uint32_t row = 0; row < rows; ++row)
        tokens.push_back(static_cast<int32_t>((s * 7919 + row * 104729) % 49152));
      for (uint32_t row = all_outputs ? 0 : rows - 1; row < rows; ++row) outputs.push_back(s * rows + row);
    }
    batch = {tokens, spans, {}, outputs};
  }
};

void bench_attention(uint32_t threads, const Limits& limits) {
  const auto ops = kadenz::make_cpu_ops({threads, {}});
  std::printf("\n%-10s %5s %6s %5s %9s %10s %9s %7s %8s\n", "attention", "seqs", "start", "rows", "storage",
              "ms", "GFLOP/s", "% peak", "GB/s");
  constexpr uint32_t kLayers = 4;  // several, so that keys and values come from memory
  const kadenz::AttentionShape shape{kLayers, 9, 3, 64};
  const kadenz::RotaryFrequencies rotary{std::vector<float>(32, 0.01F), 1.0F};
  struct Case {
    uint32_t sequences, start, rows;
  };
  for (const DType storage : {DType::kFloat32, DType::kBFloat16}) {
    for (const Case& c :
         {Case{128, 99, 1}, Case{128, 199, 1}, Case{128, 499, 1}, Case{32, 1999, 1}, Case{1, 499, 1},
          Case{1, 1999, 1}, Case{1, 0, 512}, Case{1, 0, 2048}, Case{32, 0, 64}}) {
      if (!case_wanted(c.sequences, c.start)) continue;
      const Batch batch(c.sequences, c.start, c.rows);
      const auto cache =
          ops->allocate_kv_cache(shape, {static_cast<uint32_t>(batch.tables.size()), kBlockSize, storage});
      const uint32_t rows = c.sequences * c.rows;
      const auto qkv = ops->allocate_activations(rows, 15 * 64);
      const auto output = ops->allocate_activations(rows, 9 * 64);
      {
        const Batch fill(c.sequences, 0, c.start + c.rows);  // touch the pages
        const auto rows_of_fill =
            ops->allocate_activations(static_cast<uint32_t>(fill.tokens.size()), 15 * 64);
        ops->begin_step(fill.batch, shape, rotary);
        for (uint32_t layer = 0; layer < kLayers; ++layer)
          ops->rotate_and_store(*rows_of_fill, nullptr, nullptr, 0, *cache, layer);
      }
      ops->begin_step(batch.batch, shape, rotary);
      uint32_t layer = 0;
      const double seconds = best_s([&] {
                               for (uint32_t i = 0; i < kLayers; ++i) {
                                 ops->attend(*qkv, *cache, layer, 0, *output);
                                 layer = (layer + 1) % kLayers;
                               }
                             }) /
                             kLayers;
      const double visible = static_cast<double>(c.sequences) * c.rows * (c.start + (c.rows + 1) / 2.0);
      const double flops = visible * 9 * 64 * 4;
      const double bytes = static_cast<double>(c.sequences) * (c.start + c.rows) * 3 * 64 * 2 *
                           (storage == DType::kFloat32 ? 4 : 2);
      std::printf("%-10s %5u %6u %5u %9s %10.4f %9.1f %6.0f%% %8.1f\n", "", c.sequences, c.start, c.rows,
                  dtype_name(storage), seconds * 1e3, flops / seconds / 1e9,
                  100 * flops / seconds / limits.flops, bytes / seconds / 1e9);
    }
  }
}

void bench_step(uint32_t threads, const Limits& limits) {
  kadenz::ModelConfig config;
  config.hidden_size = 576, config.intermediate_size = 1536, config.num_layers = 30,
  config.num_attention_heads = 9;
  config.num_key_value_heads = 3, config.head_dim = 64, config.vocab_size = 49152,
  config.max_position_embeddings = 8192;
  config.rms_norm_eps = 1e-5, config.rope.theta = 100000.0, config.tie_word_embeddings = true;
  const std::string path = "/tmp/kadenz_bench_weights." + std::to_string(::getpid());
  std::vector<kadenz::TensorDescription> tensors;
  {
    std::ofstream file(path, std::ios::binary);
    uint64_t offset = 0;
    const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
      const Matrix matrix(shape.size() == 2 ? shape[0] : 1, shape.back());
      file.write(reinterpret_cast<const char*>(matrix.elements.data()),
                 static_cast<std::streamsize>(matrix.elements.size() * 2));
      tensors.push_back({name, DType::kFloat16, shape, 0, offset, offset + matrix.elements.size() * 2});
      offset += matrix.elements.size() * 2;
    };
    add("model.embed_tokens.weight", {49152, 576});
    add("model.norm.weight", {576});
    for (int layer = 0; layer < 30; ++layer) {
      const std::string prefix = "model.layers." + std::to_string(layer) + ".";
      add(prefix + "input_layernorm.weight", {576}), add(prefix + "post_attention_layernorm.weight", {576});
      add(prefix + "self_attn.q_proj.weight", {576, 576}),
          add(prefix + "self_attn.k_proj.weight", {192, 576});
      add(prefix + "self_attn.v_proj.weight", {192, 576}),
          add(prefix + "self_attn.o_proj.weight", {576, 576});
      add(prefix + "mlp.gate_proj.weight", {1536, 576}), add(prefix + "mlp.up_proj.weight", {1536, 576});
      add(prefix + "mlp.down_proj.weight", {576, 1536});
    }
  }
  kadenz::WeightFiles weights({path}, tensors);
  const auto ops = kadenz::make_cpu_ops({threads, {}});
  std::printf("\n%-6s %5s %6s %5s %10s %10s %10s %9s %7s\n", "step", "seqs", "start", "rows", "layers ms",
              "head ms", "tokens/s", "GFLOP/s", "% peak");
  for (const DType storage : {DType::kFloat32, DType::kBFloat16}) {
    const double begin = now_s();
    kadenz::Decoder decoder(config, weights, *ops, {5000, kBlockSize, storage});
    std::printf("%s: packed in %.2f s, weights %.0f MB, KV pool %.0f MB\n", dtype_name(storage),
                now_s() - begin, static_cast<double>(decoder.weight_bytes()) / 1e6,
                static_cast<double>(decoder.kv_bytes()) / 1e6);
    struct Case {
      uint32_t sequences, start, rows;
    };
    for (const Case& c : {Case{1, 99, 1}, Case{8, 99, 1}, Case{32, 99, 1}, Case{64, 99, 1}, Case{128, 49, 1},
                          Case{128, 149, 1}, Case{128, 499, 1}, Case{1, 1999, 1}, Case{1, 0, 512},
                          Case{1, 0, 2048}, Case{32, 0, 64}}) {
      if (!case_wanted(c.sequences, c.start)) continue;
      const Batch batch(c.sequences, c.start, c.rows);
      std::vector<float> logits(batch.outputs.size() * 49152);
      const double layers_s = best_s([&] { decoder.forward(batch.batch); }, 0.5);
      const double head_s =
          best_s([&] { decoder.logits(0, static_cast<uint32_t>(batch.outputs.size()), logits.data()); });
      const double rows = c.sequences * c.rows;
      const double total = rows * 2 * 30 * (960.0 * 576 + 576 * 576 + 3 * 1536.0 * 576) +
                           2.0 * 49152 * 576 * static_cast<double>(batch.outputs.size());  // matmuls alone
      std::printf("%-6s %5u %6u %5u %10.2f %10.2f %10.0f %9.1f %6.0f%%\n", "", c.sequences, c.start, c.rows,
                  layers_s * 1e3, head_s * 1e3, rows / (layers_s + head_s), total / (layers_s + head_s) / 1e9,
                  100 * total / (layers_s + head_s) / limits.flops);
    }
    std::printf("scratch %.1f MB\n", static_cast<double>(decoder.scratch_bytes()) / 1e6);
  }
  ::unlink(path.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  const uint32_t cores = std::max(1U, std::thread::hardware_concurrency());
  const uint32_t threads = argc > 1 ? static_cast<uint32_t>(std::max(1, std::atoi(argv[1]))) : cores;
  for (int i = 2; i < argc; ++i) words.emplace_back(argv[i]);
  const auto wanted = [&](const char* name) {
    return words.empty() || std::find(words.begin(), words.end(), name) != words.end();
  };
  const Limits limits = measure_limits(threads);
  std::printf("%u threads, %s kernels; measured limits: %.1f GFLOP/s, %.1f GB/s read\n", threads,
              kadenz::cpu_isa_name(kadenz::choose_cpu_isa({})), limits.flops / 1e9, limits.bytes / 1e9);
  if (wanted("matmul")) bench_matmul(threads, limits);
  if (wanted("attention")) bench_attention(threads, limits);
  if (wanted("step")) bench_step(threads, limits);
  return 0;
}
