// The decoder's operations (model/ops.h) on one GPU: weights by cuBLASLt (matmul.h), the rest by our own
// kernels, decode steps as captured graphs.
//
// A decode step's rows are rounded up to a rung of the matmuls' ladder; rows past the batch's last are padding,
// which writes nothing to the KV cache. A graph exists for each rung that was recorded, and holds the addresses
// that it was captured with: weights, workspace and KV cache lie in address ranges that keep theirs while
// memory comes and goes.
//
// One thread calls. Everything is enqueued on one stream; errors of kernels show when their step is waited for.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cuda/attention_plan.h"
#include "cuda/device_handles.h"
#include "cuda/device_memory.h"
#include "cuda/half.h"
#include "cuda/host_backup.h"
#include "cuda/matmul.h"
#include "cuda/step_inputs.h"
#include "cuda/step_upload.h"
#include "cuda/weight_loader.h"
#include "host/options.h"
#include "model/ops.h"

namespace kadenz::cuda {

class CudaOps : public Ops {
 public:
  // Rows of logits that exist at once.
  static constexpr uint32_t kLogitsRows = 256;

  CudaOps(const HostOptions& options, Half dtype, cudaStream_t stream);
  ~CudaOps() override;

  std::unique_ptr<WeightMatrix> pack_matrix(std::span<const TensorView> parts, WeightPrecision precision,
                                            MatrixUse use) override;
  std::unique_ptr<WeightVector> pack_vector(std::span<const TensorView> parts,
                                            WeightPrecision precision) override;
  void finish_packing() override;
  bool offload_weights() override;
  void restore_weights() override;
  std::unique_ptr<Activations> allocate_activations(uint32_t rows, uint32_t columns,
                                                    ActivationUse use) override;
  uint32_t affordable_blocks(const AttentionShape& shape, const CacheShape& cache) override;
  std::unique_ptr<KvCache> allocate_kv_cache(const AttentionShape& shape, const CacheShape& cache) override;
  uint64_t scratch_bytes() const override;
  uint32_t feed_forward_rows() const override { return kFeedForwardRows; }
  bool gathers_samples() const override { return true; }

  void use_rotary(const RotaryFrequencies& rotary) override;
  uint32_t begin_step(const DecoderBatch& batch, const AttentionShape& shape) override;
  void run(const StepShape& shape, const std::function<void()>& operations) override;
  void record(const StepShape& shape, const std::function<void()>& operations) override;
  void copy_blocks(KvCache& cache, std::span<const BlockCopy> copies) override;
  void embed(const WeightMatrix& table, Activations& output) override;
  void rms_norm(const Activations& input, uint32_t rows, const Norm& norm, Activations& output) override;
  void linear(const Activations& input, RowRange rows, const Linear& linear, Activations& output) override;
  void linear_add_norm(const Activations& input, RowRange rows, const Linear& linear, Activations& residual,
                       uint32_t first, const Norm& norm, Activations& normed) override;
  void gated_linear(const Activations& input, RowRange rows, const Linear& gate_up,
                    Activations& output) override;
  void rotate_and_store(Activations& qkv, const WeightVector* query_norm, const WeightVector* key_norm,
                        float epsilon, KvCache& cache, uint32_t layer) override;
  void attend(const Activations& qkv, const KvCache& cache, uint32_t layer, uint32_t window,
              Activations& output) override;
  void gather_rows(const Activations& input, std::span<const uint32_t> rows, Activations& output) override;
  void read_linear(const Activations& input, RowRange rows, const Linear& linear, float* out) override;

  // Where a step's rows find the samples of the step before: on the device, by sample. Before the first step.
  void gather_from(const int32_t* sampled_tokens) { sampled_tokens_ = sampled_tokens; }
  // What the next begin_step() sends along with the batch's own.
  StepUpload& upload() { return upload_; }
  void end_step() { inputs_->end_step(); }
  // [kLogitsRows][columns]: the vocabulary's, then padding
  DeviceRows& logits() { return *logits_; }
  const uint8_t* poisoned() const { return prepared_.poisoned; }  // by row of the step
  // What the matmuls' self-test found, in one line; it ran before anything was allocated.
  const std::string& certificate() const { return certificate_; }
  // The rungs up to what a decode step can need, largest first.
  std::vector<uint32_t> decode_rungs() const;

 private:
  static constexpr uint32_t kFeedForwardRows = 8192;

  void certify_matmuls();
  void allocate_workspace();
  void allocate_attention();
  void send_step(const DecoderBatch& batch, uint32_t run_rows);
  void plan_attention(const DecoderBatch& batch);
  AttentionWork attention_work() const;
  void map_workspace();
  uint64_t weight_bytes_bound() const;
  uint64_t block_bytes(const AttentionShape& shape, const CacheShape& cache) const;
  SumSource multiply(const Activations& input, RowRange rows, const Linear& linear, float* partials);
  template <class Element>
  Element* scratch(uint64_t count) {
    return workspace_.allocate<Element>(count);
  }

  const ModelConfig config_;
  const HostLimits limits_;
  const CudaOptions options_;
  Progress progress_;  // empty once the weights are loaded
  const Half dtype_;
  cudaStream_t stream_;
  StepUpload upload_;
  const int32_t* sampled_tokens_ = nullptr;
  uint32_t num_sms_ = 0;
  uint32_t head_dim_padded_ = 0;
  uint32_t table_stride_ = 0;

  DeviceArena weights_, workspace_, cache_;
  std::unique_ptr<WeightLoader> loader_;
  uint64_t packed_bytes_ = 0;
  std::unique_ptr<HostBackup> backup_;
  DeviceBuffer<int32_t> tables_;     // [max_num_seqs][table_stride_]
  DeviceBuffer<float> cos_sin_;      // [max_model_len][head_dim / 2][2]
  DeviceBuffer<std::byte> matmul_workspace_;
  std::unique_ptr<Matmul> matmul_;
  std::string certificate_ = "uncertified";
  std::unique_ptr<StepInputs> inputs_;
  // Distinct windows of the layers (0 = none), and a plan for each
  std::vector<uint32_t> windows_;
  std::vector<AttentionPlan> attention_plans_;
  std::vector<AttentionSequence> sequences_;  // of the step

  // In the workspace
  uint32_t max_rows_ = 0;  // a multiple of every rung below it
  PreparedRows prepared_;
  void* queries_ = nullptr;    // Half [max_rows_][heads][head_dim_padded_]
  void* gate_up_ = nullptr;    // Half (float32 with a bias) [rows of one feed-forward chunk][2 * inner]
  float* partials_ = nullptr;  // of sums that are added to the residual at once
  float* attention_partials_ = nullptr;
  uint32_t* attention_counters_ = nullptr;
  std::unique_ptr<DeviceRows> logits_;

  // Of the step
  uint32_t run_rows_ = 0;
  DecoderBatch batch_;
  std::map<uint32_t, cudaGraphExec_t> graphs_;  // by rows of a decode step
};

}  // namespace kadenz::cuda
