#include "cuda/certificate.h"

#include <algorithm>
#include <cstdio>
#include <map>

#include "cuda/check.h"
#include "cuda/kernels/matmul_probe.h"
#include "cuda/kernels/plain_matmul.h"
#include "cuda/scratch_memory.h"
#include "model/error.h"

namespace kadenz::cuda {

namespace {

constexpr uint32_t kRows[] = {1, 2, 8, 16, 64, 256, 512, 640, 2048};
// The most rows of a shape make its reference: above those that partial outputs are made for, and as many as
// a prefill has; fewer for an LM head, whose outputs would fill the memory.
constexpr uint32_t kMostRows = 2048;
constexpr uint32_t kMostHeadRows = 640;
constexpr uint32_t kHeadOutputs = 65536;
constexpr uint32_t kMostAlgorithms = 8;  // of one problem
// Unlike each other: memory that neither a reference nor a run has written must not compare equal.
constexpr int kReferencePoison = 0x7E;
constexpr int kOutputPoison = 0xFF;

class SelfTest {
 public:
  SelfTest(Matmul& matmul, const CertificateOptions& options)
      : matmul_(matmul),
        options_(options),
        ids_(options.config_ids.empty() ? matmul.config_ids() : options.config_ids),
        counters_(2 * sizeof(unsigned long long)) {
    check(cudaMemset(counters_.get(), 0, counters_.bytes()), "cudaMemset");
    for (const int32_t id : ids_) verdicts_[id].config_id = id;
  }

  void test(const CertifiedShape& shape, uint64_t seed) {
    most_rows_ = shape.outputs <= kHeadOutputs ? kMostRows : kMostHeadRows;
    const uint64_t outputs = uint64_t{most_rows_} * shape.outputs;
    const bool plain = matmul_.uses_plain_kernel(shape.outputs, shape.inputs, MatmulOutput::kFloat32);
    const uint32_t slices = matmul_.slices(shape.outputs, shape.inputs);
    const ScratchMemory weight(uint64_t{shape.outputs} * shape.inputs * 2);
    const ScratchMemory input(uint64_t{most_rows_} * shape.inputs * 2);
    const ScratchMemory reference(outputs * 4);
    const ScratchMemory output(std::max<uint64_t>(outputs, uint64_t{512} * slices * shape.outputs) * 4);
    fill_operand(matmul_.dtype(), weight.get(), uint64_t{shape.outputs} * shape.inputs, 2 * seed, nullptr);
    fill_operand(matmul_.dtype(), input.get(), uint64_t{most_rows_} * shape.inputs, 2 * seed + 1, nullptr);
    check(cudaMemset(reference.get(), kReferencePoison, reference.bytes()), "cudaMemset");
    shape_ = shape;
    memory_ = {weight.get(), input.get(), output.get(), matmul_.workspace(), matmul_.workspace_bytes()};
    output_bytes_ = output.bytes();
    reference_ = reference.as<float>();
    if (!make_reference(plain)) return;
    if (options_.tamper) options_.tamper(reference_, most_rows_, shape.outputs);
    add_digest(reference_, outputs, counters_.as<unsigned long long>() + 1, nullptr);
    for (const uint32_t rows : kRows) {
      if (rows > most_rows_) continue;
      compare_all(rows, MatmulOutput::kFloat32);
      if (shape.kind == MatmulOutput::kHalf) compare_all(rows, MatmulOutput::kHalf);
    }
  }

  void write(Certificate& certificate) {
    for (const auto& [id, verdict] : verdicts_) {
      certificate.algorithms.push_back(verdict);
      certificate.comparisons += verdict.runs;
      certificate.differing += verdict.differing;
    }
    unsigned long long counts[2];
    check(cudaMemcpy(counts, counters_.get(), sizeof counts, cudaMemcpyDeviceToHost), "cudaMemcpy");
    certificate.digest = counts[1];
  }

 private:
  // False when the library offers no algorithm of any of the ids.
  bool make_reference(bool plain) {
    MatmulMemory memory = memory_;
    memory.output = reference_;
    if (plain) {
      run_plain(most_rows_, 0, reference_, MatmulOutput::kFloat32);
      return true;
    }
    const auto problem =
        matmul_.problem(most_rows_, shape_.outputs, shape_.inputs, MatmulOutput::kFloat32, true);
    for (const int32_t& id : ids_) {
      const auto found = matmul_.algorithms(*problem, std::span(&id, 1), 1);
      if (found.empty()) continue;
      problem->launch(found.front(), memory, nullptr);
      return true;
    }
    return false;
  }

  void compare_all(uint32_t rows, MatmulOutput kind) {
    const uint32_t first_row = most_rows_ - rows;
    const bool plain = matmul_.uses_plain_kernel(shape_.outputs, shape_.inputs, kind);
    // The plain kernel has an order of its own: what it rounds cannot be held against the library's sums.
    if (plain != matmul_.uses_plain_kernel(shape_.outputs, shape_.inputs, MatmulOutput::kFloat32)) return;
    if (plain) {
      poison();
      run_plain(rows, first_row, memory_.output, kind);
      judge(kPlainKernelId, rows, first_row, 1, kind);
      return;
    }
    const auto problem = matmul_.problem(rows, shape_.outputs, shape_.inputs, kind);
    MatmulMemory memory = memory_;
    memory.input = input_from(first_row);
    for (const int32_t& id : ids_) {
      for (const MatmulAlgorithm& algorithm :
           matmul_.algorithms(*problem, std::span(&id, 1), kMostAlgorithms)) {
        poison();
        problem->launch(algorithm, memory, nullptr);
        judge(id, rows, first_row, problem->shape().batched ? problem->shape().slices : 1, kind);
      }
    }
    poison();
    if (matmul_.run_own_kernel(memory.weight, memory.input, rows, shape_.outputs, shape_.inputs, memory.output,
                               kind, nullptr)) {
      judge(kOwnKernelId, rows, first_row, matmul_.slices_written(rows, shape_.outputs, shape_.inputs), kind);
    }
  }

  void judge(int32_t id, uint32_t rows, uint32_t first_row, uint32_t slices, MatmulOutput kind) {
    const uint64_t count = uint64_t{rows} * shape_.outputs;
    count_differing(matmul_.dtype(),
                    {memory_.output, kind == MatmulOutput::kHalf, slices, count,
                     reference_ + uint64_t{first_row} * shape_.outputs, count},
                    counters_.as<unsigned long long>(), nullptr);
    unsigned long long elements = 0;
    check(cudaMemcpy(&elements, counters_.get(), sizeof elements, cudaMemcpyDeviceToHost), "cudaMemcpy");
    AlgorithmVerdict& verdict = verdicts_[id];
    verdict.config_id = id;
    ++verdict.runs;
    if (elements != elements_before_) ++verdict.differing;
    elements_before_ = elements;
  }

  void poison() { check(cudaMemset(memory_.output, kOutputPoison, output_bytes_), "cudaMemset"); }

  const void* input_from(uint32_t row) const {
    return static_cast<const std::byte*>(memory_.input) + uint64_t{row} * shape_.inputs * 2;
  }

  void run_plain(uint32_t rows, uint32_t first_row, void* output, MatmulOutput kind) {
    plain_matmul({matmul_.dtype(), memory_.weight, input_from(first_row), rows, shape_.outputs, shape_.inputs,
                  output, kind == MatmulOutput::kHalf},
                 nullptr);
  }

  Matmul& matmul_;
  const CertificateOptions& options_;
  std::vector<int32_t> ids_;
  ScratchMemory counters_;  // elements that differ so far; the digest
  unsigned long long elements_before_ = 0;
  std::map<int32_t, AlgorithmVerdict> verdicts_;
  CertifiedShape shape_{};
  uint32_t most_rows_ = 0;
  MatmulMemory memory_{};
  uint64_t output_bytes_ = 0;
  float* reference_ = nullptr;
};

std::string gpu_in_words() {
  int device = 0;
  cudaDeviceProp properties{};
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  return std::string(properties.name) + " (" + std::to_string(properties.major) + "." +
         std::to_string(properties.minor) + ")";
}

std::string name_of(int32_t kernel_id) { return kernel_id == kPlainKernelId ? "plain" : "own"; }

std::string fingerprint_of(const Certificate& certificate, Half dtype) {
  std::string ids;
  for (const AlgorithmVerdict& verdict : certificate.algorithms) {
    if (!verdict.ok()) continue;
    ids += (ids.empty() ? "" : ",") +
           (verdict.config_id >= 0 ? std::to_string(verdict.config_id) : name_of(verdict.config_id));
  }
  char digest[17];
  std::snprintf(digest, sizeof digest, "%016llx", static_cast<unsigned long long>(certificate.digest));
  return "cublaslt " + std::to_string(certificate.library_version) + "; " + certificate.gpu + "; " +
         (dtype == Half::kBFloat16 ? "bfloat16" : "float16") + "; algorithms " +
         (ids.empty() ? "none" : ids) + "; digest " + digest;
}

}  // namespace

Certificate certify(Matmul& matmul, std::span<const CertifiedShape> shapes,
                    const CertificateOptions& options) {
  Certificate certificate;
  certificate.library_version = matmul.library().version;
  certificate.library_path = matmul.library().path;
  certificate.gpu = gpu_in_words();
  SelfTest test(matmul, options);
  uint64_t seed = 0;
  for (const CertifiedShape& shape : shapes) {
    if (matmul.uses_plain_kernel(shape.outputs, shape.inputs, shape.kind)) {
      certificate.plain_shapes.push_back(shape);
    }
    test.test(shape, seed++);
  }
  test.write(certificate);
  certificate.fingerprint = fingerprint_of(certificate, matmul.dtype());
  return certificate;
}

void admit(Matmul& matmul, const Certificate& certificate) {
  std::vector<int32_t> ids;
  bool plain_differs = false;
  bool tried = false;
  bool own_ok = false;
  std::string verdicts;
  for (const AlgorithmVerdict& verdict : certificate.algorithms) {
    const bool library = verdict.config_id >= 0;
    if (verdict.config_id == kPlainKernelId) plain_differs = verdict.differing > 0;
    if (verdict.config_id == kOwnKernelId) own_ok = verdict.ok();
    if (library && verdict.runs > 0) tried = true;
    if (library && verdict.ok()) ids.push_back(verdict.config_id);
    if (verdict.runs == 0) continue;
    verdicts += (verdicts.empty() ? "" : ", ") +
                (library ? "id " + std::to_string(verdict.config_id)
                         : "the " + name_of(verdict.config_id) + " kernel") +
                " differed in " + std::to_string(verdict.differing) + " of " + std::to_string(verdict.runs) +
                " runs";
  }
  if (plain_differs || (tried && ids.empty())) {
    throw HostError("matmul_not_certified",
                    "On " + certificate.gpu + " with cuBLASLt " +
                        std::to_string(certificate.library_version) +
                        " no matmul algorithm gave equal bits for every number of rows (" + verdicts +
                        "). Try another version of cuBLASLt (KADENZ_CUBLASLT); nothing was computed.");
  }
  // Only plain shapes: nothing of the library's was tried, and nothing of it will run for them.
  if (tried) matmul.set_config_ids(std::move(ids));
  matmul.allow_own_kernel(own_ok);
}

}  // namespace kadenz::cuda
