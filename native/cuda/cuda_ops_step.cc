// The part of CudaOps that begins a step and runs it, eagerly or by a captured graph.
#include <algorithm>
#include <string>

#include "cuda/cuda_ops.h"
#include "cuda/kernels/attention.h"
#include "cuda/kernels/prepare.h"
#include "model/error.h"
#include "model/exact_math.h"

namespace kadenz::cuda {

// cos and sin of every position and pair, made on the host as the CPU makes them.
void CudaOps::use_rotary(const RotaryFrequencies& rotary) {
  const uint64_t half = rotary.inverse_frequencies.size();
  std::vector<float> table(limits_.max_model_len * half * 2);
  for (uint64_t position = 0; position < limits_.max_model_len; ++position) {
    for (uint64_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(position) * rotary.inverse_frequencies[i];
      double sine = 0.0;
      double cosine = 0.0;
      exact_sin_cos(static_cast<double>(angle), &sine, &cosine);
      table[(position * half + i) * 2] = static_cast<float>(cosine) * rotary.attention_factor;
      table[(position * half + i) * 2 + 1] = static_cast<float>(sine) * rotary.attention_factor;
    }
  }
  cos_sin_ = DeviceBuffer<float>(table.size());
  check(cudaMemcpy(cos_sin_.data(), table.data(), cos_sin_.bytes(), cudaMemcpyHostToDevice), "cudaMemcpy");
}

void CudaOps::plan_attention(const DecoderBatch& batch) {
  sequences_.clear();
  for (const SequenceSpan& span : batch.sequences) {
    sequences_.push_back({static_cast<int32_t>(span.first_row), static_cast<int32_t>(span.num_rows),
                          static_cast<int32_t>(span.start_position), static_cast<int32_t>(span.slot)});
  }
  for (size_t i = 0; i < windows_.size(); ++i) attention_plans_[i].make(sequences_, windows_[i]);
}

AttentionWork CudaOps::attention_work() const {
  AttentionWork work{sequences_, {}, attention_plans_.front().block_items()};
  for (const AttentionPlan& plan : attention_plans_) {
    work.split_lists.push_back({plan.split_offsets(), plan.split_items()});
  }
  return work;
}

// The batch's integers go to the device, with whatever else was added to the upload, and each row's token,
// position and KV slot are made of them.
void CudaOps::send_step(const DecoderBatch& batch, uint32_t run_rows) {
  batch_ = batch;
  run_rows_ = run_rows;
  plan_attention(batch);
  inputs_->write(batch, run_rows_, attention_work(), upload_);
  upload_.send();
  update_tables(inputs_->table_updates(), static_cast<uint32_t>(batch.table_updates.size()), tables_.data(),
                table_stride_, stream_);
  PrepareArgs args;
  args.input = inputs_->rows();
  args.rows = run_rows_;
  args.sampled_tokens = sampled_tokens_;
  args.tables = tables_.data();
  args.table_stride = table_stride_;
  args.block_size = limits_.block_size;
  prepare_rows(args, prepared_, stream_);
}

uint32_t CudaOps::begin_step(const DecoderBatch& batch, const AttentionShape&) {
  const uint32_t rows = static_cast<uint32_t>(batch.token_ids.size());
  send_step(batch, decodes(batch) ? Matmul::padded_rows(rows) : rows);
  return run_rows_;
}

void CudaOps::run(const StepShape& shape, const std::function<void()>& operations) {
  const auto graph = shape.decodes ? graphs_.find(shape.rows) : graphs_.end();
  if (graph == graphs_.end()) return operations();
  check(cudaGraphLaunch(graph->second, stream_), "cudaGraphLaunch");
}

// Runs the operations once on padding rows, so that every kernel is loaded and every matmul planned, then
// captures them.
void CudaOps::record(const StepShape& shape, const std::function<void()>& operations) {
  // With more query heads to a key-value head than one tile holds, attention's launches follow the batch.
  const int64_t group = config_.num_attention_heads / config_.num_key_value_heads;
  if (!options_.graphs || group > kAttentionSplitRows) return;
  send_step({}, shape.rows);
  matmul_->set_timing(true);
  operations();
  matmul_->set_timing(false);
  end_step();
  check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");

  check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  cudaGraph_t graph = nullptr;
  try {
    operations();
  } catch (...) {
    cudaStreamEndCapture(stream_, &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    throw;
  }
  check(cudaStreamEndCapture(stream_, &graph), "cudaStreamEndCapture");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t error = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check(error, "cudaGraphInstantiate");
  check(cudaGraphUpload(executable, stream_), "cudaGraphUpload");
  graphs_[shape.rows] = executable;
}

std::vector<uint32_t> CudaOps::decode_rungs() const {
  std::vector<uint32_t> rungs;
  const uint32_t most = std::min(limits_.max_num_seqs, limits_.max_num_batched_tokens);
  for (uint32_t rows = Matmul::padded_rows(most); rows > 0;) {
    rungs.push_back(rows);
    uint32_t below = 0;
    for (uint32_t candidate = rows - 1; candidate > 0 && below == 0; --candidate) {
      if (Matmul::padded_rows(candidate) < rows) below = Matmul::padded_rows(candidate);
    }
    rows = below;
  }
  return rungs;
}

}  // namespace kadenz::cuda
