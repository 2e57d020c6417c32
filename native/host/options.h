// What a host is made from: a model's description (judged in TypeScript, checked again here) and the sizes
// that bound every instruction.
#pragma once

#include <cstdint>
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
  uint32_t num_blocks = 0;              // KV blocks of the pool
  uint32_t block_size = 0;              // positions of one block
  uint32_t vocab_size = 0;              // the model's; filled in by the host
};

struct HostOptions {
  ModelConfig config;
  std::vector<TensorDescription> tensors;
  std::vector<std::string> files;
  DType dtype = DType::kFloat32;  // of the KV cache; kBFloat16 rounds the weights as well
  HostLimits limits;
  uint32_t num_threads = 0;  // 0 = one for each core this process may run on
  std::optional<CpuIsa> isa;
};

// Throws HostError("invalid_argument") naming the option, its value and its range.
void validate(const HostLimits& limits);

}  // namespace kadenz
