#include "cuda/matmul.h"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>
#include <utility>

#include "cuda/check.h"
#include "cuda/kernels/plain_matmul.h"
#include "model/error.h"

namespace kadenz::cuda {

namespace {

constexpr uint32_t kMostPartialRows = 512;
constexpr uint32_t kMostTimedRows = 256;
constexpr uint32_t kMostCandidates = 6;
constexpr uint32_t kLastRung = 16384;  // as far as a shape is tried before cuBLASLt is trusted with it

uint32_t round_up(uint32_t value, uint32_t step) { return (value + step - 1) / step * step; }

// The measured rule: two slices where K is long (3,584 and more) and the outputs are few (at most 32 tiles of
// 128), so that one slice would leave most of the GPU idle; four were hardly better than two. It holds on
// every GPU, because bits depend on it. 128: each slice is then whole steps of 64, and its rows stay on the
// 16-byte grid.
uint32_t ruled_slices(uint32_t outputs, uint32_t inputs) {
  constexpr uint32_t kLongInputs = 3584;
  constexpr uint32_t kFewTiles = 32;
  const uint32_t tiles = round_up(outputs, 128) / 128;
  return inputs >= kLongInputs && tiles <= kFewTiles && inputs % 128 == 0 ? 2 : 1;
}

// 66 is the one family on Hopper and newer. Older GPUs do not have it; 21,
// 23 and 24 had its bits on Hopper, and must pass the certificate there.
std::vector<int32_t> first_config_ids() {
  int device = 0;
  int major = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
  return major >= 9 ? std::vector<int32_t>{66} : std::vector<int32_t>{21, 23, 24};
}

}  // namespace

Matmul::Matmul(Half dtype, uint64_t workspace_bytes, void* workspace)
    : library_(load_cublaslt()),
      dtype_(dtype),
      workspace_bytes_(workspace_bytes),
      workspace_(workspace),
      config_ids_(first_config_ids()) {
  check_lt(library_.create(&handle_), "cublasLtCreate");
}

Matmul::~Matmul() {
  plans_.clear();
  library_.destroy(handle_);
}

uint32_t Matmul::wanted_slices(uint32_t outputs, uint32_t inputs) const {
  if (unrestricted_) return 1;
  if (set_slices_ == 0) return ruled_slices(outputs, inputs);
  return inputs % (8 * set_slices_) == 0 ? set_slices_ : 1;
}

uint32_t Matmul::slices(uint32_t outputs, uint32_t inputs) const {
  const uint32_t wanted = wanted_slices(outputs, inputs);
  return wanted > 1 && uses_plain_kernel(outputs, inputs, MatmulOutput::kFloat32) ? 1 : wanted;
}

uint32_t Matmul::padded_rows(uint32_t rows) {
  if (rows <= 8) return std::bit_ceil(rows);
  if (rows <= 64) return round_up(rows, 8);
  if (rows <= 128) return round_up(rows, 16);
  if (rows <= 256) return round_up(rows, 32);
  return round_up(rows, rows <= 2048 ? 128 : 512);
}

uint32_t Matmul::slices_written(uint32_t rows, uint32_t outputs, uint32_t inputs) const {
  return rows > kMostPartialRows ? 1 : slices(outputs, inputs);
}

void Matmul::require_one_output(uint32_t outputs, uint32_t inputs, MatmulOutput kind) const {
  if (kind == MatmulOutput::kFloat32 || slices(outputs, inputs) == 1) return;
  throw std::logic_error("A matmul in slices cannot round its output: " + std::to_string(outputs) +
                         " outputs, " + std::to_string(inputs) + " inputs");
}

void Matmul::run(const void* weight, const void* input, uint32_t rows, uint32_t outputs, uint32_t inputs,
                 void* output, MatmulOutput kind, cudaStream_t stream) {
  if (rows == 0) return;
  require_one_output(outputs, inputs, kind);
  if (uses_plain_kernel(outputs, inputs, kind)) {
    plain_matmul({dtype_, weight, input, rows, outputs, inputs, output, kind == MatmulOutput::kHalf}, stream);
    return;
  }
  if (own_kernel_ && !unrestricted_) {
    const GemmArgs args = gemm_args(weight, input, rows, outputs, inputs, output, kind);
    if (gemm_takes(args) && gemm_pays(args)) return gemm(args, stream);
  }
  const Key key{padded_rows(rows), outputs, inputs, kind};
  const MatmulMemory memory{weight, input, output, workspace_, workspace_bytes_};
  const auto found = plans_.find(key);
  const Plan* plan = found == plans_.end() ? nullptr : &found->second;
  if (plan == nullptr && timing_ && key.rows <= kMostTimedRows) {
    plan = &make_plan(key, [&](const MatmulProblem& problem, std::span<const MatmulAlgorithm> algorithms) {
      return fastest(problem, algorithms, memory, stream);
    });
  } else if (plan == nullptr) {
    plan = &make_plan(key, nullptr);
  }
  plan->problem->launch(plan->algorithm, memory, stream);
}

GemmArgs Matmul::gemm_args(const void* weight, const void* input, uint32_t rows, uint32_t outputs,
                           uint32_t inputs, void* output, MatmulOutput kind) const {
  GemmArgs args;
  args.dtype = dtype_;
  args.weight = weight;
  args.input = input;
  args.rows = rows;
  args.padded_rows = padded_rows(rows);
  args.outputs = outputs;
  args.inputs = inputs;
  args.slices = slices(outputs, inputs);
  args.output = output;
  args.half_output = kind == MatmulOutput::kHalf;
  return args;
}

bool Matmul::run_own_kernel(const void* weight, const void* input, uint32_t rows, uint32_t outputs,
                            uint32_t inputs, void* output, MatmulOutput kind, cudaStream_t stream) const {
  const GemmArgs args = gemm_args(weight, input, rows, outputs, inputs, output, kind);
  if (rows > kMostTimedRows || !gemm_takes(args)) return false;
  gemm(args, stream);
  return true;
}

bool Matmul::run_gated(const void* weight, const void* input, uint32_t rows, uint32_t outputs, uint32_t inputs,
                       void* output, cudaStream_t stream) {
  if (!own_kernel_ || unrestricted_ || uses_plain_kernel(outputs, inputs, MatmulOutput::kHalf)) return false;
  GemmArgs args = gemm_args(weight, input, rows, outputs, inputs, output, MatmulOutput::kHalf);
  args.gated = true;
  if (!gemm_takes(args) || !gemm_pays(args)) return false;
  gemm(args, stream);
  return true;
}

void Matmul::prepare(uint32_t rows, uint32_t outputs, uint32_t inputs, MatmulOutput kind,
                     const void* weight) {
  require_one_output(outputs, inputs, kind);
  if (rows == 0 || uses_plain_kernel(outputs, inputs, kind)) return;
  const Key key{padded_rows(rows), outputs, inputs, kind};
  if (plans_.contains(key)) return;
  const Choose choose = [&](const MatmulProblem& problem, std::span<const MatmulAlgorithm> algorithms) {
    return fastest_on_stand_ins(problem, algorithms,
                                {weight, nullptr, nullptr, workspace_, workspace_bytes_});
  };
  make_plan(key, key.rows <= kMostTimedRows ? choose : nullptr);
}

std::unique_ptr<MatmulProblem> Matmul::problem(uint32_t rows, uint32_t outputs, uint32_t inputs,
                                               MatmulOutput kind, bool accumulated) const {
  const uint32_t count = wanted_slices(outputs, inputs);
  const bool batched = count > 1 && rows <= kMostPartialRows && !accumulated;
  return std::make_unique<MatmulProblem>(library_, handle_,
                                         MatmulShape{dtype_, rows, outputs, inputs, count, batched, kind});
}

std::vector<MatmulAlgorithm> Matmul::algorithms(const MatmulProblem& problem, std::span<const int32_t> ids,
                                                uint32_t most) const {
  const AlgorithmQuery query{workspace_bytes_, unrestricted_,
                             unrestricted_ ? std::span<const int32_t>{} : ids, most};
  std::vector<MatmulAlgorithm> found = problem.algorithms(query);
  const bool ours = std::all_of(ids.begin(), ids.end(), [&](int32_t id) {
    return std::find(config_ids_.begin(), config_ids_.end(), id) != config_ids_.end();
  });
  if (!found.empty() || unrestricted_ || !ours) return found;
  // The library's short list for this number of rows may hold none of ours, and yet they can run it: borrow
  // those that it lists for other numbers of rows.
  for (const uint32_t rows : {16U, 64U, 128U, 256U, 1024U}) {
    MatmulShape shape = problem.shape();
    shape.rows = rows;
    for (const MatmulAlgorithm& algorithm : MatmulProblem(library_, handle_, shape).algorithms(query)) {
      if (problem.accepts(algorithm, workspace_bytes_)) found.push_back(algorithm);
    }
    if (!found.empty()) break;
  }
  return found;
}

const Matmul::Plan& Matmul::make_plan(const Key& key, const Choose& choose) {
  Plan plan;
  plan.problem = problem(key.rows, key.outputs, key.inputs, key.kind);
  const std::vector<MatmulAlgorithm> found = algorithms(*plan.problem, config_ids_, kMostCandidates);
  if (found.empty()) {
    throw HostError("matmul_not_certified",
                    "cuBLASLt has no certified algorithm for a matmul of " + std::to_string(key.rows) +
                        " rows, " + std::to_string(key.outputs) + " outputs and " +
                        std::to_string(key.inputs) + " inputs. Lower the number of tokens a step may have.");
  }
  // One candidate alone is run too: its kernel must be loaded before a graph that holds it is captured.
  const MatmulChoice choice = choose ? choose(*plan.problem, found) : MatmulChoice{};
  plan.algorithm = found[choice.index];
  plan.candidates = static_cast<uint32_t>(found.size());
  plan.microseconds = choice.microseconds;
  return plans_.emplace(key, std::move(plan)).first->second;
}

bool Matmul::uses_plain_kernel(uint32_t outputs, uint32_t inputs, MatmulOutput kind) const {
  const Key key{0, outputs, inputs, kind};
  auto found = plain_.find(key);
  if (found == plain_.end()) found = plain_.emplace(key, find_plain(outputs, inputs, kind)).first;
  return found->second;
}

bool Matmul::find_plain(uint32_t outputs, uint32_t inputs, MatmulOutput kind) const {
  if (kind == MatmulOutput::kHalf && uses_plain_kernel(outputs, inputs, MatmulOutput::kFloat32)) return true;
  // Outputs of more than 2^31 elements are no step's (an LM head makes a few rows), and not every algorithm
  // counts so far.
  const uint64_t most_rows = std::min<uint64_t>(kLastRung, (uint64_t{1} << 31) / outputs);
  for (uint32_t rows = 1; rows <= most_rows; rows = padded_rows(rows + 1)) {
    if (algorithms(*problem(rows, outputs, inputs, kind), config_ids_, 1).empty()) return true;
  }
  return false;
}

void Matmul::set_config_ids(std::vector<int32_t> ids) {
  if (ids == config_ids_) return;
  config_ids_ = std::move(ids);
  forget();
}

void Matmul::set_unrestricted(bool unrestricted) {
  unrestricted_ = unrestricted;
  forget();
}

void Matmul::set_slices(uint32_t slices) {
  set_slices_ = slices;
  forget();
}

void Matmul::forget() {
  plans_.clear();
  plain_.clear();
}

std::vector<MatmulPlanReport> Matmul::plans() const {
  std::vector<MatmulPlanReport> reports;
  for (const auto& [key, plan] : plans_) {
    reports.push_back({plan.problem->shape(), plan.algorithm, plan.candidates, plan.microseconds});
  }
  return reports;
}

}  // namespace kadenz::cuda
