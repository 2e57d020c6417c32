// The CPU kernels: pointers, sizes and nothing else. One source (*_kernels.h, templates over a vector of 16
// floats) is compiled three times, in kernels_scalar.cc, kernels_avx2.cc and kernels_avx512.cc; each gives
// the table below.
//
// Why the bits are equal: lanes hold different output elements, and each element is one chain of fused
// multiply-adds in increasing inner index. Where a sum does cross lanes (norms, softmax), 16 partial sums by
// index mod 16 are folded in one fixed tree (i + i+8, then +4, +2, +1). exp is our own. So the vector width
// is a matter of speed only.
//
// Matrices of weights are panels: [ceil(outputs / 16)][inputs][16], the last one padded with zeros.
// Strides and sizes count elements. Rows of float matrices are 64-byte aligned but for the final output of
// logits.
#pragma once

#include <cstdint>

#include "model/dtype.h"

namespace kadenz {

inline constexpr int64_t kLanes = 16;
inline constexpr int64_t kMatmulRows = 256;  // most rows of one matmul task
inline constexpr int64_t kMatmulPanels = 6;  // most panels of one matmul task
inline constexpr int64_t kMatmulInnerBlock =
    256;  // widened weights are kept for so many inner indices at a time
// floats of scratch that one matmul task needs: products of two matrices, then the widened block
inline constexpr int64_t kMatmulScratch =
    2 * kMatmulRows * kMatmulPanels * kLanes + kMatmulInnerBlock * kMatmulPanels * kLanes;

struct MatmulWeight {
  const void* panels;
  DType dtype;
  int64_t inputs;
  int64_t outputs;
  const float* bias;  // [outputs] or null
};

struct MatmulTask {
  const float* input;
  int64_t input_stride;
  float* output;
  int64_t output_stride;
  int64_t row_begin, row_end;      // of input and output alike; at most kMatmulRows
  int64_t panel_begin, panel_end;  // at most kMatmulPanels
  float* scratch;                  // kMatmulScratch floats, 64-byte aligned
};

// How rows of [q | k | v] and the cache are laid out. One block of one layer: keys [kv head][dim][slot], then
// values [kv head][slot][value_stride], where value_stride is head_dim rounded up to 16 and the padding stays
// zero.
struct AttentionLayout {
  int64_t num_heads, num_key_value_heads, head_dim, value_stride, block_size;
  DType storage;         // float32 or bfloat16
  void* layer_cache;     // block 0 of this layer
  int64_t block_stride;  // elements from one block of this layer to the next
  int64_t key_elements;  // of one block of one layer: where its values begin
};

struct RotateTask {
  float* qkv;           // one row: [q heads | k heads | v heads]
  const float* cosine;  // [head_dim / 2]
  const float* sine;
  const float* query_norm;  // [head_dim] or null
  const float* key_norm;
  float epsilon;
  float query_scale;
  int64_t block, slot;  // where k and v go
};

struct AttendTask {
  const float* queries;  // the sequence's row row_begin, scaled and rotated; only its q heads are read
  int64_t query_stride;
  float* output;
  int64_t output_stride;
  int64_t num_rows;        // consecutive positions
  int64_t start_position;  // of the first of these rows
  int64_t window;          // 0 = none
  const uint32_t* block_table;
  int64_t key_value_head;
  float* scratch;  // attend_scratch_floats() of it, 64-byte aligned
};

static inline int64_t attend_scratch_floats(const AttentionLayout& layout, int64_t num_rows,
                                            int64_t end_position) {
  const int64_t group = layout.num_heads / layout.num_key_value_heads;
  const int64_t positions = ((end_position + kLanes - 1) / kLanes | 1) * kLanes;
  return num_rows * group * (positions + layout.value_stride + 1);
}

struct CpuKernels {
  // output = input W^T + bias
  void (*linear)(const MatmulTask&, const MatmulWeight&);
  // output += (input W^T + bias)
  void (*linear_add)(const MatmulTask&, const MatmulWeight&);
  // output = silu(input G^T + bias) * (input U^T + bias)
  void (*gated_linear)(const MatmulTask&, const MatmulWeight& gate, const MatmulWeight& up);
  void (*rms_norm)(const float* input, const float* weight, float epsilon, int64_t columns, float* output);
  void (*rotate_and_store)(const AttentionLayout&, const RotateTask&);
  // One task after the other; while one is worked on, the keys and values of the next are fetched.
  void (*attend)(const AttentionLayout&, const AttendTask* tasks, int64_t count);
  // output[i] = row `row` of the matrix in panels
  void (*read_panel_row)(const MatmulWeight&, int64_t row, float* output);
  void (*widen)(const void* input, DType dtype, int64_t count, float* output);
  void (*exp)(const float* input, int64_t count, float* output);  // for tests: the softmax's own
};

const CpuKernels& scalar_kernels();
const CpuKernels& avx2_kernels();
const CpuKernels& avx512_kernels();

}  // namespace kadenz
