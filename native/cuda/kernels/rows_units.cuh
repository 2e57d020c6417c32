// What the row kernels share: units of four consecutive columns, loaded and stored as 16 (float32) or 8
// (Half) bytes where the layout allows, else element by element, and the sum over a matmul's slices.
//
// The two ways of loading give a thread the same columns in the same order, so they also give the same bits.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "cuda/kernels/rows.h"

namespace kadenz::cuda {

inline bool is_aligned(const void* pointer, uint64_t bytes) {  // null is aligned
  return reinterpret_cast<uint64_t>(pointer) % bytes == 0;
}

// Whether units of the source's rows can be loaded as 16 bytes, given rows of a multiple of four columns.
inline bool has_vector_layout(const SumSource& source) {
  return is_aligned(source.partials, 16) && is_aligned(source.bias, 16) &&
         (source.slices <= 1 || source.slice_stride % 4 == 0);
}

// Two floats rounded to nearest even, the first in the low half; and back.
template <typename T>
__device__ __forceinline__ uint32_t pack_pair(float first, float second) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
    return *reinterpret_cast<const uint32_t*>(&pair);
  } else {
    const __half2 pair = __floats2half2_rn(first, second);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
}

template <typename T>
__device__ __forceinline__ float2 unpack_pair(uint32_t bits) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&bits));
  } else {
    return __half22float2(*reinterpret_cast<const __half2*>(&bits));
  }
}

template <typename T>
__device__ __forceinline__ T round_to(float value) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(value);
  } else {
    return __float2half_rn(value);
  }
}

__device__ __forceinline__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ __forceinline__ float widen(__half value) { return __half2float(value); }
__device__ __forceinline__ float widen(float value) { return value; }

struct Unit {
  float value[4];
};

// Columns column .. column + 3 of the row, 0 from `end` on.
template <bool kVector>
__device__ __forceinline__ Unit load_unit(const float* row, uint32_t column, uint32_t end) {
  Unit unit = {};
  if constexpr (kVector) {
    if (column < end) {
      const float4 four = *reinterpret_cast<const float4*>(row + column);
      unit = {{four.x, four.y, four.z, four.w}};
    }
  } else {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      if (column + i < end) unit.value[i] = row[column + i];
    }
  }
  return unit;
}

template <bool kVector>
__device__ __forceinline__ void store_unit(float* row, uint32_t column, uint32_t end, const Unit& unit) {
  if constexpr (kVector) {
    if (column < end) {
      *reinterpret_cast<float4*>(row + column) =
          make_float4(unit.value[0], unit.value[1], unit.value[2], unit.value[3]);
    }
  } else {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      if (column + i < end) row[column + i] = unit.value[i];
    }
  }
}

template <bool kVector, typename T>
__device__ __forceinline__ void store_rounded_unit(T* row, uint32_t column, uint32_t end, const Unit& unit) {
  if constexpr (kVector) {
    if (column < end) {
      *reinterpret_cast<uint2*>(row + column) =
          make_uint2(pack_pair<T>(unit.value[0], unit.value[1]), pack_pair<T>(unit.value[2], unit.value[3]));
    }
  } else {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      if (column + i < end) row[column + i] = round_to<T>(unit.value[i]);
    }
  }
}

// A thread's units of a row: where each begins and where its part of the row ends.
template <int kUnits>
struct UnitPlaces {
  uint32_t column[kUnits];
  uint32_t end[kUnits];
};

// Up to kAhead slices of a thread's units, in flight together.
template <int kUnits, int kAhead>
struct SlicesAhead {
  Unit loaded[kAhead][kUnits];

  template <bool kVector>
  __device__ __forceinline__ void load(const SumSource& source, uint64_t row_offset, uint32_t first_slice,
                                       const UnitPlaces<kUnits>& places) {
#pragma unroll
    for (int ahead = 0; ahead < kAhead; ++ahead) {
      if (first_slice + ahead < source.slices) {
        const float* row = source.partials + (first_slice + ahead) * source.slice_stride + row_offset;
#pragma unroll
        for (int u = 0; u < kUnits; ++u) {
          loaded[ahead][u] = load_unit<kVector>(row, places.column[u], places.end[u]);
        }
      }
    }
  }

  __device__ __forceinline__ void add_to(Unit (&sum)[kUnits], uint32_t first_slice, uint32_t slices) const {
#pragma unroll
    for (int ahead = 0; ahead < kAhead; ++ahead) {
      if (first_slice + ahead < slices) {
#pragma unroll
        for (int u = 0; u < kUnits; ++u) {
#pragma unroll
          for (int i = 0; i < 4; ++i) sum[u].value[i] = __fadd_rn(sum[u].value[i], loaded[ahead][u].value[i]);
        }
      }
    }
  }
};

// ((0 + slice 0) + slice 1) + ... + bias. `ahead` holds the first kAhead slices already.
template <bool kVector, int kUnits, int kAhead>
__device__ __forceinline__ void sum_slices(const SumSource& source, uint64_t row_offset,
                                           const UnitPlaces<kUnits>& places,
                                           SlicesAhead<kUnits, kAhead>& ahead, Unit (&sum)[kUnits]) {
#pragma unroll
  for (int u = 0; u < kUnits; ++u) sum[u] = {};
  ahead.add_to(sum, 0, source.slices);
  for (uint32_t first_slice = kAhead; first_slice < source.slices; first_slice += kAhead) {
    ahead.template load<kVector>(source, row_offset, first_slice, places);
    ahead.add_to(sum, first_slice, source.slices);
  }
  if (source.bias == nullptr) return;
#pragma unroll
  for (int u = 0; u < kUnits; ++u) {
    const Unit bias = load_unit<kVector>(source.bias, places.column[u], places.end[u]);
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[u].value[i] = __fadd_rn(sum[u].value[i], bias.value[i]);
  }
}

}  // namespace kadenz::cuda
