// One matmul as cuBLASLt knows it: descriptors for a shape, the algorithms the library offers for it, and the
// launch of one of them. Matmul makes these, chooses and keeps them.
//
// cuBLASLt counts columns first, so Y = X W^T is asked for as D = A^T B with A = W (inputs
// x outputs), B = X (inputs x rows), D = Y (outputs x rows): every matrix is dense and
// row-major to us. With slices, K is cut in equal parts: batched, slice s writes its own
// [rows][outputs] at output + s * rows * outputs; else the slices are added one after the
// other into one [rows][outputs], which gives the bits of the batched sums added in order.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cuda/cublaslt.h"
#include "cuda/half.h"

namespace kadenz::cuda {

enum class MatmulOutput : uint8_t { kFloat32, kHalf };

struct MatmulShape {
  Half dtype = Half::kBFloat16;
  uint32_t rows = 0;
  uint32_t outputs = 0;
  uint32_t inputs = 0;
  uint32_t slices = 1;  // divides inputs
  bool batched = false;
  MatmulOutput kind = MatmulOutput::kFloat32;
};

struct MatmulAlgorithm {
  lt::AlgorithmData data{};
  uint64_t workspace_bytes = 0;
  int32_t config_id = 0;
  int32_t split_k = 0;
  uint32_t reduction = 0;
  uint32_t tile = 0;
  uint32_t stages = 0;
  uint16_t cluster = 0;
};

struct AlgorithmQuery {
  uint64_t workspace_bytes = 0;
  bool unrestricted = false;            // split-K and every reduction too
  std::span<const int32_t> config_ids;  // none: any
  uint32_t most = 8;
};

struct MatmulMemory {
  const void* weight;
  const void* input;
  void* output;
  void* workspace;
  uint64_t workspace_bytes;
};

class MatmulProblem {
 public:
  MatmulProblem(const CublasLt& library, lt::Handle handle, const MatmulShape& shape);
  ~MatmulProblem();
  MatmulProblem(const MatmulProblem&) = delete;
  MatmulProblem& operator=(const MatmulProblem&) = delete;

  const MatmulShape& shape() const { return shape_; }
  // In the library's order, the one it thinks fastest first.
  std::vector<MatmulAlgorithm> algorithms(const AlgorithmQuery& query) const;
  // Whether an algorithm found for another number of rows can run this problem too.
  bool accepts(const MatmulAlgorithm& algorithm, uint64_t workspace_bytes) const;
  void launch(const MatmulAlgorithm& algorithm, const MatmulMemory& memory, cudaStream_t stream) const;

 private:
  void describe();
  std::vector<MatmulAlgorithm> pick(const AlgorithmQuery& query, lt::Preference preference, bool aligned,
                                    int offered) const;
  void release();

  const CublasLt& library_;
  lt::Handle handle_;
  MatmulShape shape_;
  lt::MatmulDescription description_ = nullptr;
  lt::MatrixLayout weight_ = nullptr;
  lt::MatrixLayout input_ = nullptr;
  lt::MatrixLayout output_ = nullptr;
};

}  // namespace kadenz::cuda
