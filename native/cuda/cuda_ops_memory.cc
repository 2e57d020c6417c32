// The part of CudaOps that owns memory: weights, workspace and KV cache, each in an address range of its own.
#include <algorithm>
#include <cmath>
#include <string>

#include "cuda/bytes_text.h"
#include "cuda/certificate.h"
#include "cuda/cuda_ops.h"
#include "cuda/kernels/attention.h"
#include "cuda/kernels/upload.h"
#include "model/checked_math.h"
#include "model/error.h"
#include "model/exact_math.h"

namespace kadenz::cuda {
namespace {

// What cuBLASLt, the graphs and the sampler take later, beside what was counted.
constexpr uint64_t kSlackBytes = uint64_t{512} << 20;

constexpr const char* kLowerWeights = "Use a smaller model, or a GPU with more memory.";
constexpr const char* kLowerWorkspace = "Lower --max-num-batched-tokens.";
constexpr const char* kLowerCache = "Lower --kv-cache-blocks, or give --gpu-memory-utilization instead.";

uint32_t as_count(int64_t number) { return static_cast<uint32_t>(number); }

uint32_t padded_head_dim(const ModelConfig& config) {
  if (config.head_dim > 128) {
    throw HostError("unsupported_model", "The model's head_dim is " + std::to_string(config.head_dim) +
                                             "; the device 'cuda' computes attention for at most 128.");
  }
  return config.head_dim <= 64 ? 64 : 128;
}

int num_sms_of_current_device() {
  int device = 0;
  int count = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
  return count;
}

DType target_of(WeightPrecision precision) {
  return precision == WeightPrecision::kFloat16 ? DType::kFloat16 : DType::kBFloat16;
}

uint64_t padded_vocabulary(const ModelConfig& config) {
  return (static_cast<uint64_t>(config.vocab_size) + 7) / 8 * 8;
}

uint64_t elements_of(std::span<const TensorView> parts) {
  uint64_t elements = 0;
  for (const TensorView& part : parts) elements += part.bytes / dtype_bytes(part.dtype);
  return elements;
}

}  // namespace

CudaOps::CudaOps(const HostOptions& options, Half dtype, cudaStream_t stream)
    : config_(options.config),
      limits_(options.limits),
      options_(options.cuda),
      progress_(options.progress),
      dtype_(dtype),
      stream_(stream),
      upload_(stream),
      num_sms_(as_count(num_sms_of_current_device())),
      head_dim_padded_(padded_head_dim(options.config)),
      table_stride_((limits_.max_model_len + limits_.block_size - 1) / limits_.block_size),
      weights_({"the weights", kLowerWeights, 0}),
      workspace_({"the workspace", kLowerWorkspace, 0}),
      cache_({"the KV cache", kLowerCache, 0}),
      tables_(uint64_t{limits_.max_num_seqs} * table_stride_),
      matmul_workspace_(Matmul::kWorkspaceBytes),
      matmul_(std::make_unique<Matmul>(dtype, Matmul::kWorkspaceBytes, matmul_workspace_.data())) {
  if (options_.unrestricted_matmul) {
    matmul_->set_unrestricted(true);
  } else {
    certify_matmuls();
  }
  prepare_attention();
  prepare_gemm();
  check(cudaMemsetAsync(tables_.data(), 0xff, tables_.bytes(), stream_), "cudaMemsetAsync");
  allocate_workspace();
  // Zeros stay where no tensor goes: what pads the head. The loader has streams of its own.
  weights_.map(weight_bytes_bound());
  fill_with_zeros(weights_.base(), weights_.mapped_bytes(), stream_);
  check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  loader_ = std::make_unique<WeightLoader>();
}

void CudaOps::certify_matmuls() {
  const auto count = [](int64_t number) { return as_count(number); };
  const int64_t queries = config_.num_attention_heads * config_.head_dim;
  const int64_t keys = config_.num_key_value_heads * config_.head_dim;
  const MatmulOutput gated = config_.mlp_bias ? MatmulOutput::kFloat32 : MatmulOutput::kHalf;
  const CertifiedShape shapes[] = {
      {count(queries + 2 * keys), count(config_.hidden_size), MatmulOutput::kFloat32},
      {count(config_.hidden_size), count(queries), MatmulOutput::kFloat32},
      {count(2 * config_.intermediate_size), count(config_.hidden_size), gated},
      {count(config_.hidden_size), count(config_.intermediate_size), MatmulOutput::kFloat32},
      {static_cast<uint32_t>(padded_vocabulary(config_)), count(config_.hidden_size), MatmulOutput::kFloat32}};
  const Certificate certificate = certify(*matmul_, shapes);
  admit(*matmul_, certificate);
  certificate_ = certificate.fingerprint;
}

CudaOps::~CudaOps() {
  cudaStreamSynchronize(stream_);
  for (const auto& [rows, graph] : graphs_) cudaGraphExecDestroy(graph);
}

// --- Weights ---

// Each tensor of the model, with room for its alignment.
uint64_t CudaOps::weight_bytes_bound() const {
  const uint64_t hidden = static_cast<uint64_t>(config_.hidden_size);
  const uint64_t inner = static_cast<uint64_t>(config_.intermediate_size);
  const uint64_t queries = static_cast<uint64_t>(config_.num_attention_heads * config_.head_dim);
  const uint64_t keys = static_cast<uint64_t>(config_.num_key_value_heads * config_.head_dim);
  const uint64_t vocabulary = padded_vocabulary(config_);
  const uint64_t matrices = hidden * (2 * queries + 2 * keys + 3 * inner);
  const uint64_t vectors = 4 * hidden + queries + 2 * keys + 2 * inner + 2 * static_cast<uint64_t>(config_.head_dim);
  constexpr uint64_t kTensorsOfALayer = 16;
  const uint64_t layer = 2 * matrices + 4 * vectors + kTensorsOfALayer * DeviceArena::kAlignmentBytes;
  const uint64_t embeddings = (config_.tie_word_embeddings ? 1 : 2) * 2 * vocabulary * hidden;
  return checked_multiply(layer, static_cast<uint64_t>(config_.num_layers), "the weights") + embeddings +
         4 * hidden + 4 * DeviceArena::kAlignmentBytes;
}

std::unique_ptr<WeightMatrix> CudaOps::pack_matrix(std::span<const TensorView> parts, WeightPrecision precision,
                                                   MatrixUse use) {
  const uint64_t elements = elements_of(parts);
  const uint64_t inputs = static_cast<uint64_t>(parts.front().shape.back());
  const uint64_t outputs = elements / inputs;
  const bool is_head = use != MatrixUse::kEmbedding && parts.size() == 1 &&
                       outputs == static_cast<uint64_t>(config_.vocab_size);
  const uint64_t padded_outputs = is_head ? padded_vocabulary(config_) : outputs;
  uint16_t* data = weights_.allocate<uint16_t>(padded_outputs * inputs);
  loader_->load(parts, {data, elements * sizeof(uint16_t), target_of(precision)});
  packed_bytes_ += elements * sizeof(uint16_t);
  if (progress_) progress_("weights", packed_bytes_, weight_bytes_bound());
  return std::make_unique<DeviceMatrix>(data, static_cast<uint32_t>(outputs),
                                        static_cast<uint32_t>(padded_outputs), static_cast<uint32_t>(inputs));
}

std::unique_ptr<WeightVector> CudaOps::pack_vector(std::span<const TensorView> parts, WeightPrecision precision) {
  static_cast<void>(precision);  // vectors stay float32: what the checkpoint holds, widened
  const uint64_t elements = elements_of(parts);
  float* data = weights_.allocate<float>(elements);
  loader_->load(parts, {data, elements * sizeof(float), DType::kFloat32});
  return std::make_unique<DeviceVector>(data, elements);
}

void CudaOps::finish_packing() {
  loader_->finish();
  loader_.reset();
  if (progress_) progress_("weights", weight_bytes_bound(), weight_bytes_bound());
  progress_ = {};
}

bool CudaOps::offload_weights() {
  const uint64_t bytes = weights_.used_bytes();
  if (backup_ == nullptr) backup_ = std::make_unique<HostBackup>(bytes);
  backup_->save(weights_.base(), bytes);
  weights_.unmap();
  return true;
}

void CudaOps::restore_weights() {
  weights_.map(weights_.used_bytes());
  backup_->restore(weights_.base(), weights_.used_bytes());
}

// --- Workspace ---

// Addresses of all that a step needs beside the decoder's activations; memory comes with the KV cache.
void CudaOps::allocate_workspace() {
  const uint64_t hidden = static_cast<uint64_t>(config_.hidden_size);
  const uint64_t inner = static_cast<uint64_t>(config_.intermediate_size);
  const uint64_t heads = static_cast<uint64_t>(config_.num_attention_heads);
  const uint64_t vocabulary = padded_vocabulary(config_);
  const uint64_t rows = std::max(limits_.max_num_batched_tokens, limits_.max_num_seqs);
  max_rows_ = Matmul::padded_rows(static_cast<uint32_t>(rows));
  prepared_.token_ids = scratch<int32_t>(max_rows_);
  prepared_.positions = scratch<int32_t>(max_rows_);
  prepared_.kv_slots = scratch<int64_t>(max_rows_);
  prepared_.poisoned = scratch<uint8_t>(max_rows_);
  queries_ = scratch<uint16_t>(max_rows_ * heads * head_dim_padded_);
  const uint64_t chunk = std::min(max_rows_, kFeedForwardRows);
  gate_up_ = scratch<std::byte>(chunk * 2 * inner * (config_.mlp_bias ? sizeof(float) : sizeof(uint16_t)));

  // The sums of o and down: all slices of up to 512 rows, or one of more.
  uint64_t floats = 0;
  const uint64_t queries = heads * static_cast<uint64_t>(config_.head_dim);
  for (const uint64_t inputs : {queries, inner}) {
    for (const uint32_t count : {std::min(max_rows_, 512U), max_rows_}) {
      const uint64_t slices = matmul_->slices_written(count, as_count(config_.hidden_size),
                                                      static_cast<uint32_t>(inputs));
      floats = std::max(floats, slices * Matmul::padded_rows(count) * hidden);
    }
  }
  partials_ = scratch<float>(floats);
  logits_ = std::make_unique<DeviceRows>(scratch<float>(kLogitsRows * vocabulary), kLogitsRows,
                                         static_cast<uint32_t>(vocabulary), ActivationUse::kSums,
                                         kLogitsRows * vocabulary * sizeof(float));
  allocate_attention();
}

// The counters begin as zeros (map_workspace) and every launch leaves them so.
void CudaOps::allocate_attention() {
  const AttentionLimits limits = {
      .max_num_sequences = limits_.max_num_seqs,
      .max_num_batched_tokens = max_rows_,
      .max_model_len = limits_.max_model_len,
      .num_heads = as_count(config_.num_attention_heads),
      .num_kv_heads = as_count(config_.num_key_value_heads),
      .num_workers = attention_workers(num_sms_, head_dim_padded_),
  };
  const AttentionBounds bounds = attention_bounds(limits);
  for (size_t layer = 0; layer < static_cast<size_t>(config_.num_layers); ++layer) {
    const bool windowed = config_.sliding_window > 0 && config_.layer_uses_sliding_window[layer] != 0;
    const uint32_t window = windowed ? as_count(config_.sliding_window) : 0;
    if (std::find(windows_.begin(), windows_.end(), window) == windows_.end()) windows_.push_back(window);
  }
  attention_plans_.assign(windows_.size(), AttentionPlan(limits));
  attention_partials_ = scratch<float>(attention_partial_bytes(bounds.partials, head_dim_padded_) / sizeof(float));
  attention_counters_ = scratch<uint32_t>(attention_counter_bytes(bounds.partials) / sizeof(uint32_t));
  inputs_ = std::make_unique<StepInputs>(
      StepInputs::Sizes{limits.max_num_sequences, windows_.size(), bounds.split_offsets, bounds.split_items},
      stream_);
}

std::unique_ptr<Activations> CudaOps::allocate_activations(uint32_t rows, uint32_t columns, ActivationUse use) {
  const uint64_t padded = Matmul::padded_rows(rows);
  uint64_t bytes = padded * columns * (use == ActivationUse::kOperand ? sizeof(uint16_t) : sizeof(float));
  if (use == ActivationUse::kSums) {  // of qkv: all slices of up to 512 rows, or one of more
    const uint64_t slices = matmul_->slices(columns, as_count(config_.hidden_size));
    bytes = std::max(bytes, slices * std::min<uint64_t>(padded, 512) * columns * sizeof(float));
  }
  return std::make_unique<DeviceRows>(workspace_.allocate_bytes(bytes), static_cast<uint32_t>(padded), columns,
                                      use, bytes);
}

// All zeros whenever it comes, so that padding rows hold numbers: also in activations that nobody has written
// yet, and in those that will be allocated of what is mapped.
void CudaOps::map_workspace() {
  if (workspace_.mapped()) return;
  workspace_.map();
  fill_with_zeros(workspace_.base(), workspace_.mapped_bytes(), stream_);
}

uint64_t CudaOps::scratch_bytes() const {
  uint64_t bytes = workspace_.mapped_bytes() + tables_.bytes() + cos_sin_.bytes() + matmul_workspace_.bytes();
  if (inputs_ != nullptr) bytes += inputs_->bytes();
  return bytes;
}

// --- KV cache ---

uint64_t CudaOps::block_bytes(const AttentionShape& shape, const CacheShape& cache) const {
  return uint64_t{2} * shape.num_key_value_heads * cache.block_size * head_dim_padded_ * sizeof(uint16_t);
}

uint32_t CudaOps::affordable_blocks(const AttentionShape& shape, const CacheShape& cache) {
  map_workspace();
  if (!options_.fit_blocks) return cache.num_blocks;
  const DeviceMemory memory = device_memory();
  const double budget = options_.gpu_memory_utilization * static_cast<double>(memory.total_bytes);
  const double left = budget - static_cast<double>(memory.used_bytes() + kSlackBytes);
  const uint64_t bytes = checked_multiply(block_bytes(shape, cache), shape.num_layers, "a KV cache block");
  const uint64_t blocks = left < static_cast<double>(bytes) ? 0 : static_cast<uint64_t>(left) / bytes;
  if (blocks == 0) {
    throw HostError("out_of_memory",
                    "No block of the KV cache fits: --gpu-memory-utilization " +
                        std::to_string(options_.gpu_memory_utilization) + " of " +
                        bytes_text(memory.total_bytes) + " leaves nothing beside the " +
                        bytes_text(memory.used_bytes()) +
                        " in use. Raise it, or lower --max-num-batched-tokens.");
  }
  return static_cast<uint32_t>(std::min<uint64_t>(blocks, cache.num_blocks));
}

std::unique_ptr<KvCache> CudaOps::allocate_kv_cache(const AttentionShape& shape, const CacheShape& cache) {
  map_workspace();
  const uint64_t bytes = block_bytes(shape, cache);
  cache_.reset();
  std::byte* data = cache_.allocate_bytes(checked_multiply(
      checked_multiply(bytes, cache.num_blocks, "the KV cache"), shape.num_layers, "the KV cache"));
  try {
    cache_.map();
  } catch (...) {
    workspace_.unmap();
    throw;
  }
  return std::make_unique<DeviceKvCache>(data, shape.num_layers, cache.num_blocks, bytes, [this] {
    cache_.unmap();
    workspace_.unmap();  // no step runs without a cache
  });
}

}  // namespace kadenz::cuda
