// The fold: every arithmetic step of attention, shared by the split and the block kernel so that one query
// row has the same bits from both.
//
// A warp holds 16 packed rows in the fragments of mma m16n8k16. Lane t owns columns 2 (t % 4) and + 1 of each
// group of 8, in rows t / 4 (half 0: elements 0, 1) and t / 4 + 8 (half 1: elements 2, 3).
//
// For a row: positions come in chunks of 256 (absolute multiples), a chunk in tiles of 64 in ascending order.
//   tile:   s = q k^T (head_dim in steps of 16); m' = max(m, max(s) * scale); p = 2^(s * scale - m');
//           l = l * 2^(m - m') + sum(p); acc = acc * 2^(m - m') + half(p) v (positions in steps of 16)
//   chunk:  (m, l, acc) starts as (-inf, 0, 0). l is kept by lane: even columns in order, odd columns in
//   order,
//           their sum; the four lanes of a row are added at the chunk's end. l sums p before it is rounded.
//   total:  starts as (-inf, 0, 0), takes the chunks in ascending order (merge), then output = acc / l.
//
// A tile or chunk in which a row sees nothing leaves that row exactly as it was, so a row's bits do not
// depend on what its tile-mates see: its p are 0 and 2^0 is 1. The roundings are spelled out so that no
// compilation of these functions contracts them in another way.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/kernels/attention_items.h"

namespace kadenz::cuda::attention {

constexpr int kTile = kAttentionTile;
constexpr int kChunkTiles = kAttentionChunkTiles;
constexpr int kTileColumns = kTile / 8;  // groups of 8 positions
constexpr float kMinusInfinity = -__builtin_huge_valf();

__device__ __forceinline__ float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

template <class T>
__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <>
__device__ __forceinline__ void multiply<__nv_bfloat16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                                        uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void multiply<__half>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                                 uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two floats rounded to nearest even; the first in the low half.
template <class T>
__device__ __forceinline__ uint32_t round_pair(float low, float high) {
  uint32_t pair;
  if constexpr (sizeof(T) == 2 && __is_same(T, __nv_bfloat16)) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  }
  return pair;
}

__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// Shared memory holds rows of kD halves, the 16-byte unit u of row r at place u ^ (r & 7); every tile begins
// at a multiple of a row's bytes, so that the step of 16 halves (32 bytes) can be XORed into the whole
// address. lane = the lane's offset within the tile for step 0.
template <int kD>
__device__ __forceinline__ uint32_t matrix_address(uint32_t tile, uint32_t lane, int row, int step) {
  return ((tile + lane) ^ (step * 32)) + row * (kD * 2);
}
// As left operand (q) and, transposed, as right operand (v): rows 0-15, then units.
template <int kD>
__device__ __forceinline__ uint32_t rows_first(int lane) {
  return (lane & 15) * (kD * 2) + ((lane >> 4) ^ (lane & 7)) * 16;
}
// As right operand without transposing (k): rows 0-7 with both units, then rows 8-15.
template <int kD>
__device__ __forceinline__ uint32_t units_first(int lane) {
  return ((lane & 7) + ((lane >> 4) << 3)) * (kD * 2) + (((lane >> 3) & 1) ^ (lane & 7)) * 16;
}

// 16 packed rows of q. The first kHeld steps of 16 halves stay in registers, the others stay in shared
// memory.
template <int kD, int kHeld>
struct Query {
  uint32_t held[kHeld > 0 ? kHeld : 1][4];
  uint32_t rows;  // shared memory
  uint32_t lane;

  __device__ __forceinline__ void load(uint32_t address, uint32_t lane_offset) {
    rows = address;
    lane = lane_offset;
#pragma unroll
    for (int step = 0; step < kHeld; ++step)
      load_matrices(held[step], matrix_address<kD>(rows, lane, 0, step));
  }
  __device__ __forceinline__ void get(uint32_t (&q)[4], int step) const {
    if (step >= kHeld) {
      load_matrices(q, matrix_address<kD>(rows, lane, 0, step));
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) q[i] = held[step < kHeld ? step : 0][i];
    }
  }
};

// s = q k^T for 16 * kPairs positions whose keys begin at `keys`.
template <class T, int kD, int kHeld, int kPairs>
__device__ __forceinline__ void score(float (&s)[2 * kPairs][4], const Query<kD, kHeld>& query, uint32_t keys,
                                      uint32_t lane) {
#pragma unroll
  for (int n = 0; n < 2 * kPairs; ++n) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.0F;
#pragma unroll
  for (int step = 0; step < kD / 16; ++step) {
    uint32_t q[4];
    query.get(q, step);
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      uint32_t k[4];
      load_matrices(k, matrix_address<kD>(keys, lane, 16 * pair, step));
      multiply<T>(s[2 * pair], q, k[0], k[1]);
      multiply<T>(s[2 * pair + 1], q, k[2], k[3]);
    }
  }
}

// The first position that the row at `position` may see; window 0 = all.
__device__ __forceinline__ int32_t first_visible(int32_t position, int32_t window) {
  return window > 0 && position >= window ? position - window + 1 : 0;
}

// What the lane's two rows may see: positions low .. high.
struct Sight {
  int32_t low[2];
  int32_t high[2];
};
__device__ __forceinline__ Sight sight_of(const int32_t (&positions)[2], int32_t window) {
  return {{first_visible(positions[0], window), first_visible(positions[1], window)},
          {positions[0], positions[1]}};
}

template <int kColumns>
__device__ __forceinline__ void mask(float (&s)[kColumns][4], int first_position, const Sight& sight,
                                     int lane) {
  const int first = first_position + 2 * (lane & 3);
#pragma unroll
  for (int n = 0; n < kColumns; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int position = first + 8 * n + (e & 1);
      if (position > sight.high[e >> 1] || position < sight.low[e >> 1]) s[n][e] = kMinusInfinity;
    }
  }
}

// Softmax statistics of the lane's two rows. m is of scaled scores (base 2); l is the lane's part, until
// add_lanes.
struct Statistics {
  float m[2];
  float l[2];

  __device__ void clear() {
    m[0] = m[1] = kMinusInfinity;
    l[0] = l[1] = 0.0F;
  }
  __device__ void add_lanes() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      l[half] = __fadd_rn(l[half], __shfl_xor_sync(~0U, l[half], 1));
      l[half] = __fadd_rn(l[half], __shfl_xor_sync(~0U, l[half], 2));
    }
  }
};

// Takes one tile's scores into the statistics; leaves p as left operands of four steps of 16 positions.
template <class T>
__device__ __forceinline__ void soften(float (&s)[kTileColumns][4], float scale, Statistics& statistics,
                                       uint32_t (&p)[kTileColumns / 2][4], float (&rescale)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float top = fmaxf(s[0][2 * half], s[0][2 * half + 1]);
#pragma unroll
    for (int n = 1; n < kTileColumns; ++n) top = fmaxf(top, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
    top = fmaxf(top, __shfl_xor_sync(~0U, top, 1));
    top = fmaxf(top, __shfl_xor_sync(~0U, top, 2));
    const float m = fmaxf(statistics.m[half], __fmul_rn(top, scale));
    const float base = m == kMinusInfinity ? 0.0F : m;  // nothing seen yet: no -inf minus -inf
    rescale[half] = exp2_approximate(__fsub_rn(statistics.m[half], base));
    statistics.m[half] = m;
    float even = 0.0F;
    float odd = 0.0F;
#pragma unroll
    for (int n = 0; n < kTileColumns; ++n) {
      s[n][2 * half] = exp2_approximate(__fmaf_rn(s[n][2 * half], scale, -base));
      s[n][2 * half + 1] = exp2_approximate(__fmaf_rn(s[n][2 * half + 1], scale, -base));
      even = __fadd_rn(even, s[n][2 * half]);
      odd = __fadd_rn(odd, s[n][2 * half + 1]);
    }
    statistics.l[half] = __fmaf_rn(statistics.l[half], rescale[half], __fadd_rn(even, odd));
  }
#pragma unroll
  for (int step = 0; step < kTileColumns / 2; ++step) {
    p[step][0] = round_pair<T>(s[2 * step][0], s[2 * step][1]);
    p[step][1] = round_pair<T>(s[2 * step][2], s[2 * step][3]);
    p[step][2] = round_pair<T>(s[2 * step + 1][0], s[2 * step + 1][1]);
    p[step][3] = round_pair<T>(s[2 * step + 1][2], s[2 * step + 1][3]);
  }
}

// acc = acc * rescale + p v for 16 * kPairs of v's columns; the lane's address already points at the first.
template <class T, int kD, int kPairs>
__device__ __forceinline__ void accumulate(float (&acc)[2 * kPairs][4],
                                           const uint32_t (&p)[kTileColumns / 2][4],
                                           const float (&rescale)[2], uint32_t values, uint32_t lane) {
  // A factor of 1 changes nothing, so a warp whose rows all keep their maximum leaves it out.
  if (__any_sync(~0U, rescale[0] != 1.0F || rescale[1] != 1.0F)) {
#pragma unroll
    for (int n = 0; n < 2 * kPairs; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) acc[n][e] = __fmul_rn(acc[n][e], rescale[e >> 1]);
    }
  }
#pragma unroll
  for (int step = 0; step < kTileColumns / 2; ++step) {
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      uint32_t v[4];
      load_matrices_transposed(v, matrix_address<kD>(values, lane, 16 * step, pair));
      multiply<T>(acc[2 * pair], p[step], v[0], v[1]);
      multiply<T>(acc[2 * pair + 1], p[step], v[2], v[3]);
    }
  }
}

// Takes a chunk (its lanes added) into the total. Where a row saw nothing, nothing moves, not even a zero's
// sign.
template <int kColumns>
__device__ __forceinline__ void merge(float (&total)[kColumns][4], Statistics& statistics,
                                      const float (&chunk)[kColumns][4], const Statistics& chunk_statistics) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (chunk_statistics.m[half] == kMinusInfinity) continue;
    const float m = fmaxf(statistics.m[half], chunk_statistics.m[half]);
    const float keep = exp2_approximate(__fsub_rn(statistics.m[half], m));
    const float take = exp2_approximate(__fsub_rn(chunk_statistics.m[half], m));
    statistics.m[half] = m;
    statistics.l[half] = __fmaf_rn(chunk_statistics.l[half], take, __fmul_rn(statistics.l[half], keep));
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; ++e) {
        total[n][e] = __fmaf_rn(chunk[n][e], take, __fmul_rn(total[n][e], keep));
      }
    }
  }
}

template <int kColumns>
__device__ __forceinline__ void clear(float (&acc)[kColumns][4]) {
#pragma unroll
  for (int n = 0; n < kColumns; ++n) acc[n][0] = acc[n][1] = acc[n][2] = acc[n][3] = 0.0F;
}

}  // namespace kadenz::cuda::attention
