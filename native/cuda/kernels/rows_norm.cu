// Residual + RMSNorm, one block a row. A thread keeps its columns in registers from the sum to the scaling,
// so each row is read once and written once.
//
// The order of the sum of squares: each thread over its units in order, a butterfly over the 32 lanes of a
// warp, then the warps in order. The number of threads follows the number of columns alone.
#include <stdexcept>
#include <string>

#include "cuda/check.h"
#include "cuda/kernels/dependent_launch.cuh"
#include "cuda/kernels/rows.h"
#include "cuda/kernels/rows_units.cuh"

namespace kadenz::cuda {
namespace {

constexpr uint32_t kMaxWarps = 32;

struct NormArguments {
  SumSource source;
  float* residual;
  const float* weight;
  float epsilon;
  float inverse_columns;
  uint32_t columns;
  void* normed;
};

__device__ __forceinline__ float block_sum(float value) {
  // Filled up with zeros to whole groups of four, which are read in one load each.
  __shared__ __align__(16) float warp_sums[kMaxWarps + 3];
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t warps = blockDim.x / 32;
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value = __fadd_rn(value, __shfl_xor_sync(0xffffffffU, value, distance));
  }
  if (lane == 0) warp_sums[warp] = value;
  if (warp == warps - 1 && lane >= 1 && lane <= 3) warp_sums[warp + lane] = 0.0F;
  __syncthreads();
  float total = 0.0F;
#pragma unroll
  for (uint32_t first = 0; first < kMaxWarps; first += 4) {
    if (first < warps) {
      const float4 four = *reinterpret_cast<const float4*>(warp_sums + first);
      total = __fadd_rn(__fadd_rn(__fadd_rn(__fadd_rn(total, four.x), four.y), four.z), four.w);
    }
  }
  return total;
}

template <typename T, bool kVector, int kUnits, int kAhead>
__global__ void __launch_bounds__(1024) add_norm_kernel(const NormArguments a) {
  const uint64_t row_offset = static_cast<uint64_t>(blockIdx.x) * a.columns;
  UnitPlaces<kUnits> places;
#pragma unroll
  for (int u = 0; u < kUnits; ++u) {
    places.column[u] = 4 * (threadIdx.x + u * blockDim.x);
    places.end[u] = a.columns;
  }
  // Loads are issued ahead of their use, the weight's even before the wait; four units a thread leave no
  // registers for that.
  constexpr bool kLoadAhead = kUnits <= 2;
  Unit weight[kUnits];
  if constexpr (kLoadAhead) {
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      weight[u] = load_unit<kVector>(a.weight, places.column[u], places.end[u]);
    }
  }

  wait_for_previous_kernel();
  let_next_kernel_start();

  float* residual = a.residual + row_offset;
  const bool adds = a.source.partials != nullptr;
  Unit row[kUnits];
  if (kLoadAhead || !adds) {
#pragma unroll
    for (int u = 0; u < kUnits; ++u) row[u] = load_unit<kVector>(residual, places.column[u], places.end[u]);
  }
  if (adds) {
    SlicesAhead<kUnits, kAhead> ahead;
    ahead.template load<kVector>(a.source, row_offset, 0, places);
    Unit sum[kUnits];
    sum_slices<kVector>(a.source, row_offset, places, ahead, sum);
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      if constexpr (!kLoadAhead) row[u] = load_unit<kVector>(residual, places.column[u], places.end[u]);
#pragma unroll
      for (int i = 0; i < 4; ++i) row[u].value[i] = __fadd_rn(row[u].value[i], sum[u].value[i]);
      store_unit<kVector>(residual, places.column[u], places.end[u], row[u]);
    }
  }

  float squares = 0.0F;
#pragma unroll
  for (int u = 0; u < kUnits; ++u) {
#pragma unroll
    for (int i = 0; i < 4; ++i) squares = __fmaf_rn(row[u].value[i], row[u].value[i], squares);
  }
  const float scale = __frsqrt_rn(__fmaf_rn(block_sum(squares), a.inverse_columns, a.epsilon));

  T* normed = static_cast<T*>(a.normed) + row_offset;
#pragma unroll
  for (int u = 0; u < kUnits; ++u) {
    if constexpr (!kLoadAhead) weight[u] = load_unit<kVector>(a.weight, places.column[u], places.end[u]);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      row[u].value[i] = __fmul_rn(__fmul_rn(row[u].value[i], scale), weight[u].value[i]);
    }
    store_rounded_unit<kVector>(normed, places.column[u], places.end[u], row[u]);
  }
}

// How a row is spread over a block, by its number of columns alone.
struct NormShape {
  uint32_t threads;
  uint32_t units;  // of four columns, for each thread
};

NormShape norm_shape(uint32_t columns) {
  const uint32_t row_units = (columns + 3) / 4;
  const uint32_t units = row_units <= 512 ? 1 : row_units <= 2048 ? 2 : 4;
  const uint32_t threads = (row_units + units - 1) / units;
  return {(threads + 31) / 32 * 32, units};
}

template <typename T, bool kVector>
void launch_add_norm(const NormArguments& arguments, uint32_t rows, cudaStream_t stream) {
  const NormShape shape = norm_shape(arguments.columns);
  auto* kernel = shape.units == 1   ? add_norm_kernel<T, kVector, 1, 4>
                 : shape.units == 2 ? add_norm_kernel<T, kVector, 2, 2>
                                    : add_norm_kernel<T, kVector, 4, 1>;
  launch_dependent(kernel, dim3(rows), dim3(shape.threads), 0, stream, arguments);
}

}  // namespace

void add_norm(Half dtype, const SumSource& source, float* residual, const float* weight, float epsilon,
              uint32_t rows, uint32_t columns, void* normed, cudaStream_t stream) {
  if (columns == 0 || columns > kMaxNormColumns) {
    throw std::logic_error("add_norm: " + std::to_string(columns) + " columns are not in 1 .. " +
                           std::to_string(kMaxNormColumns));
  }
  if (rows == 0) return;
  const NormArguments arguments = {source,  residual, weight, epsilon, 1.0F / static_cast<float>(columns),
                                   columns, normed};
  const bool vector = columns % 4 == 0 && has_vector_layout(source) && is_aligned(residual, 16) &&
                      is_aligned(weight, 16) && is_aligned(normed, 8);
  if (dtype == Half::kBFloat16) {
    vector ? launch_add_norm<__nv_bfloat16, true>(arguments, rows, stream)
           : launch_add_norm<__nv_bfloat16, false>(arguments, rows, stream);
  } else {
    vector ? launch_add_norm<__half, true>(arguments, rows, stream)
           : launch_add_norm<__half, false>(arguments, rows, stream);
  }
  check_launch("add_norm");
}

}  // namespace kadenz::cuda
