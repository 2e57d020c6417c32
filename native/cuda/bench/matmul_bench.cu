// Times of the model's matmuls: ours (certified algorithms, K in fixed slices) beside cuBLASLt unrestricted
// (split-K and all), which is the price of batch invariance, and beside the floor. Weights are read from
// memory: launches rotate among copies that together exceed the L2. Partial outputs are written, but added
// elsewhere (the norm after them), as in a step.
//
// matmul_bench [--plans]: also prints the algorithm chosen for each shape.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <vector>

#include "cuda/certificate.h"
#include "cuda/check.h"
#include "cuda/kernels/matmul_probe.h"
#include "cuda/matmul.h"
#include "cuda/scratch_memory.h"

namespace {

using namespace kadenz::cuda;

constexpr double kBytesPerMicrosecond = 4.3e6;
constexpr double kFlopsPerMicrosecond = 0.79e9;
constexpr uint32_t kRows[] = {1, 8, 64, 128, 256, 2048, 8192};
constexpr uint32_t kMostHeadRows = 256;  // a step computes logits of its output rows only
constexpr int kReplays = 21;

struct Layer {
  const char* name;
  uint32_t outputs, inputs;
  MatmulOutput kind;
};

struct Model {
  const char* name;
  uint32_t layers;
  std::vector<Layer> shapes;  // qkv, o, gate_up, down, head
};

Model model(const char* name, uint32_t layers, uint32_t hidden, uint32_t qkv, uint32_t inner,
            uint32_t vocab) {
  return {name,
          layers,
          {{"qkv", qkv, hidden, MatmulOutput::kFloat32},
           {"o", hidden, hidden, MatmulOutput::kFloat32},
           {"gate_up", 2 * inner, hidden, MatmulOutput::kHalf},
           {"down", hidden, inner, MatmulOutput::kFloat32},
           {"head", vocab, hidden, MatmulOutput::kFloat32}}};
}

const std::vector<Model> kModels = {
    model("0.5B", 24, 896, 1152, 4864, 151936), model("1.5B", 28, 1536, 2048, 8960, 151936),
    model("7B", 28, 3584, 4608, 18944, 152064), model("Q3-8B", 36, 4096, 6144, 12288, 151936)};

struct Memory {
  ScratchMemory workspace{Matmul::kWorkspaceBytes};
  ScratchMemory weights{uint64_t{152064} * 4096 * 2};
  ScratchMemory input{uint64_t{8192} * 18944 * 2};
  ScratchMemory output{uint64_t{8192} * 37888 * 4};
  cudaStream_t stream = nullptr;

  Memory() {
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    fill_operand(Half::kBFloat16, weights.get(), weights.bytes() / 2, 1, stream);
    fill_operand(Half::kBFloat16, input.get(), input.bytes() / 2, 2, stream);
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  }
  ~Memory() { cudaStreamDestroy(stream); }
};

// Median microseconds of one launch, from replays of a graph that takes one copy of the weight after the
// other.
double microseconds(Matmul& matmul, const Memory& memory, const Layer& layer, uint32_t rows) {
  const uint64_t weight_bytes = uint64_t{layer.outputs} * layer.inputs * 2;
  const uint64_t room = memory.weights.bytes() / weight_bytes;
  const uint64_t launches = rows > 256 ? 2 : std::clamp<uint64_t>((160ULL << 20) / weight_bytes + 1, 2, 64);
  const auto weight = [&](uint64_t launch) {
    return memory.weights.as<std::byte>() + launch % std::max<uint64_t>(room, 1) * weight_bytes;
  };
  const auto run = [&](uint64_t launch) {
    matmul.run(weight(launch), memory.input.get(), rows, layer.outputs, layer.inputs, memory.output.get(),
               layer.kind, memory.stream);
  };
  matmul.prepare(rows, layer.outputs, layer.inputs, layer.kind, memory.weights.get());
  run(0);
  check(cudaStreamSynchronize(memory.stream), "cudaStreamSynchronize");
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  check(cudaStreamBeginCapture(memory.stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  for (uint64_t launch = 0; launch < launches; ++launch) run(launch);
  check(cudaStreamEndCapture(memory.stream, &graph), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  check(cudaEventCreate(&begin), "cudaEventCreate");
  check(cudaEventCreate(&end), "cudaEventCreate");
  std::vector<float> times;
  for (int i = 0; i < kReplays + 2; ++i) {
    check(cudaEventRecord(begin, memory.stream), "cudaEventRecord");
    check(cudaGraphLaunch(executable, memory.stream), "cudaGraphLaunch");
    check(cudaEventRecord(end, memory.stream), "cudaEventRecord");
    check(cudaEventSynchronize(end), "cudaEventSynchronize");
    float milliseconds = 0.0F;
    check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
    if (i >= 2) times.push_back(milliseconds);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2] * 1000.0 / static_cast<double>(launches);
}

double floor_microseconds(const Layer& layer, uint32_t rows) {
  const double weights = static_cast<double>(layer.outputs) * layer.inputs;
  return std::max(weights * 2 / kBytesPerMicrosecond, weights * 2 * rows / kFlopsPerMicrosecond);
}

void print_prices(Matmul& ours, Matmul& unrestricted, const Memory& memory) {
  std::printf("us per launch in a graph: rows: ours / unrestricted (floor)\n");
  std::vector<std::pair<double, double>> totals;
  for (const Model& model : kModels) {
    double step_ours = 0.0;
    double step_unrestricted = 0.0;
    double step_floor = 0.0;
    for (const Layer& layer : model.shapes) {
      const bool head = std::strcmp(layer.name, "head") == 0;
      std::printf("%-5s %-7s %ux%u S%u%s", model.name, layer.name, layer.outputs, layer.inputs,
                  ours.slices(layer.outputs, layer.inputs),
                  ours.uses_plain_kernel(layer.outputs, layer.inputs, layer.kind) ? " PLAIN KERNEL" : "");
      for (const uint32_t rows : kRows) {
        if (head && rows > kMostHeadRows) continue;
        const double mine = microseconds(ours, memory, layer, rows);
        const double theirs = microseconds(unrestricted, memory, layer, rows);
        std::printf(" | %u: %.1f / %.1f (%.1f)", rows, mine, theirs, floor_microseconds(layer, rows));
        if (rows != 256) continue;
        const double times = head ? 1.0 : model.layers;
        step_ours += times * mine;
        step_unrestricted += times * theirs;
        step_floor += times * floor_microseconds(layer, rows);
      }
      std::printf("\n");
      std::fflush(stdout);
    }
    std::printf(
        "%-5s a decode step's matmuls at 256 rows: ours %.0f us, unrestricted %.0f, ratio %.3f, floor %.0f\n",
        model.name, step_ours, step_unrestricted, step_ours / step_unrestricted, step_floor);
  }
}

void print_slices(Matmul& matmul, const Memory& memory) {
  std::printf("\nus at 8 / 64 / 256 rows for S = 1, 2, 4 (partials not added), * the rule's\n");
  for (const Model& model : kModels) {
    for (const Layer& layer : model.shapes) {
      if (layer.kind == MatmulOutput::kHalf || std::strcmp(layer.name, "head") == 0) continue;
      matmul.set_slices(0);
      const uint32_t ruled = matmul.slices(layer.outputs, layer.inputs);
      std::printf("%-5s %-5s", model.name, layer.name);
      for (const uint32_t slices : {1U, 2U, 4U}) {
        matmul.set_slices(slices);
        std::printf(" | S%u%s", slices, slices == ruled ? "*" : "");
        for (const uint32_t rows : {8U, 64U, 256U}) {
          std::printf(" %.1f", microseconds(matmul, memory, layer, rows));
        }
      }
      std::printf("\n");
      std::fflush(stdout);
    }
  }
  matmul.set_slices(0);
}

void print_certificates(Matmul& matmul) {
  std::printf("\n");
  for (const Model& model : kModels) {
    std::vector<CertifiedShape> shapes;
    for (const Layer& layer : model.shapes) shapes.push_back({layer.outputs, layer.inputs, layer.kind});
    const auto begin = std::chrono::steady_clock::now();
    const Certificate certificate = certify(matmul, shapes);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    std::printf("certificate of %s in %.2f s: %llu of %llu runs differ; %s\n", model.name, seconds.count(),
                static_cast<unsigned long long>(certificate.differing),
                static_cast<unsigned long long>(certificate.comparisons), certificate.fingerprint.c_str());
  }
}

void print_plans(const char* title, const Matmul& matmul) {
  std::printf("\n%s: chosen algorithms\n", title);
  for (const MatmulPlanReport& plan : matmul.plans()) {
    std::printf(
        "%ux%u rows %u S%u %s: id %d tile %u stages %u cluster %u split-K %d, %u candidates, %.1f us cold\n",
        plan.shape.outputs, plan.shape.inputs, plan.shape.rows, plan.shape.slices,
        plan.shape.kind == MatmulOutput::kHalf ? "half" : "float", plan.algorithm.config_id,
        plan.algorithm.tile, plan.algorithm.stages, plan.algorithm.cluster, plan.algorithm.split_k,
        plan.candidates, plan.microseconds);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bool plans = argc > 1 && std::strcmp(argv[1], "--plans") == 0;
  const Memory memory;
  Matmul ours(Half::kBFloat16, Matmul::kWorkspaceBytes, memory.workspace.get());
  Matmul unrestricted(Half::kBFloat16, Matmul::kWorkspaceBytes, memory.workspace.get());
  unrestricted.set_unrestricted(true);
  std::printf("cuBLASLt %zu (%s)\n", ours.library().version, ours.library().path.c_str());
  print_certificates(ours);
  print_prices(ours, unrestricted, memory);
  if (plans) {
    print_plans("ours", ours);
    print_plans("unrestricted", unrestricted);
  }
  print_slices(ours, memory);
  return 0;
}
