// Activations on the CPU.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"
#include "cpu/memory.h"
#include "model/checked_math.h"
#include "model/ops.h"

namespace kadenz {

// Rows of floats, an odd number of cache lines apart: rows that are read side by side then fall into
// different sets of the cache, whatever the model's sizes.
class FloatRows : public Activations {
 public:
  FloatRows(uint32_t rows, uint32_t columns)
      : rows_(rows), stride_((int64_t{columns} + kLanes - 1) / kLanes * kLanes), storage_() {
    if (stride_ / kLanes % 2 == 0) stride_ += kLanes;
    const uint64_t floats = checked_multiply(rows, static_cast<uint64_t>(stride_), "activations");
    storage_ = PageBuffer(checked_multiply(floats, sizeof(float), "activations"), "activations");
  }

  uint64_t bytes() const override { return storage_.bytes(); }
  uint32_t rows() const { return rows_; }
  int64_t stride() const { return stride_; }
  float* row(uint64_t index) { return storage_.floats() + index * static_cast<uint64_t>(stride_); }
  const float* row(uint64_t index) const {
    return storage_.floats() + index * static_cast<uint64_t>(stride_);
  }

 private:
  uint32_t rows_;
  int64_t stride_;
  PageBuffer storage_;
};

inline FloatRows& rows_of(Activations& activations) { return static_cast<FloatRows&>(activations); }
inline const FloatRows& rows_of(const Activations& activations) {
  return static_cast<const FloatRows&>(activations);
}

}  // namespace kadenz
