#include "cpu/cpu_ops.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "cpu/float_rows.h"
#include "cpu/kernels.h"
#include "cpu/kv_cache.h"
#include "cpu/memory.h"
#include "cpu/packed_weights.h"
#include "cpu/row_tasks.h"
#include "cpu/step_rows.h"
#include "cpu/thread_pool.h"
#include "model/error.h"

namespace kadenz {
namespace {

constexpr uint32_t kMaxThreads = 1024;
constexpr uint32_t kMaxAttendRun = 24;
constexpr int64_t kCachedInputFloats = 128 * 1024;  // 512 KB
constexpr uint32_t kFeedForwardRows = 512;          // bounds the widest activations, whatever the batch

const float* data_of(const WeightVector* vector) {
  return vector == nullptr ? nullptr : static_cast<const PackedVector*>(vector)->data();
}
const PackedMatrix& matrix_of(const Linear& linear) {
  return static_cast<const PackedMatrix&>(*linear.weight);
}
MatmulWeight view_of(const Linear& linear) { return matrix_of(linear).view(data_of(linear.bias)); }

class CpuOps : public Ops {
 public:
  CpuOps(const CpuKernels& kernels, uint32_t num_threads)
      : kernels_(kernels),
        pool_(num_threads),
        matmul_scratch_(num_threads * sizeof(float) * kMatmulScratch, "scratch") {}

  std::unique_ptr<WeightMatrix> pack_matrix(std::span<const TensorView> parts, WeightPrecision precision,
                                            MatrixUse use) override {
    if (use == MatrixUse::kGated) return std::make_unique<PackedGate>(parts, precision, pool_, arena_);
    return std::make_unique<PackedMatrix>(parts, precision, use, pool_, arena_);
  }

  std::unique_ptr<WeightVector> pack_vector(std::span<const TensorView> parts,
                                            WeightPrecision precision) override {
    return std::make_unique<PackedVector>(parts, precision);
  }

  std::unique_ptr<Activations> allocate_activations(uint32_t rows, uint32_t columns, ActivationUse) override {
    return std::make_unique<FloatRows>(rows, columns);
  }

  uint32_t affordable_blocks(const AttentionShape&, const CacheShape& cache) override {
    return cache.num_blocks;  // pages that no token has touched cost nothing
  }

  std::unique_ptr<KvCache> allocate_kv_cache(const AttentionShape& shape, const CacheShape& cache) override {
    return std::make_unique<PagedKvCache>(shape, cache);
  }

  uint64_t scratch_bytes() const override {
    return matmul_scratch_.bytes() + step_.scratch_bytes();
  }

  uint32_t feed_forward_rows() const override { return kFeedForwardRows; }

  void use_rotary(const RotaryFrequencies& rotary) override { step_.use_rotary(rotary); }
  uint32_t begin_step(const DecoderBatch& batch, const AttentionShape& shape) override {
    step_.begin(batch, shape, pool_);
    return step_.count();
  }
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

  void parallel_for(uint32_t count, const std::function<void(uint32_t)>& task) override {
    pool_.run(count, [&task](uint32_t index, uint32_t) { task(index); });
  }

 private:
  void norm_rows(const FloatRows& input, RowRange rows, const Norm& norm, FloatRows& output);
  // Cuts rows x outputs into tasks and hands each to `multiply(task)`.
  template <class Multiply>
  void for_tiles(const float* input, int64_t input_stride, uint32_t rows, int64_t panels, float* output,
                 int64_t output_stride, Multiply multiply);

  const CpuKernels& kernels_;
  ThreadPool pool_;
  PageArena arena_;            // weights
  PageBuffer matmul_scratch_;  // kMatmulScratch floats for each thread
  StepRows step_;
};

void CpuOps::copy_blocks(KvCache& cache, std::span<const BlockCopy> copies) {
  if (copies.empty()) return;
  PagedKvCache& paged = static_cast<PagedKvCache&>(cache);
  pool_.run(paged.num_layers(), [&](uint32_t layer, uint32_t) {
    for (const BlockCopy& copy : copies) {
      if (copy.source == copy.target) continue;
      std::memcpy(paged.layer_of_block(copy.target, layer), paged.layer_of_block(copy.source, layer),
                  paged.layer_bytes());
    }
  });
}

void CpuOps::embed(const WeightMatrix& table, Activations& output) {
  const PackedMatrix& matrix = static_cast<const PackedMatrix&>(table);
  FloatRows& target = rows_of(output);
  const uint32_t rows = static_cast<uint32_t>(step_.batch().token_ids.size());
  expect(rows <= target.rows(), "embeddings fit their buffer");
  pool_.run(ceil_divide(rows, kRowsPerTask), [&](uint32_t task, uint32_t) {
    for (uint32_t row = task * kRowsPerTask; row < std::min(rows, (task + 1) * kRowsPerTask); ++row) {
      const int64_t token = step_.batch().token_ids[row];
      if (matrix.has_panels()) {
        kernels_.read_panel_row(matrix.view(nullptr), token, target.row(row));
      } else {
        kernels_.widen(matrix.row(token), matrix.dtype(), matrix.inputs(), target.row(row));
      }
    }
  });
}

void CpuOps::norm_rows(const FloatRows& input, RowRange rows, const Norm& norm, FloatRows& output) {
  const int64_t columns = static_cast<int64_t>(norm.weight->bytes() / sizeof(float));
  const uint32_t end = rows.first + rows.count;
  expect(end <= input.rows() && end <= output.rows() && columns <= input.stride() &&
             columns <= output.stride(),
         "norms fit their buffers");
  pool_.run(ceil_divide(rows.count, kRowsPerTask), [&](uint32_t task, uint32_t) {
    const uint32_t first = rows.first + task * kRowsPerTask;
    for (uint32_t row = first; row < std::min(end, first + kRowsPerTask); ++row) {
      kernels_.rms_norm(input.row(row), data_of(norm.weight), norm.epsilon, columns, output.row(row));
    }
  });
}

void CpuOps::rms_norm(const Activations& input, uint32_t rows, const Norm& norm, Activations& output) {
  norm_rows(rows_of(input), {0, rows}, norm, rows_of(output));
}

template <class Multiply>
void CpuOps::for_tiles(const float* input, int64_t input_stride, uint32_t rows, int64_t panels, float* output,
                       int64_t output_stride, Multiply multiply) {
  if (rows == 0) return;
  // As many rows together as stay in the second-level cache beside the weights, in chunks of nearly equal
  // height
  const int64_t cached_rows = std::clamp<int64_t>(kCachedInputFloats / input_stride, 32, kMatmulRows);
  const uint32_t row_chunks = ceil_divide(rows, static_cast<uint32_t>(cached_rows));
  const uint32_t chunk_rows = (ceil_divide(rows, row_chunks) + 7) / 8 * 8;
  const bool many = panels / kMatmulPanels >= 3 * int64_t{pool_.num_threads()};
  const int64_t task_panels = many ? kMatmulPanels : kMatmulPanels / 2;
  const uint32_t groups = static_cast<uint32_t>((panels + task_panels - 1) / task_panels);
  pool_.run(ceil_divide(rows, chunk_rows) * groups, [&](uint32_t index, uint32_t thread) {
    const int64_t chunk = index / groups;
    const int64_t group = index % groups;
    MatmulTask task;
    task.input = input;
    task.input_stride = input_stride;
    task.output = output;
    task.output_stride = output_stride;
    task.row_begin = chunk * chunk_rows;
    task.row_end = std::min<int64_t>(rows, task.row_begin + chunk_rows);
    task.panel_begin = group * task_panels;
    task.panel_end = std::min(panels, task.panel_begin + task_panels);
    task.scratch = matmul_scratch_.floats() + thread * kMatmulScratch;
    multiply(task);
  });
}

void CpuOps::linear(const Activations& input, RowRange rows, const Linear& linear, Activations& output) {
  const FloatRows& source = rows_of(input);
  FloatRows& target = rows_of(output);
  const MatmulWeight weight = view_of(linear);
  expect(rows.first + rows.count <= source.rows() && rows.count <= target.rows() &&
             weight.inputs <= source.stride() && weight.outputs <= target.stride(),
         "a matmul fits its buffers");
  for_tiles(source.row(rows.first), source.stride(), rows.count, matrix_of(linear).num_panels(),
            target.row(0), target.stride(), [&](const MatmulTask& task) { kernels_.linear(task, weight); });
}

void CpuOps::linear_add_norm(const Activations& input, RowRange rows, const Linear& linear,
                             Activations& residual, uint32_t first, const Norm& norm, Activations& normed) {
  const FloatRows& source = rows_of(input);
  FloatRows& target = rows_of(residual);
  const MatmulWeight weight = view_of(linear);
  expect(rows.first + rows.count <= source.rows() && first + rows.count <= target.rows() &&
             weight.inputs <= source.stride() && weight.outputs <= target.stride(),
         "a matmul fits its buffers");
  for_tiles(source.row(rows.first), source.stride(), rows.count, matrix_of(linear).num_panels(),
            target.row(first), target.stride(),
            [&](const MatmulTask& task) { kernels_.linear_add(task, weight); });
  norm_rows(target, {first, rows.count}, norm, rows_of(normed));
}

void CpuOps::gated_linear(const Activations& input, RowRange rows, const Linear& gate_up,
                          Activations& output) {
  const FloatRows& source = rows_of(input);
  FloatRows& target = rows_of(output);
  const PackedGate& packed = static_cast<const PackedGate&>(*gate_up.weight);
  const float* bias = data_of(gate_up.bias);
  const MatmulWeight gate_weight = packed.gate().view(bias);
  const MatmulWeight up_weight =
      packed.up().view(bias == nullptr ? nullptr : bias + packed.gate().outputs());
  expect(rows.first + rows.count <= source.rows() && rows.count <= target.rows() &&
             gate_weight.inputs <= source.stride() && gate_weight.outputs <= target.stride() &&
             up_weight.outputs == gate_weight.outputs && up_weight.inputs == gate_weight.inputs,
         "a gated matmul fits its buffers");
  for_tiles(source.row(rows.first), source.stride(), rows.count, packed.gate().num_panels(), target.row(0),
            target.stride(),
            [&](const MatmulTask& task) { kernels_.gated_linear(task, gate_weight, up_weight); });
}

void CpuOps::rotate_and_store(Activations& qkv, const WeightVector* query_norm, const WeightVector* key_norm,
                              float epsilon, KvCache& cache, uint32_t layer) {
  FloatRows& source = rows_of(qkv);
  const AttentionLayout layout = static_cast<PagedKvCache&>(cache).layer(layer);
  const uint32_t rows = step_.count();
  expect(rows <= source.rows(), "rows fit their buffer");
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(layout.head_dim)));
  pool_.run(ceil_divide(rows, kRowsPerTask), [&](uint32_t task, uint32_t) {
    for (uint32_t row = task * kRowsPerTask; row < std::min(rows, (task + 1) * kRowsPerTask); ++row) {
      const uint32_t position = step_.place(row).position;
      RotateTask rotate;
      rotate.qkv = source.row(row);
      rotate.cosine = step_.cosine(row);
      rotate.sine = step_.sine(row);
      rotate.query_norm = data_of(query_norm);
      rotate.key_norm = data_of(key_norm);
      rotate.epsilon = epsilon;
      rotate.query_scale = scale;
      rotate.block = step_.sequence_of(row).block_table[position / layout.block_size];
      rotate.slot = position % layout.block_size;
      kernels_.rotate_and_store(layout, rotate);
    }
  });
}

void CpuOps::attend(const Activations& qkv, const KvCache& cache, uint32_t layer, uint32_t window,
                    Activations& output) {
  const FloatRows& source = rows_of(qkv);
  FloatRows& target = rows_of(output);
  const AttentionLayout layout = static_cast<const PagedKvCache&>(cache).layer(layer);
  expect(step_.count() <= target.rows(), "rows fit their buffer");
  // Tile after tile, head after head, in runs short enough to share out and long enough to look ahead in
  const uint32_t heads = step_.shape().num_key_value_heads;
  const uint32_t items = static_cast<uint32_t>(step_.tiles().size()) * heads;
  const uint32_t run = std::clamp(items / (pool_.num_threads() * 16), 1U, kMaxAttendRun);
  pool_.run(ceil_divide(items, run), [&](uint32_t index, uint32_t thread) {
    AttendTask tasks[kMaxAttendRun];
    const uint32_t first = index * run;
    const uint32_t count = std::min(run, items - first);
    for (uint32_t i = 0; i < count; ++i) {
      const StepRows::AttendTile& tile = step_.tiles()[(first + i) / heads];
      const SequenceSpan& span = step_.batch().sequences[tile.sequence];
      AttendTask& task = tasks[i];
      task.queries = source.row(uint64_t{span.first_row} + tile.first);
      task.query_stride = source.stride();
      task.output = target.row(uint64_t{span.first_row} + tile.first);
      task.output_stride = target.stride();
      task.num_rows = tile.rows;
      task.start_position = int64_t{span.start_position} + tile.first;
      task.window = window;
      task.block_table = span.block_table;
      task.key_value_head = (first + i) % heads;
      task.scratch = step_.attend_scratch(thread);
    }
    kernels_.attend(layout, tasks, count);
  });
}

void CpuOps::gather_rows(const Activations& input, std::span<const uint32_t> rows, Activations& output) {
  const FloatRows& source = rows_of(input);
  FloatRows& target = rows_of(output);
  expect(rows.size() <= target.rows() && source.stride() == target.stride(),
         "gathered rows fit their buffer");
  for (size_t i = 0; i < rows.size(); ++i) {
    expect(rows[i] < source.rows(), "gathered rows exist");
    std::memcpy(target.row(i), source.row(rows[i]), static_cast<size_t>(source.stride()) * sizeof(float));
  }
}

void CpuOps::read_linear(const Activations& input, RowRange rows, const Linear& linear, float* out) {
  const FloatRows& source = rows_of(input);
  const MatmulWeight weight = view_of(linear);
  expect(rows.first + rows.count <= source.rows() && weight.inputs <= source.stride(),
         "a matmul fits its buffers");
  for_tiles(source.row(rows.first), source.stride(), rows.count, matrix_of(linear).num_panels(), out,
            weight.outputs, [&](const MatmulTask& task) { kernels_.linear(task, weight); });
}

const CpuKernels& kernels_of(CpuIsa isa) {
#if defined(__x86_64__)
  if (isa == CpuIsa::kAvx2) return avx2_kernels();
  if (isa == CpuIsa::kAvx512) return avx512_kernels();
#endif
  expect(isa == CpuIsa::kScalar, "a chosen instruction set has kernels");
  return scalar_kernels();
}

}  // namespace

std::unique_ptr<Ops> make_cpu_ops(const CpuOptions& options) {
  if (options.num_threads > kMaxThreads) {
    throw HostError("invalid_num_threads", "num_threads is " + std::to_string(options.num_threads) +
                                               "; it may be 0 (one for each core) to " +
                                               std::to_string(kMaxThreads) + ".");
  }
  const uint32_t num_threads = options.num_threads == 0 ? available_cores() : options.num_threads;
  return std::make_unique<CpuOps>(kernels_of(choose_cpu_isa(options.isa)), num_threads);
}

}  // namespace kadenz
