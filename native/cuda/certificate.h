// The self-test of the matmuls on one GPU: do the algorithms that may run give one row the same bits whatever
// the number of rows, wherever the row lies, and whichever of them runs? It asks the library in place with
// the model's own shapes, in float32, so that no rounding hides a difference. What it found is part of a
// trace's fingerprint; an algorithm that differs once does not run.
//
// The method: for each shape a reference is made at the largest number of rows, its
// slices added one after the other. Then every algorithm of every id runs at every
// number of rows, on the last of the same rows (so that each row lies elsewhere than in
// the reference), into poisoned memory, and all of its rows are compared bit by bit.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "cuda/matmul.h"

namespace kadenz::cuda {

struct CertifiedShape {
  uint32_t outputs;
  uint32_t inputs;
  MatmulOutput kind;  // kHalf: the rounded output is compared too
};

// Among the verdicts
inline constexpr int32_t kPlainKernelId = -1;  // plain_matmul
inline constexpr int32_t kOwnKernelId = -2;    // gemm

struct AlgorithmVerdict {
  int32_t config_id = 0;
  uint32_t runs = 0;       // (shape, rows, algorithm), each all rows and outputs
  uint32_t differing = 0;  // runs with at least one other bit
  bool ok() const { return runs > 0 && differing == 0; }
};

struct Certificate {
  uint64_t library_version = 0;
  std::string library_path;
  std::string gpu;  // its name and compute capability
  std::vector<AlgorithmVerdict> algorithms;
  uint64_t comparisons = 0;  // runs in all
  uint64_t differing = 0;
  uint64_t digest = 0;  // of the references' bits: equal on machines whose matmuls have equal bits
  std::vector<CertifiedShape> plain_shapes;  // those that run on plain_matmul
  // One line of what results depend on: library, GPU, ids that passed, digest.
  std::string fingerprint;
};

struct CertificateOptions {
  // Ids to try; none: those that the matmul may use. The first that the library offers makes the reference.
  std::vector<int32_t> config_ids;
  // Called with each reference before it is compared with: the self-test's own test spoils it here.
  std::function<void(float* reference, uint64_t rows, uint64_t outputs)> tamper;
};

// Waits for the device; needs memory for one weight and two outputs of 2,048 rows (of an LM head 640) at a
// time.
Certificate certify(Matmul& matmul, std::span<const CertifiedShape> shapes,
                    const CertificateOptions& options = {});

// Lets only ids run that passed, and our own kernel if it did. HostError("matmul_not_certified") when none did.
void admit(Matmul& matmul, const Certificate& certificate);

}  // namespace kadenz::cuda
