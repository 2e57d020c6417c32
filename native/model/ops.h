// What a device must be able to do for the decoder. The decoder is written once against this header; a device
// (native/cpu, native/cuda) implements it and alone knows how weights are packed, where activations live and
// how work is cut. Operations may return before they are done; they take effect in the order of the calls.
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
// `storage`. A 16-bit storage rounds the weights to that dtype as well; sums are float32 always.
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
  kFloat16,   // rounded to float16, to nearest even
};

enum class MatrixUse : uint8_t {
  kLinear,              // y = x W^T
  kEmbedding,           // row look-up
  kLinearAndEmbedding,  // tied word embeddings: both, from one copy
  kGated,               // [gate; up], for gated_linear
};

// What activations are for, so that a device may keep them in what it computes with.
enum class ActivationUse : uint8_t {
  kResidual,  // float32, added to
  kOperand,   // read by matmuls, or by gather_rows
  kSums,      // what linear() gives, read by rotate_and_store or as logits
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

struct Norm {
  const WeightVector* weight = nullptr;
  float epsilon = 0;
};

// What the operations of a step depend on beside the batch that begin_step took over. Steps of equal shapes
// are equal calls of equal operations, so a device may record one and play it again.
struct StepShape {
  uint32_t rows;
  bool decodes;  // a decode step (batch.h)
};

class Ops {
 public:
  virtual ~Ops() = default;

  // --- Weights, memory. The parts' rows are stacked: [q; k; v] is one matrix. ---
  virtual std::unique_ptr<WeightMatrix> pack_matrix(std::span<const TensorView> parts,
                                                    WeightPrecision precision, MatrixUse use) = 0;
  virtual std::unique_ptr<WeightVector> pack_vector(std::span<const TensorView> parts,
                                                    WeightPrecision precision) = 0;
  virtual void finish_packing() {}  // all weights are in place when it returns
  virtual void use_rotary(const RotaryFrequencies& rotary) = 0;  // once, before the first step
  // Gives the weights' memory back and keeps their bytes elsewhere; the handles stay valid, to be used again
  // after restore_weights(). False: the device can't, and the weights are to be packed again.
  virtual bool offload_weights() { return false; }
  virtual void restore_weights() {}
  virtual std::unique_ptr<Activations> allocate_activations(uint32_t rows, uint32_t columns,
                                                            ActivationUse use) = 0;
  // How many blocks of such a cache the device has memory for, asked when all else is allocated.
  virtual uint32_t affordable_blocks(const AttentionShape& shape, const CacheShape& cache) = 0;
  virtual std::unique_ptr<KvCache> allocate_kv_cache(const AttentionShape& shape,
                                                     const CacheShape& cache) = 0;
  virtual uint64_t scratch_bytes() const = 0;  // what the device itself holds beside the handles
  virtual uint32_t feed_forward_rows() const = 0;  // most rows of one gated_linear; bounds its memory
  // Whether token ids may be -1 - s: what sample s of the step before gave.
  virtual bool gathers_samples() const { return false; }

  // --- One step. begin_step takes the batch over (positions, block tables, cos and sin of each row); the
  // operations below refer to it until the next begin_step. Gives the rows that the operations are to run
  // on: those of the batch, and further ones that belong to no sequence where a device likes round numbers.
  // ---
  virtual uint32_t begin_step(const DecoderBatch& batch, const AttentionShape& shape) = 0;
  // Does what `operations` would do, by calling it or by playing what record() made of the same shape.
  virtual void run(const StepShape& shape, const std::function<void()>& operations) {
    static_cast<void>(shape);
    operations();
  }
  // Prepares run() for a shape. No step may be under way.
  virtual void record(const StepShape& shape, const std::function<void()>& operations) {
    static_cast<void>(shape);
    static_cast<void>(operations);
  }
  virtual void copy_blocks(KvCache& cache, std::span<const BlockCopy> copies) = 0;
  // output[r] = table[token_ids[r]]
  virtual void embed(const WeightMatrix& table, Activations& output) = 0;
  // output[r] = input[r] * weight / sqrt(mean(input[r]^2) + epsilon) for r < rows; output may be the input
  virtual void rms_norm(const Activations& input, uint32_t rows, const Norm& norm, Activations& output) = 0;
  // output[i] = linear(input[rows.first + i])
  virtual void linear(const Activations& input, RowRange rows, const Linear& linear, Activations& output) = 0;
  // residual[first + i] += linear(input[rows.first + i]), the sum made first, then added; then
  // normed[first + i] = rms_norm(residual[first + i])
  virtual void linear_add_norm(const Activations& input, RowRange rows, const Linear& linear,
                               Activations& residual, uint32_t first, const Norm& norm,
                               Activations& normed) = 0;
  // output[i] = silu(gate(input[rows.first + i])) * up(input[rows.first + i]), from one kGated matrix
  virtual void gated_linear(const Activations& input, RowRange rows, const Linear& gate_up,
                            Activations& output) = 0;
  // qkv[r] = [q heads | k heads | v heads]. Norms (each null or both given) and rotates q and k, and writes k
  // and v to their slots; q is kept for attend().
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
  virtual void parallel_for(uint32_t count, const std::function<void(uint32_t)>& task) {
    for (uint32_t index = 0; index < count; ++index) task(index);
  }
};

}  // namespace kadenz
