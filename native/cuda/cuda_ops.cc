#include "cuda/cuda_ops.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "cuda/kernels/attention.h"
#include "cuda/kernels/rotate.h"
#include "cuda/kernels/rows.h"
#include "model/checked_math.h"
#include "model/error.h"

namespace kadenz::cuda {
namespace {

const DeviceMatrix& matrix_of(const Linear& linear) { return static_cast<const DeviceMatrix&>(*linear.weight); }
const float* data_of(const WeightVector* vector) {
  return vector == nullptr ? nullptr : static_cast<const DeviceVector*>(vector)->data();
}
DeviceRows& rows_of(Activations& activations) { return static_cast<DeviceRows&>(activations); }
const DeviceRows& rows_of(const Activations& activations) {
  return static_cast<const DeviceRows&>(activations);
}

}  // namespace

void CudaOps::copy_blocks(KvCache& cache, std::span<const BlockCopy> copies) {
  DeviceKvCache& paged = static_cast<DeviceKvCache&>(cache);
  // Copies are done in order; those of one launch must not read or write what another of them writes.
  size_t first = 0;
  while (first < copies.size()) {
    size_t end = first + 1;
    const auto independent = [&](const BlockCopy& copy) {
      return std::none_of(copies.begin() + static_cast<ptrdiff_t>(first),
                          copies.begin() + static_cast<ptrdiff_t>(end), [&](const BlockCopy& earlier) {
                            return earlier.target == copy.source || earlier.target == copy.target ||
                                   earlier.source == copy.target;
                          });
    };
    while (end < copies.size() && independent(copies[end])) ++end;
    cuda::copy_blocks(paged.layer(0), paged.num_layers(), paged.layer_bytes(), paged.block_bytes(),
                      inputs_->copies() + first, static_cast<uint32_t>(end - first), stream_);
    first = end;
  }
}

void CudaOps::embed(const WeightMatrix& table, Activations& output) {
  const DeviceMatrix& matrix = static_cast<const DeviceMatrix&>(table);
  cuda::embed(dtype_, matrix.data(), prepared_.token_ids, run_rows_, matrix.inputs(), rows_of(output).floats(), stream_);
}

void CudaOps::rms_norm(const Activations& input, uint32_t rows, const Norm& norm, Activations& output) {
  const DeviceRows& source = rows_of(input);
  add_norm(dtype_, {}, source.floats(), data_of(norm.weight), norm.epsilon, rows, source.columns(),
           rows_of(output).row(0), stream_);
}

// Sums of rows x the weight in float32, unfinished: slices and bias are the reader's to add.
SumSource CudaOps::multiply(const Activations& input, RowRange rows, const Linear& linear, float* partials) {
  const DeviceMatrix& weight = matrix_of(linear);
  const uint32_t outputs = weight.padded_outputs();
  matmul_->run(weight.data(), rows_of(input).row(rows.first), rows.count, outputs, weight.inputs(), partials,
               MatmulOutput::kFloat32, stream_);
  return {partials, matmul_->slices_written(rows.count, outputs, weight.inputs()),
          uint64_t{Matmul::padded_rows(rows.count)} * outputs, data_of(linear.bias)};
}

void CudaOps::linear(const Activations& input, RowRange rows, const Linear& linear, Activations& output) {
  DeviceRows& target = rows_of(output);
  target.sums = multiply(input, rows, linear, target.floats());
}

void CudaOps::linear_add_norm(const Activations& input, RowRange rows, const Linear& linear,
                              Activations& residual, uint32_t first, const Norm& norm, Activations& normed) {
  const DeviceRows& target = rows_of(residual);
  const SumSource sums = multiply(input, rows, linear, partials_);
  add_norm(dtype_, sums, reinterpret_cast<float*>(target.row(first)), data_of(norm.weight), norm.epsilon,
           rows.count, target.columns(), rows_of(normed).row(first), stream_);
}

void CudaOps::gated_linear(const Activations& input, RowRange rows, const Linear& gate_up,
                           Activations& output) {
  const DeviceMatrix& weight = matrix_of(gate_up);
  if (gate_up.bias == nullptr &&
      matmul_->run_gated(weight.data(), rows_of(input).row(rows.first), rows.count, weight.outputs(),
                         weight.inputs(), rows_of(output).row(0), stream_)) {
    return;
  }
  const bool in_float = gate_up.bias != nullptr;  // a bias is added before anything is rounded
  matmul_->run(weight.data(), rows_of(input).row(rows.first), rows.count, weight.outputs(), weight.inputs(),
               gate_up_, in_float ? MatmulOutput::kFloat32 : MatmulOutput::kHalf, stream_);
  silu_mul(dtype_, gate_up_, in_float, data_of(gate_up.bias), rows.count, weight.outputs() / 2,
           rows_of(output).row(0), stream_);
}

void CudaOps::rotate_and_store(Activations& qkv, const WeightVector* query_norm, const WeightVector* key_norm,
                               float epsilon, KvCache& cache, uint32_t layer) {
  RotateArgs args;
  args.dtype = dtype_;
  args.qkv = rows_of(qkv).sums;
  args.rows = run_rows_;
  args.num_heads = static_cast<uint32_t>(config_.num_attention_heads);
  args.num_kv_heads = static_cast<uint32_t>(config_.num_key_value_heads);
  args.head_dim = static_cast<uint32_t>(config_.head_dim);
  args.head_dim_padded = head_dim_padded_;
  args.block_size = limits_.block_size;
  args.query_norm = data_of(query_norm);
  args.key_norm = data_of(key_norm);
  args.epsilon = epsilon;
  args.cos_sin = cos_sin_.data();
  args.positions = prepared_.positions;
  args.kv_slots = prepared_.kv_slots;
  args.q_out = queries_;
  args.cache_layer = static_cast<DeviceKvCache&>(cache).layer(layer);
  cuda::rotate_and_store(args, stream_);
}

void CudaOps::attend(const Activations&, const KvCache& cache, uint32_t layer, uint32_t window,
                     Activations& output) {
  AttentionArgs args = {};
  args.dtype = dtype_;
  args.q = queries_;
  args.cache_layer = static_cast<const DeviceKvCache&>(cache).layer(layer);
  args.output = rows_of(output).row(0);
  args.sequences = inputs_->sequences();
  args.block_tables = tables_.data();
  args.table_stride = table_stride_;
  const size_t list = static_cast<size_t>(std::find(windows_.begin(), windows_.end(), window) - windows_.begin());
  args.split_items = inputs_->split_items(list);
  args.split_offsets = inputs_->split_offsets(list);
  args.block_items = inputs_->block_items();
  args.num_block_items = static_cast<uint32_t>(attention_plans_.front().block_items().size());
  args.partials = attention_partials_;
  args.counters = attention_counters_;
  args.num_heads = static_cast<uint32_t>(config_.num_attention_heads);
  args.num_kv_heads = static_cast<uint32_t>(config_.num_key_value_heads);
  args.head_dim = static_cast<uint32_t>(config_.head_dim);
  args.head_dim_padded = head_dim_padded_;
  args.block_size = limits_.block_size;
  args.window = window;
  cuda::attend(args, num_sms_, stream_);
}

void CudaOps::gather_rows(const Activations& input, std::span<const uint32_t> rows, Activations& output) {
  const DeviceRows& source = rows_of(input);
  if (rows.data() != batch_.output_rows.data()) {
    throw HostError("step_failed", "Only the step's output rows can be gathered.");
  }
  cuda::gather_rows(source.row(0), source.row_bytes(), inputs_->output_rows(),
                    static_cast<uint32_t>(rows.size()), rows_of(output).row(0), stream_);
}

void CudaOps::read_linear(const Activations& input, RowRange rows, const Linear& linear, float* out) {
  const uint64_t columns = matrix_of(linear).outputs();
  for (uint32_t done = 0; done < rows.count; done += kLogitsRows) {
    const uint32_t count = std::min(kLogitsRows, rows.count - done);
    this->linear(input, {rows.first + done, count}, linear, *logits_);
    check(cudaMemcpy2DAsync(out + done * columns, columns * sizeof(float), logits_->floats(),
                            logits_->row_bytes(), columns * sizeof(float), count, cudaMemcpyDeviceToHost,
                            stream_),
          "cudaMemcpy2DAsync");
  }
  check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
}

}  // namespace kadenz::cuda
