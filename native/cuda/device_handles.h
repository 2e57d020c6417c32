// What the decoder's opaque handles are on a GPU: pointers into the device's arenas, which own the memory. A
// handle that goes frees nothing; the arena is reset or unmapped as a whole.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>

#include "cuda/kernels/rows.h"
#include "model/error.h"
#include "model/ops.h"

namespace kadenz::cuda {

// Half [padded_outputs][inputs]. An LM head's outputs are rounded up with rows of zeros, since fast matmuls want
// multiples of 8 and not every vocabulary is one.
class DeviceMatrix : public WeightMatrix {
 public:
  DeviceMatrix(void* data, uint32_t outputs, uint32_t padded_outputs, uint32_t inputs)
      : data_(data), outputs_(outputs), padded_outputs_(padded_outputs), inputs_(inputs) {}
  uint64_t bytes() const override { return uint64_t{padded_outputs_} * inputs_ * 2; }
  const void* data() const { return data_; }
  uint32_t outputs() const { return outputs_; }
  uint32_t padded_outputs() const { return padded_outputs_; }
  uint32_t inputs() const { return inputs_; }

 private:
  void* data_;
  uint32_t outputs_, padded_outputs_, inputs_;
};

class DeviceVector : public WeightVector {  // float32, rounded to the weights' dtype where that was asked for
 public:
  DeviceVector(float* data, uint64_t count) : data_(data), count_(count) {}
  uint64_t bytes() const override { return count_ * sizeof(float); }
  const float* data() const { return data_; }
  uint64_t count() const { return count_; }

 private:
  float* data_;
  uint64_t count_;
};

// kResidual: float32 [rows][columns]. kOperand: Half. kSums: float32 partial sums, which `sums` tells how to
// finish; whoever reads them does.
class DeviceRows : public Activations {
 public:
  DeviceRows(void* data, uint32_t rows, uint32_t columns, ActivationUse use, uint64_t bytes)
      : data_(data), rows_(rows), columns_(columns), use_(use), bytes_(bytes) {}
  uint64_t bytes() const override { return bytes_; }
  uint32_t rows() const { return rows_; }
  uint32_t columns() const { return columns_; }
  ActivationUse use() const { return use_; }
  uint64_t row_bytes() const { return uint64_t{columns_} * (use_ == ActivationUse::kOperand ? 2 : 4); }
  std::byte* row(uint32_t index) const { return static_cast<std::byte*>(data_) + index * row_bytes(); }
  float* floats() const { return static_cast<float*>(data_); }

  SumSource sums;

 private:
  void* data_;
  uint32_t rows_, columns_;
  ActivationUse use_;
  uint64_t bytes_;
};

// [layers][num_blocks][2 (k, v)][num_kv_heads][block_size][head_dim_padded] of Half. Gives the memory back when
// it goes.
class DeviceKvCache : public KvCache {
 public:
  DeviceKvCache(std::byte* data, uint32_t num_layers, uint32_t num_blocks, uint64_t block_bytes,
                std::function<void()> give_back)
      : data_(data),
        num_layers_(num_layers),
        layer_bytes_(num_blocks * block_bytes),
        block_bytes_(block_bytes),
        give_back_(std::move(give_back)) {}
  ~DeviceKvCache() override {
    try {
      give_back_();
    } catch (const HostError&) {  // a device in error gives nothing back; who waits for it is told
    }
  }
  uint64_t bytes() const override { return num_layers_ * layer_bytes_; }
  std::byte* layer(uint32_t index) const { return data_ + index * layer_bytes_; }
  uint32_t num_layers() const { return num_layers_; }
  uint64_t layer_bytes() const { return layer_bytes_; }
  uint64_t block_bytes() const { return block_bytes_; }  // of one layer

 private:
  std::byte* data_;
  uint32_t num_layers_;
  uint64_t layer_bytes_, block_bytes_;
  std::function<void()> give_back_;
};

}  // namespace kadenz::cuda
