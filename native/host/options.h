// What a host is made from: a model's description (judged in TypeScript, checked again here) and the sizes
// that bound every instruction.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "cpu/isa.h"
#include "model/dtype.h"
#include "model/model_config.h"
#include "model/weights.h"

namespace kadenz {

struct HostLimits {
  uint32_t max_num_seqs = 0;            // slots
  uint32_t max_num_batched_tokens = 0;  // rows of one step
  uint32_t max_model_len = 0;           // positions of one sequence
  uint32_t num_blocks = 0;              // KV blocks of the pool; with fit_blocks the most
  uint32_t block_size = 0;              // positions of one block
  uint32_t vocab_size = 0;              // the model's; filled in by the host
};

// The GPU, and how it is used; see docs/gpu.md.
struct CudaOptions {
  std::string plugin_path;
  uint32_t device_index = 0;
  double gpu_memory_utilization = 0.9;  // share of the GPU's memory that weights, KV cache and workspace may fill
  bool fit_blocks = false;              // as many KV blocks as that leaves memory for, limits.num_blocks at most
  bool graphs = true;
  bool unrestricted_matmul = false;  // gives up batch invariance; for measuring what it costs
};

enum class DeviceKind : uint8_t { kCpu, kCuda };

// While a host starts: 'weights' in bytes, 'graphs' in graphs.
using Progress = std::function<void(const char* stage, uint64_t done, uint64_t total)>;

struct HostOptions {
  DeviceKind device = DeviceKind::kCpu;
  CudaOptions cuda;
  Progress progress;  // may be empty; called by the thread that makes the host
  ModelConfig config;
  std::vector<TensorDescription> tensors;
  std::vector<std::string> files;
  DType dtype = DType::kFloat32;  // of the KV cache; a 16-bit one rounds the weights as well
  HostLimits limits;
  uint32_t num_threads = 0;  // 0 = one for each core this process may run on
  std::optional<CpuIsa> isa;
};

// Throws HostError("invalid_argument") naming the option, its value and its range.
void validate(const HostLimits& limits);

}  // namespace kadenz
