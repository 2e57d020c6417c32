#include "cuda/matmul_problem.h"

#include <algorithm>
#include <numeric>

namespace kadenz::cuda {

namespace {

constexpr uint32_t kHalfBytes = 2;
// Algorithms asked of the library, of which ours are picked.
constexpr int kFewOffered = 8;
constexpr int kOffered = 32;

int32_t half_type(Half dtype) { return dtype == Half::kBFloat16 ? lt::kBFloat16 : lt::kFloat16; }

uint32_t output_bytes(MatmulOutput kind) { return kind == MatmulOutput::kFloat32 ? 4 : kHalfBytes; }

// What every row, slice and batch entry is aligned to when the matrix itself is aligned to 16 bytes.
uint32_t alignment_bytes(uint64_t stride_bytes) {
  return static_cast<uint32_t>(std::gcd(uint64_t{16}, stride_bytes));
}

class PreferenceHolder {
 public:
  PreferenceHolder(const CublasLt& library, const MatmulShape& shape, const AlgorithmQuery& query)
      : library_(library) {
    check_lt(library_.preference_create(&preference_), "cublasLtMatmulPreferenceCreate");
    const uint64_t row_bytes = uint64_t{kHalfBytes} * shape.inputs;
    const uint32_t operands = std::min(alignment_bytes(row_bytes), alignment_bytes(row_bytes / shape.slices));
    const uint32_t result = alignment_bytes(uint64_t{output_bytes(shape.kind)} * shape.outputs);
    aligned_ = operands == 16 && result == 16;
    set(lt::kMostWorkspaceBytes, query.workspace_bytes);
    set(lt::kReductionSchemeMask, query.unrestricted ? lt::kReductionAny : lt::kReductionNone);
    set(lt::kMinAlignmentA, operands);
    set(lt::kMinAlignmentB, operands);
    set(lt::kMinAlignmentC, result);
    set(lt::kMinAlignmentD, result);
  }
  ~PreferenceHolder() { library_.preference_destroy(preference_); }
  PreferenceHolder(const PreferenceHolder&) = delete;
  PreferenceHolder& operator=(const PreferenceHolder&) = delete;

  lt::Preference get() const { return preference_; }
  bool aligned() const { return aligned_; }

 private:
  template <class T>
  void set(int32_t attribute, T value) {
    check_lt(library_.preference_set(preference_, attribute, &value, sizeof value),
             "cublasLtMatmulPreferenceSetAttribute");
  }

  const CublasLt& library_;
  lt::Preference preference_ = nullptr;
  bool aligned_ = false;
};

template <class T>
T attribute_of(const CublasLt& library, const lt::AlgorithmData& algorithm, int32_t attribute) {
  T value{};
  size_t written = 0;
  check_lt(library.algorithm_get(&algorithm, attribute, &value, sizeof value, &written),
           "cublasLtMatmulAlgoConfigGetAttribute");
  return value;
}

// For tables only, and not every algorithm knows every attribute.
template <class T>
T attribute_or_zero(const CublasLt& library, const lt::AlgorithmData& algorithm, int32_t attribute) {
  T value{};
  size_t written = 0;
  return library.algorithm_get(&algorithm, attribute, &value, sizeof value, &written) == lt::kSuccess ? value
                                                                                                      : T{};
}

MatmulAlgorithm read(const CublasLt& library, const lt::HeuristicResult& result) {
  const lt::AlgorithmData& data = result.algorithm;
  MatmulAlgorithm algorithm;
  algorithm.data = data;
  algorithm.workspace_bytes = result.workspace_bytes;
  algorithm.config_id = attribute_of<int32_t>(library, data, lt::kConfigId);
  algorithm.split_k = attribute_of<int32_t>(library, data, lt::kConfigSplitK);
  algorithm.reduction = attribute_of<uint32_t>(library, data, lt::kConfigReduction);
  algorithm.tile = attribute_or_zero<uint32_t>(library, data, lt::kConfigTile);
  algorithm.stages = attribute_or_zero<uint32_t>(library, data, lt::kConfigStages);
  algorithm.cluster = attribute_or_zero<uint16_t>(library, data, lt::kConfigCluster);
  return algorithm;
}

// K in one piece, from its first to its last element: 0 and 1 are the two ways in which the library says so.
bool whole_k(const MatmulAlgorithm& algorithm) {
  return algorithm.reduction == lt::kReductionNone && (algorithm.split_k == 0 || algorithm.split_k == 1);
}

}  // namespace

MatmulProblem::MatmulProblem(const CublasLt& library, lt::Handle handle, const MatmulShape& shape)
    : library_(library), handle_(handle), shape_(shape) {
  try {
    describe();
  } catch (...) {
    release();
    throw;
  }
}

MatmulProblem::~MatmulProblem() { release(); }

void MatmulProblem::describe() {
  check_lt(library_.description_create(&description_, lt::kCompute32F, lt::kFloat32),
           "cublasLtMatmulDescCreate");
  check_lt(library_.description_set(description_, lt::kTransposeA, &lt::kTransposed, sizeof lt::kTransposed),
           "cublasLtMatmulDescSetAttribute");
  const int32_t operand = half_type(shape_.dtype);
  const int32_t result = shape_.kind == MatmulOutput::kFloat32 ? lt::kFloat32 : operand;
  const uint32_t depth = shape_.inputs / shape_.slices;
  check_lt(library_.layout_create(&weight_, operand, depth, shape_.outputs, shape_.inputs),
           "cublasLtMatrixLayoutCreate");
  check_lt(library_.layout_create(&input_, operand, depth, shape_.rows, shape_.inputs),
           "cublasLtMatrixLayoutCreate");
  check_lt(library_.layout_create(&output_, result, shape_.outputs, shape_.rows, shape_.outputs),
           "cublasLtMatrixLayoutCreate");
  if (!shape_.batched || shape_.slices == 1) return;
  const auto batch = [&](lt::MatrixLayout layout, int64_t stride) {
    const auto count = static_cast<int32_t>(shape_.slices);
    check_lt(library_.layout_set(layout, lt::kBatchCount, &count, sizeof count),
             "cublasLtMatrixLayoutSetAttribute");
    check_lt(library_.layout_set(layout, lt::kStridedBatchOffset, &stride, sizeof stride),
             "cublasLtMatrixLayoutSetAttribute");
  };
  batch(weight_, depth);
  batch(input_, depth);
  batch(output_, int64_t{shape_.rows} * shape_.outputs);
}

void MatmulProblem::release() {
  if (output_ != nullptr) library_.layout_destroy(output_);
  if (input_ != nullptr) library_.layout_destroy(input_);
  if (weight_ != nullptr) library_.layout_destroy(weight_);
  if (description_ != nullptr) library_.description_destroy(description_);
}

std::vector<MatmulAlgorithm> MatmulProblem::algorithms(const AlgorithmQuery& query) const {
  const PreferenceHolder preference(library_, shape_, query);
  // One algorithm is nearly always among the first few, and a short list is made sooner than a long one.
  std::vector<MatmulAlgorithm> found;
  if (query.most == 1) found = pick(query, preference.get(), preference.aligned(), kFewOffered);
  if (found.empty()) found = pick(query, preference.get(), preference.aligned(), kOffered);
  return found;
}

std::vector<MatmulAlgorithm> MatmulProblem::pick(const AlgorithmQuery& query, lt::Preference preference,
                                                 bool aligned, int offered) const {
  std::vector<lt::HeuristicResult> results(offered);
  int count = 0;
  const lt::Status status = library_.heuristic(handle_, description_, weight_, input_, output_, output_,
                                               preference, offered, results.data(), &count);
  // Rows off the 16-byte grid are refused in more than one way; a shape on the grid has no such excuse.
  if (status != lt::kNotSupported && aligned) check_lt(status, "cublasLtMatmulAlgoGetHeuristic");
  std::vector<MatmulAlgorithm> found;
  if (status != lt::kSuccess) return found;
  const auto wanted = [&](int32_t id) {
    return query.config_ids.empty() ||
           std::find(query.config_ids.begin(), query.config_ids.end(), id) != query.config_ids.end();
  };
  for (int i = 0; i < count && found.size() < query.most; ++i) {
    if (results[i].state != lt::kSuccess) continue;
    const MatmulAlgorithm algorithm = read(library_, results[i]);
    if (!query.unrestricted && !whole_k(algorithm)) continue;
    if (wanted(algorithm.config_id)) found.push_back(algorithm);
  }
  return found;
}

bool MatmulProblem::accepts(const MatmulAlgorithm& algorithm, uint64_t workspace_bytes) const {
  lt::HeuristicResult result{};
  const lt::Status status = library_.algorithm_check(handle_, description_, weight_, input_, output_, output_,
                                                     &algorithm.data, &result);
  return status == lt::kSuccess && result.workspace_bytes <= workspace_bytes;
}

void MatmulProblem::launch(const MatmulAlgorithm& algorithm, const MatmulMemory& memory,
                           cudaStream_t stream) const {
  const float one = 1.0F;
  const float zero = 0.0F;
  const uint32_t passes = shape_.batched ? 1 : shape_.slices;
  const uint64_t slice_bytes = uint64_t{kHalfBytes} * (shape_.inputs / shape_.slices);
  for (uint32_t pass = 0; pass < passes; ++pass) {
    check_lt(library_.matmul(handle_, description_, &one,
                             static_cast<const std::byte*>(memory.weight) + pass * slice_bytes, weight_,
                             static_cast<const std::byte*>(memory.input) + pass * slice_bytes, input_,
                             pass == 0 ? &zero : &one, memory.output, output_, memory.output, output_,
                             &algorithm.data, memory.workspace, memory.workspace_bytes, stream),
             "cublasLtMatmul");
  }
}

}  // namespace kadenz::cuda
