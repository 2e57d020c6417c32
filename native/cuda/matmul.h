// The matmuls of the model, batch-invariant: Y[r][n] = sum over k of X[r][k] W[n][k].
// W: Half [outputs][inputs], X: Half [rows][inputs], both row-major; sums in float32.
//
// What keeps a row's bits: K is cut into slices(outputs, inputs) equal slices, a function of
// the shape alone; each slice is summed whole by an algorithm whose bits the certificate
// compared (cuBLASLt's configuration 66 on Hopper and newer; never split-K), and slices are
// added in their order. Among the algorithms that passed the fastest is taken, which changes
// no bit; so is our own kernel where rows are few. A shape that none of them takes runs on plain_matmul for every number of rows.
//
// One thread at a time. prepare(), slices(), the certificate and a run() while timing is set may allocate and
// wait for the device: call them at start, never while a stream is captured. Else run() does neither.
#pragma once

#include <compare>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "cuda/kernels/gemm.h"
#include "cuda/matmul_choice.h"
#include "cuda/matmul_problem.h"

namespace kadenz::cuda {

// What was chosen for one shape, for logs and tables.
struct MatmulPlanReport {
  MatmulShape shape;
  MatmulAlgorithm algorithm;
  uint32_t candidates;
  float microseconds;  // 0: taken without timing
};

class Matmul {
 public:
  // Fixed: its size is part of what the library picks by.
  static constexpr uint64_t kWorkspaceBytes = 32ULL << 20;

  // workspace: device memory, aligned to 256 bytes, alive as long as this and the graphs that captured it
  Matmul(Half dtype, uint64_t workspace_bytes, void* workspace);
  ~Matmul();
  Matmul(const Matmul&) = delete;
  Matmul& operator=(const Matmul&) = delete;

  uint32_t slices(uint32_t outputs, uint32_t inputs) const;
  // The next rung of the ladder of row counts that plans are made for. X and Y have memory for that many.
  static uint32_t padded_rows(uint32_t rows);
  // How many partial outputs run() writes: partial s begins at output + s *
  // padded_rows(rows) * outputs floats. Above 512 rows the slices are added
  // one after the other into one output (the same bits), and this is 1.
  uint32_t slices_written(uint32_t rows, uint32_t outputs, uint32_t inputs) const;

  // kHalf only where slices(outputs, inputs) is 1: the float32 sum, rounded once.
  void run(const void* weight, const void* input, uint32_t rows, uint32_t outputs, uint32_t inputs,
           void* output, MatmulOutput kind, cudaStream_t stream);
  // Makes the plan ahead of its first run, timing the algorithms on stand-ins for up to 256 rows. With the
  // real weight no stand-in of its size is allocated.
  void prepare(uint32_t rows, uint32_t outputs, uint32_t inputs, MatmulOutput kind,
               const void* weight = nullptr);

  // While set, a run() of up to 256 rows that has no plan yet times the algorithms on its own operands. For
  // the eager pass before a graph is captured, which has the real ones at hand.
  void set_timing(bool timing) { timing_ = timing; }

  // Whether the shape runs on plain_matmul, at every number of rows.
  bool uses_plain_kernel(uint32_t outputs, uint32_t inputs, MatmulOutput kind) const;

  // The gated half of a feed-forward, for few rows: output[r] = Half(silu(Half(gate)) * Half(up)), weight [gate;
  // up] of `outputs` rows. False, and nothing done, where that kernel does not take the shape: then run() with
  // kHalf and silu_mul() give the same bits.
  bool run_gated(const void* weight, const void* input, uint32_t rows, uint32_t outputs, uint32_t inputs,
                 void* output, cudaStream_t stream);

  // Whether our own kernel (kernels/gemm.h) may run where it is faster: on Hopper, once the certificate found
  // its bits to be the library's.
  void allow_own_kernel(bool allowed) { own_kernel_ = allowed; }
  // Runs it for the certificate, whether it is allowed or not; false where it does not take the problem.
  bool run_own_kernel(const void* weight, const void* input, uint32_t rows, uint32_t outputs, uint32_t inputs,
                      void* output, MatmulOutput kind, cudaStream_t stream) const;

  // The algorithms that may run, by configuration id. Other ones forget every plan.
  const std::vector<int32_t>& config_ids() const { return config_ids_; }
  void set_config_ids(std::vector<int32_t> ids);

  // For the benchmark of the price of invariance: whatever the library likes, split-K included, one slice.
  void set_unrestricted(bool unrestricted);
  // For the benchmark of the rule: this many slices for every shape that they divide; 0: the rule.
  void set_slices(uint32_t slices);

  // For the certificate: the problem as run() would pose it, and algorithms of the given ids for it. With
  // `accumulated` the slices are added one after the other whatever the number of rows.
  std::unique_ptr<MatmulProblem> problem(uint32_t padded_rows, uint32_t outputs, uint32_t inputs,
                                         MatmulOutput kind, bool accumulated = false) const;
  std::vector<MatmulAlgorithm> algorithms(const MatmulProblem& problem, std::span<const int32_t> config_ids,
                                          uint32_t most) const;

  Half dtype() const { return dtype_; }
  void* workspace() const { return workspace_; }
  uint64_t workspace_bytes() const { return workspace_bytes_; }
  const CublasLt& library() const { return library_; }
  std::vector<MatmulPlanReport> plans() const;

 private:
  struct Key {
    uint32_t rows, outputs, inputs;
    MatmulOutput kind;
    auto operator<=>(const Key&) const = default;
  };
  struct Plan {
    std::unique_ptr<MatmulProblem> problem;
    MatmulAlgorithm algorithm;
    uint32_t candidates = 0;
    float microseconds = 0.0F;
  };

  void require_one_output(uint32_t outputs, uint32_t inputs, MatmulOutput kind) const;
  uint32_t wanted_slices(uint32_t outputs, uint32_t inputs) const;
  // Without `choose` the library's first algorithm is taken.
  using Choose = std::function<MatmulChoice(const MatmulProblem&, std::span<const MatmulAlgorithm>)>;
  const Plan& make_plan(const Key& key, const Choose& choose);
  bool find_plain(uint32_t outputs, uint32_t inputs, MatmulOutput kind) const;
  void forget();
  GemmArgs gemm_args(const void* weight, const void* input, uint32_t rows, uint32_t outputs, uint32_t inputs,
                     void* output, MatmulOutput kind) const;

  CublasLt library_;
  Half dtype_;
  uint64_t workspace_bytes_;
  void* workspace_;
  lt::Handle handle_ = nullptr;
  std::vector<int32_t> config_ids_;
  bool unrestricted_ = false;
  bool own_kernel_ = false;
  bool timing_ = false;
  uint32_t set_slices_ = 0;
  std::map<Key, Plan> plans_;
  mutable std::map<Key, bool> plain_;  // rows are 0 in these keys
};

}  // namespace kadenz::cuda
