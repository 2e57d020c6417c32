// Our matmul beside cuBLASLt where it counts: in a chain of layers, each on weights of its own, captured in
// one graph as a decode step is. Times are microseconds of one layer.
//
// bare: qkv, o, gate_up (with the activation), down, each on an input that stands ready but for down's.
// normed: with the sums and norms between them, as a step has them (attention left out); also ours without
// overlap, the choice of gemm_pays(), and ours with one of the four left to cuBLASLt, which tells where ours
// pays. Last columns: each matmul alone, chained with itself, ours / cuBLASLt. All ways of a chain are
// replayed by turns: under load the clock falls.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "cuda/check.h"
#include "cuda/kernels/gemm.h"
#include "cuda/kernels/matmul_probe.h"
#include "cuda/kernels/rows.h"
#include "cuda/matmul.h"
#include "cuda/scratch_memory.h"

namespace {

using namespace kadenz::cuda;

constexpr uint32_t kRows[] = {256, 128, 64, 8, 1};
constexpr uint32_t kMostRows = 256;
constexpr int kReplays = 7;
constexpr Half kDtype = Half::kBFloat16;

struct Model {
  const char* name;
  uint32_t layers, hidden, qkv, inner;
};
constexpr Model kModels[] = {{"0.5B", 24, 896, 1152, 4864},
                             {"1.5B", 28, 1536, 2048, 8960},
                             {"7B", 8, 3584, 4608, 18944},
                             {"Q3-8B", 8, 4096, 6144, 12288}};

enum Part { kQkv, kO, kGateUp, kDown, kParts };
constexpr const char* kNames[kParts] = {"qkv", "o", "gate_up", "down"};

struct Way {
  bool ours[kParts];
  bool overlaps = true;
  bool chosen = false;
};
constexpr Way kLibrary{{false, false, false, false}};
constexpr Way kOurs{{true, true, true, true}};
constexpr Way kNormedWays[] = {kLibrary,
                               kOurs,
                               {{true, true, true, true}, false},
                               {{true, true, true, true}, true, true},
                               {{false, true, true, true}},
                               {{true, false, true, true}},
                               {{true, true, false, true}},
                               {{true, true, true, false}}};

struct World {
  const Model& model;
  uint32_t outputs[kParts], inputs[kParts];
  uint64_t first_weight[kParts], layer_weights;  // in elements
  ScratchMemory weights, normed, attended, gate_up, activated, sums, residual, norm_weight, workspace;
  Matmul matmul;
  cudaStream_t stream = nullptr;

  explicit World(const Model& shape)
      : model(shape),
        outputs{shape.qkv, shape.hidden, 2 * shape.inner, shape.hidden},
        inputs{shape.hidden, shape.hidden, shape.hidden, shape.inner},
        layer_weights(weights_before(kParts)),
        weights(layer_weights * shape.layers * 2),
        normed(uint64_t{kMostRows} * shape.hidden * 2),
        attended(uint64_t{kMostRows} * shape.hidden * 2),
        gate_up(uint64_t{kMostRows} * shape.inner * 4),
        activated(uint64_t{kMostRows} * shape.inner * 2),
        sums(uint64_t{kMostRows} * shape.qkv * 4 * 4),
        residual(uint64_t{kMostRows} * shape.hidden * 4),
        norm_weight(uint64_t{shape.hidden} * 4),
        workspace(Matmul::kWorkspaceBytes),
        matmul(kDtype, Matmul::kWorkspaceBytes, workspace.get()) {
    for (int part = 0; part < kParts; ++part) first_weight[part] = weights_before(part);
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    const ScratchMemory* operands[] = {&weights, &normed, &attended, &activated};
    for (const ScratchMemory* operand : operands) {
      fill_operand(kDtype, operand->get(), operand->bytes() / 2, 1 + operand->bytes(), stream);
    }
    check(cudaMemset(residual.get(), 0, residual.bytes()), "cudaMemset");
    const std::vector<float> ones(shape.hidden, 1.0F);
    check(cudaMemcpy(norm_weight.get(), ones.data(), norm_weight.bytes(), cudaMemcpyHostToDevice),
          "cudaMemcpy");
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  }
  ~World() { cudaStreamDestroy(stream); }

  uint64_t weights_before(int last) const {
    uint64_t count = 0;
    for (int part = 0; part < last; ++part) count += uint64_t{outputs[part]} * inputs[part];
    return count;
  }
  uint32_t slices(int part) const { return part == kGateUp ? 1 : matmul.slices(outputs[part], inputs[part]); }

  void run(const Way& way, int part, uint32_t layer, uint32_t rows) {
    const uint16_t* weight = weights.as<uint16_t>() + layer * layer_weights + first_weight[part];
    const void* input = part == kO ? attended.get() : part == kDown ? activated.get() : normed.get();
    GemmArgs args;
    args.dtype = kDtype;
    args.weight = weight;
    args.input = input;
    args.rows = rows;
    args.padded_rows = Matmul::padded_rows(rows);
    args.outputs = outputs[part];
    args.inputs = inputs[part];
    args.slices = slices(part);
    args.gated = args.half_output = part == kGateUp;
    args.output = part == kGateUp ? activated.get() : sums.get();
    if (way.ours[part] && gemm_takes(args) && (!way.chosen || gemm_pays(args))) {
      gemm_with(args, gemm_tile(args), way.overlaps, stream);
      return;
    }
    void* output = part == kGateUp ? gate_up.get() : sums.get();
    matmul.run(weight, input, rows, outputs[part], inputs[part], output,
               part == kGateUp ? MatmulOutput::kHalf : MatmulOutput::kFloat32, stream);
    if (part == kGateUp) {
      silu_mul(kDtype, gate_up.get(), false, nullptr, rows, model.inner, activated.get(), stream);
    }
  }
  void norm(int part, uint32_t rows) {
    const SumSource source{sums.as<float>(), slices(part), uint64_t{Matmul::padded_rows(rows)} * model.hidden,
                           nullptr};
    add_norm(kDtype, source, residual.as<float>(), norm_weight.as<float>(), 1e-6F, rows, model.hidden,
             normed.get(), stream);
  }
  void run_layer(const Way& way, uint32_t layer, uint32_t rows, bool normed_chain) {
    run(way, kQkv, layer, rows);
    run(way, kO, layer, rows);
    if (normed_chain) norm(kO, rows);
    run(way, kGateUp, layer, rows);
    run(way, kDown, layer, rows);
    if (normed_chain) norm(kDown, rows);
  }
  void prepare(uint32_t rows) {
    for (int part = 0; part < kParts; ++part) {
      matmul.prepare(rows, outputs[part], inputs[part],
                     part == kGateUp ? MatmulOutput::kHalf : MatmulOutput::kFloat32, weights.get());
    }
  }
};

class Replay {
 public:
  template <class Body>
  Replay(cudaStream_t stream, const Body& body) : stream_(stream) {
    cudaGraph_t graph = nullptr;
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    body();
    check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    check(cudaGraphInstantiate(&executable_, graph, 0), "cudaGraphInstantiate");
    cudaGraphDestroy(graph);
    check(cudaEventCreate(&begin_), "cudaEventCreate");
    check(cudaEventCreate(&end_), "cudaEventCreate");
  }
  ~Replay() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
    cudaGraphExecDestroy(executable_);
  }
  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;

  void run() {
    check(cudaEventRecord(begin_, stream_), "cudaEventRecord");
    check(cudaGraphLaunch(executable_, stream_), "cudaGraphLaunch");
    check(cudaEventRecord(end_, stream_), "cudaEventRecord");
    check(cudaEventSynchronize(end_), "cudaEventSynchronize");
    float milliseconds = 0.0F;
    check(cudaEventElapsedTime(&milliseconds, begin_, end_), "cudaEventElapsedTime");
    times_.push_back(milliseconds);
  }
  double median_microseconds() {
    std::sort(times_.begin(), times_.end());
    return times_[times_.size() / 2] * 1000.0;
  }
  void forget() { times_.clear(); }

 private:
  cudaStream_t stream_;
  cudaGraphExec_t executable_ = nullptr;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
  std::vector<float> times_;
};

// Median microseconds of each, replayed by turns.
std::vector<double> times_by_turns(std::vector<std::unique_ptr<Replay>>& replays) {
  for (int i = 0; i < kReplays + 1; ++i) {
    for (auto& replay : replays) {
      if (i == 1) replay->forget();
      replay->run();
    }
  }
  std::vector<double> times;
  for (auto& replay : replays) times.push_back(replay->median_microseconds());
  return times;
}

// What a chain of three layers leaves in the residual, from a residual of zeros.
std::vector<uint32_t> residual_after(World& world, const Way& way, uint32_t rows) {
  check(cudaMemsetAsync(world.residual.get(), 0, world.residual.bytes(), world.stream), "cudaMemsetAsync");
  fill_operand(kDtype, world.normed.get(), world.normed.bytes() / 2, 77, world.stream);
  for (uint32_t layer = 0; layer < 3; ++layer) world.run_layer(way, layer, rows, true);
  std::vector<uint32_t> bits(uint64_t{rows} * world.model.hidden);
  check(cudaStreamSynchronize(world.stream), "cudaStreamSynchronize");
  check(cudaMemcpy(bits.data(), world.residual.get(), bits.size() * 4, cudaMemcpyDeviceToHost), "cudaMemcpy");
  return bits;
}

void print_model(const Model& model) {
  World world(model);
  std::printf(
      "%s, S of o %u, of down %u | bare: cuBLASLt ours | normed: cuBLASLt ours alone chosen -qkv -o -gate_up "
      "-down\n",
      model.name, world.slices(kO), world.slices(kDown));
  const auto layers = [&](const auto& body) {
    return std::make_unique<Replay>(world.stream, [&] {
      for (uint32_t layer = 0; layer < model.layers; ++layer) body(layer);
    });
  };
  for (const uint32_t rows : kRows) {
    world.prepare(rows);
    std::vector<std::unique_ptr<Replay>> bare, normed, single;
    for (const Way& way : {kLibrary, kOurs}) {
      bare.push_back(layers([&](uint32_t layer) { world.run_layer(way, layer, rows, false); }));
    }
    for (const Way& way : kNormedWays) {
      normed.push_back(layers([&](uint32_t layer) { world.run_layer(way, layer, rows, true); }));
    }
    for (int part = 0; part < kParts; ++part) {
      for (const Way& way : {kOurs, kLibrary}) {
        single.push_back(layers([&](uint32_t layer) { world.run(way, part, layer, rows); }));
      }
    }
    std::printf("%5u:", rows);
    for (const double time : times_by_turns(bare)) std::printf(" %.1f", time / model.layers);
    std::printf(" |");
    for (const double time : times_by_turns(normed)) std::printf(" %.1f", time / model.layers);
    std::printf(" |");
    const std::vector<double> alone = times_by_turns(single);
    for (int part = 0; part < kParts; ++part) {
      std::printf(" %s %.1f/%.1f", kNames[part], alone[2 * part] / model.layers,
                  alone[2 * part + 1] / model.layers);
    }
    const bool equal = residual_after(world, kOurs, rows) == residual_after(world, kLibrary, rows);
    std::printf(" | bits %s\n", equal ? "equal" : "DIFFER");
    std::fflush(stdout);
  }
}

}  // namespace

int main() {
  prepare_gemm();
  for (const Model& model : kModels) print_model(model);
  return 0;
}
