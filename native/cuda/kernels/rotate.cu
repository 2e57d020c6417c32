// head_dim_padded / 8 lanes make one head: lane j holds the columns 4 j .. 4 j + 3 of the head's lower half
// and the same of its upper half, so the two of a rotated pair meet in one thread. The sum of squares of a
// head runs over a lane's eight columns in order and then as a butterfly over the head's lanes.
#include "cuda/kernels/rotate.h"

#include <bit>
#include <stdexcept>
#include <string>

#include "cuda/check.h"
#include "cuda/kernels/dependent_launch.cuh"
#include "cuda/kernels/rows_units.cuh"

namespace kadenz::cuda {
namespace {

constexpr uint32_t kThreads = 128;
constexpr int kAhead = 2;  // slices in flight together
constexpr uint32_t kBlocksPerSm = 8;

struct RotateLaunch {
  RotateArgs args;
  float inverse_head_dim;
  uint32_t block_shift;  // log2 of the block size
};

enum class HeadKind : uint8_t { kQuery, kKey, kValue };

// Writes a lane's part of one head, the padding included.
template <typename T, bool kVector, uint32_t kLanes>
__device__ __forceinline__ void store_head(T* target, const UnitPlaces<2>& places, const Unit (&head)[2],
                                           uint32_t head_dim, uint32_t lane) {
#pragma unroll
  for (int u = 0; u < 2; ++u) {
    store_rounded_unit<kVector>(target, places.column[u], places.end[u], head[u]);
  }
  for (uint32_t column = head_dim + lane; column < 8 * kLanes; column += kLanes) {
    target[column] = round_to<T>(0.0F);
  }
}

// blockIdx.x: the row; blockIdx.y: which kThreads / kLanes heads of [q | k | v].
template <typename T, bool kVector, uint32_t kLanes>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm) rotate_kernel(const RotateLaunch launch) {
  const RotateArgs& a = launch.args;
  const uint32_t row = blockIdx.x;
  const uint32_t lane = threadIdx.x % kLanes;
  const uint32_t head = blockIdx.y * (kThreads / kLanes) + threadIdx.x / kLanes;
  const uint32_t num_heads = a.num_heads + 2 * a.num_kv_heads;
  const HeadKind kind = head < a.num_heads                    ? HeadKind::kQuery
                        : head < a.num_heads + a.num_kv_heads ? HeadKind::kKey
                                                              : HeadKind::kValue;
  const uint32_t half = a.head_dim / 2;
  // Threads beyond the last head hold no columns: they load zeros, take part in the butterfly and store
  // nothing.
  const bool exists = head < num_heads;
  const UnitPlaces<2> places = {{4 * lane, half + 4 * lane}, {exists ? half : 0, exists ? a.head_dim : 0}};

  const float* norm = kind == HeadKind::kQuery ? a.query_norm : kind == HeadKind::kKey ? a.key_norm : nullptr;
  Unit weight[2] = {};
  if (norm != nullptr) {
#pragma unroll
    for (int u = 0; u < 2; ++u) weight[u] = load_unit<kVector>(norm, places.column[u], places.end[u]);
  }

  wait_for_previous_kernel();
  let_next_kernel_start();

  const int64_t kv_slot = a.kv_slots[row];
  const int32_t position = a.positions[row];
  const uint64_t row_offset =
      static_cast<uint64_t>(row) * num_heads * a.head_dim + static_cast<uint64_t>(head) * a.head_dim;
  SlicesAhead<2, kAhead> ahead;
  ahead.template load<kVector>(a.qkv, row_offset, 0, places);

  T* query = static_cast<T*>(a.q_out) + (static_cast<uint64_t>(row) * a.num_heads + head) * (8 * kLanes);
  if (kv_slot < 0) {  // of the row, so the whole block leaves together
    const Unit zeros[2] = {};
    if (kind == HeadKind::kQuery) store_head<T, kVector, kLanes>(query, places, zeros, a.head_dim, lane);
    return;
  }

  // The rotation of the lane's four pairs, cos and sin side by side.
  Unit turn[2] = {};
  const bool rotates = kind != HeadKind::kValue;
  if (rotates) {
    const float* cos_sin = a.cos_sin + static_cast<uint64_t>(position) * a.head_dim;
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      turn[u] = load_unit<kVector>(cos_sin, 8 * lane + 4 * u, exists ? a.head_dim : 0);
    }
  }

  // The bias starts anew for each head: its columns are those of the whole row.
  SumSource source = a.qkv;
  if (source.bias != nullptr) source.bias += static_cast<uint64_t>(head) * a.head_dim;
  Unit values[2];
  sum_slices<kVector>(source, row_offset, places, ahead, values);

  if (a.query_norm != nullptr || a.key_norm != nullptr) {
    float squares = 0.0F;
#pragma unroll
    for (int u = 0; u < 2; ++u) {
#pragma unroll
      for (int i = 0; i < 4; ++i) squares = __fmaf_rn(values[u].value[i], values[u].value[i], squares);
    }
#pragma unroll
    for (uint32_t distance = kLanes / 2; distance > 0; distance /= 2) {
      squares = __fadd_rn(squares, __shfl_xor_sync(0xffffffffU, squares, distance));
    }
    if (norm != nullptr) {
      const float scale = __frsqrt_rn(__fmaf_rn(squares, launch.inverse_head_dim, a.epsilon));
#pragma unroll
      for (int u = 0; u < 2; ++u) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          values[u].value[i] = __fmul_rn(__fmul_rn(values[u].value[i], scale), weight[u].value[i]);
        }
      }
    }
  }
  if (!exists) return;

  if (rotates) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float cosine = turn[i / 2].value[2 * (i % 2)];
      const float sine = turn[i / 2].value[2 * (i % 2) + 1];
      const float low = values[0].value[i];
      const float high = values[1].value[i];
      values[0].value[i] = __fmaf_rn(low, cosine, -__fmul_rn(high, sine));
      values[1].value[i] = __fmaf_rn(high, cosine, __fmul_rn(low, sine));
    }
  }

  T* target = query;
  if (kind != HeadKind::kQuery) {
    const uint64_t block = static_cast<uint64_t>(kv_slot) >> launch.block_shift;
    const uint64_t offset = static_cast<uint64_t>(kv_slot) & (a.block_size - 1);
    const uint64_t plane = 2 * block + (kind == HeadKind::kValue ? 1 : 0);
    const uint32_t kv_head = head - a.num_heads - (kind == HeadKind::kValue ? a.num_kv_heads : 0);
    target = static_cast<T*>(a.cache_layer) +
             (((plane * a.num_kv_heads + kv_head) << launch.block_shift) + offset) * (8 * kLanes);
  }
  store_head<T, kVector, kLanes>(target, places, values, a.head_dim, lane);
}

template <typename T>
void launch_rotate(const RotateLaunch& launch, cudaStream_t stream) {
  const RotateArgs& args = launch.args;
  const bool vector = args.head_dim % 8 == 0 && has_vector_layout(args.qkv) &&
                      is_aligned(args.query_norm, 16) && is_aligned(args.key_norm, 16) &&
                      is_aligned(args.cos_sin, 16) && is_aligned(args.q_out, 8) &&
                      is_aligned(args.cache_layer, 8);
  const uint32_t heads = args.num_heads + 2 * args.num_kv_heads;
  const uint32_t heads_per_block = kThreads / (args.head_dim_padded / 8);
  auto* kernel = args.head_dim_padded == 64
                     ? (vector ? rotate_kernel<T, true, 8> : rotate_kernel<T, false, 8>)
                     : (vector ? rotate_kernel<T, true, 16> : rotate_kernel<T, false, 16>);
  launch_dependent(kernel, dim3(args.rows, (heads + heads_per_block - 1) / heads_per_block), dim3(kThreads),
                   0, stream, launch);
}

}  // namespace

void rotate_and_store(const RotateArgs& args, cudaStream_t stream) {
  const bool padded_well = args.head_dim_padded == 64 || args.head_dim_padded == 128;
  if (!padded_well || args.head_dim == 0 || args.head_dim % 2 != 0 || args.head_dim > args.head_dim_padded ||
      !std::has_single_bit(args.block_size) || args.qkv.partials == nullptr) {
    throw std::logic_error("rotate_and_store: head_dim " + std::to_string(args.head_dim) + " padded to " +
                           std::to_string(args.head_dim_padded) + " in blocks of " +
                           std::to_string(args.block_size));
  }
  if (args.rows == 0) return;
  const RotateLaunch launch = {args, 1.0F / static_cast<float>(args.head_dim),
                               static_cast<uint32_t>(std::countr_zero(args.block_size))};
  if (args.dtype == Half::kBFloat16) {
    launch_rotate<__nv_bfloat16>(launch, stream);
  } else {
    launch_rotate<__half>(launch, stream);
  }
  check_launch("rotate_and_store");
}

}  // namespace kadenz::cuda
