// Weights as the CPU keeps them.
//
// A matrix for matmuls is panels, [ceil(outputs / 16)][inputs][16], the last one padded with zeros; one for
// look-ups only is rows, [outputs][inputs]. Elements keep the checkpoint's dtype when all parts share it
// (float32 if they don't), or are rounded to bfloat16. A vector is float32, rounded to bfloat16 and widened
// again where that is asked for.
#pragma once

#include <cstdint>
#include <span>

#include "cpu/kernels.h"
#include "cpu/memory.h"
#include "cpu/thread_pool.h"
#include "model/ops.h"

namespace kadenz {

class PackedMatrix : public WeightMatrix {
 public:
  PackedMatrix(std::span<const TensorView> parts, WeightPrecision precision, MatrixUse use, ThreadPool& pool,
               PageArena& arena);

  uint64_t bytes() const override { return storage_.bytes; }
  int64_t inputs() const { return inputs_; }
  int64_t outputs() const { return outputs_; }
  bool has_panels() const { return has_panels_; }
  int64_t num_panels() const { return (outputs_ + kLanes - 1) / kLanes; }
  // With panels: what the matmul kernels take. With rows: `panels` points at row 0.
  MatmulWeight view(const float* bias) const { return {storage_.data, dtype_, inputs_, outputs_, bias}; }
  const void* row(int64_t index) const {
    return storage_.data + static_cast<uint64_t>(index * inputs_) * dtype_bytes(dtype_);
  }
  DType dtype() const { return dtype_; }

 private:
  DType dtype_ = DType::kFloat32;
  bool has_panels_ = true;
  int64_t inputs_ = 0;
  int64_t outputs_ = 0;
  PageSlice storage_;
};

// [gate; up]: two matrices, since each begins with a panel of its own.
class PackedGate : public WeightMatrix {
 public:
  PackedGate(std::span<const TensorView> parts, WeightPrecision precision, ThreadPool& pool, PageArena& arena)
      : gate_(parts.first(1), precision, MatrixUse::kLinear, pool, arena),
        up_(parts.subspan(1), precision, MatrixUse::kLinear, pool, arena) {}

  uint64_t bytes() const override { return gate_.bytes() + up_.bytes(); }
  const PackedMatrix& gate() const { return gate_; }
  const PackedMatrix& up() const { return up_; }

 private:
  PackedMatrix gate_, up_;
};

class PackedVector : public WeightVector {
 public:
  PackedVector(std::span<const TensorView> parts, WeightPrecision precision);

  uint64_t bytes() const override { return storage_.bytes(); }
  const float* data() const { return storage_.floats(); }

 private:
  PageBuffer storage_;
};

}  // namespace kadenz
