// What a device must be able to do for the decoder. The decoder is written once against this header; a device
// (native/cpu today) implements it and alone knows how weights are packed, where activations live and how
// work is cut.
//
// Contract of every operation: row r of its result depends on row r of its inputs, the weights and (for
// attention) the keys and values of r's own sequence, through one fixed order of operations. What else is in
// the batch, how a sequence was chunked, the block size and the number of threads never change a bit.
//
// Handles are opaque and belong to the Ops that made them; they must not outlive it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "model/batch.h"
#include "model/dtype.h"
#include "model/weights.h"

namespace kadenz {

// The paged KV cache: num_blocks blocks of block_size token slots (a power of two in 8 .. 64), kept as
// kFloat32 or kBFloat16. kBFloat16 rounds the weights to bfloat16 as well; activations and sums are float32
// in both cases.
struct CacheShape {
  uint32_t num_blocks = 0;
  uint32_t block_size = 16;
  DType storage = DType::kFloat32;
};

struct AttentionShape {
  uint32_t num_layers;
  uint32_t num_heads;
  uint32_t num_key_value_heads;
  uint32_t head_dim;
};

enum class WeightPrecision : uint8_t {
  kExact,  // what the checkpoint holds, bit for bit, in its own width where the device can widen it exactly
  kBFloat16,  // rounded to bfloat16, to nearest even
};

enum class MatrixUse : uint8_t {
  kLinear,              // y = x W^T
  kEmbedding,           // row look-up
  kLinearAndEmbedding,  // tied word embeddings: both, from one copy
};

class WeightMatrix {  // [outputs][inputs]
 public:
  virtual ~WeightMatrix() = default;
  virtual uint64_t bytes() const = 0;
};

class WeightVector {
 public:
  virtual ~WeightVector() = default;
  virtual uint64_t bytes() const = 0;
};

class Activations {  // [rows][columns]
 public:
  virtual ~Activations() = default;
  virtual uint64_t bytes() const = 0;
};

class KvCache {
 public:
  virtual ~KvCache() = default;
  virtual uint64_t bytes() const = 0;  // of the whole pool, whether or not it was touched yet
};

struct Linear {
  const WeightMatrix* weight = nullptr;
  const WeightVector* bias = nullptr;  // may be null
};

struct RotaryFrequencies {
  std::vector<float> inverse_frequencies;  // head_dim / 2
  float attention_factor = 1.0F;           // multiplies cos and sin
};

struct RowRange {
  uint32_t first;
  uint32_t count;
};

class Ops {
 public:
  virtual ~Ops() = default;

  // --- Weights, memory. The parts' rows are stacked: [q; k; v] is one matrix. ---
  virtual std::unique_ptr<WeightMatrix> pack_matrix(std::span<const TensorView> parts,
                                                    WeightPrecision precision, MatrixUse use) = 0;
  virtual std::unique_ptr<WeightVector> pack_vector(std::span<const TensorView> parts,
                                                    WeightPrecision precision) = 0;
  virtual std::unique_ptr<Activations> allocate_activations(uint32_t rows, uint32_t columns) = 0;
  virtual std::unique_ptr<KvCache> allocate_kv_cache(const AttentionShape& shape,
                                                     const CacheShape& cache) = 0;
  virtual uint64_t scratch_bytes() const = 0;  // what the device itself holds beside the handles

  // --- One step. begin_step takes the batch over (positions, block tables, cos and sin of each row); the
  // operations below refer to it until the next begin_step. ---
  virtual void begin_step(const DecoderBatch& batch, const AttentionShape& shape,
                          const RotaryFrequencies& rotary) = 0;
  virtual void copy_blocks(KvCache& cache, std::span<const BlockCopy> copies) = 0;
  // output[r] = table[token_ids[r]]
  virtual void embed(const WeightMatrix& table, Activations& output) = 0;
  // output[r] = input[r] * weight / sqrt(mean(input[r]^2) + epsilon) for r < rows; output may be the input
  virtual void rms_norm(const Activations& input, uint32_t rows, const WeightVector& weight, float epsilon,
                        Activations& output) = 0;
  // output[i] = linear(input[rows.first + i])
  virtual void linear(const Activations& input, RowRange rows, const Linear& linear, Activations& output) = 0;
  // output[output_first + i] += linear(input[rows.first + i]): the sum is made first, then added
  virtual void linear_add(const Activations& input, RowRange rows, const Linear& linear, Activations& output,
                          uint32_t output_first) = 0;
  // output[i] = silu(gate(input[rows.first + i])) * up(input[rows.first + i])
  virtual void gated_linear(const Activations& input, RowRange rows, const Linear& gate, const Linear& up,
                            Activations& output) = 0;
  // qkv[r] = [q heads | k heads | v heads]. Norms (each null or both given) and rotates q and k, scales q by
  // 1 / sqrt(head_dim), in place, and writes k and v to their slots.
  virtual void rotate_and_store(Activations& qkv, const WeightVector* query_norm,
                                const WeightVector* key_norm, float epsilon, KvCache& cache,
                                uint32_t layer) = 0;
  // output[r] = [head 0 | head 1 | ...] of softmax(q k^T) v over the visible positions; window 0 = all before
  // and self
  virtual void attend(const Activations& qkv, const KvCache& cache, uint32_t layer, uint32_t window,
                      Activations& output) = 0;
  // output[i] = input[rows[i]]
  virtual void gather_rows(const Activations& input, std::span<const uint32_t> rows, Activations& output) = 0;
  // out[i][0 .. outputs) = linear(input[rows.first + i]), float32 in host memory, rows packed without gaps
  virtual void read_linear(const Activations& input, RowRange rows, const Linear& linear, float* out) = 0;

  // Runs task(i) for i in 0 .. count-1 on the device's host threads, in any order, and returns when all are
  // done. For work beside the decoder (sampling); tasks must not touch each other's results and must not
  // throw.
  virtual void parallel_for(uint32_t count, const std::function<void(uint32_t)>& task) = 0;
};

}  // namespace kadenz
