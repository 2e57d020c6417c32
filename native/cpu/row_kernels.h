// Kernels over single rows: exp and SiLU, RMSNorm, rotary embedding with the write into the cache, look-ups.
#pragma once

#include <cstdint>

#include "cpu/float_bits.h"
#include "cpu/kernels.h"

namespace kadenz {
namespace {

// e^x, within 1.5 units in the last place for -87.3 < x < 88; 0 below, 2^127 or so above, NaN for NaN.
// x = n ln 2 + r; e^r = 1 + r + r^2 q(r), q fitted so that the relative error is below 4e-9.
template <class V>
typename V::Vec exp_lanes(typename V::Vec x) {
  const auto lowest = V::broadcast(-87.3F);
  const auto clamped = V::maximum(lowest, V::minimum(V::broadcast(88.0F), x));
  const auto magic = V::broadcast(0x1.8p23F);  // adding it leaves the nearest integer in the low bits
  const auto shifted = V::fma(clamped, V::broadcast(0x1.715476p+0F), magic);
  const auto n = V::subtract(shifted, magic);
  auto r = V::fma(n, V::broadcast(-0x1.62e4p-1F), clamped);
  r = V::fma(n, V::broadcast(-0x1.7f7d1cp-20F), r);
  auto q = V::broadcast(0x1.6a23dp-10F);
  q = V::fma(q, r, V::broadcast(0x1.123a2p-7F));
  q = V::fma(q, r, V::broadcast(0x1.5558f2p-5F));
  q = V::fma(q, r, V::broadcast(0x1.555492p-3F));
  q = V::fma(q, r, V::broadcast(0x1.fffffcp-2F));
  const auto power = V::fma(V::multiply(r, r), q, V::add(r, V::broadcast(1.0F)));
  return V::zero_where_less(V::multiply(power, V::power_of_two(shifted)), x, lowest);
}

template <class V>
typename V::Vec silu_lanes(typename V::Vec x) {
  const auto one = V::broadcast(1.0F);
  return V::divide(x, V::add(one, exp_lanes<V>(V::subtract(V::zero(), x))));
}

template <class V>
float sum_lanes(typename V::Vec v) {
  alignas(64) float lane[16];
  V::store(lane, v);
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  }
  return lane[0];
}

template <class V>
float largest_lane(typename V::Vec v) {
  alignas(64) float lane[16];
  V::store(lane, v);
  float largest = lane[0];
  for (int i = 1; i < 16; ++i) largest = lane[i] > largest ? lane[i] : largest;
  return largest;
}

template <class V>
void exp_row(const float* input, int64_t count, float* output) {
  for (int64_t i = 0; i < count; i += kLanes) {
    V::store_partial(output + i, exp_lanes<V>(V::load_partial(input + i, count - i)), count - i);
  }
}

template <class V>
void rms_norm_row(const float* input, const float* weight, float epsilon, int64_t columns, float* output) {
  const int64_t whole = columns / kLanes * kLanes;
  auto squares = V::zero();
  for (int64_t i = 0; i < whole; i += kLanes) {
    const auto x = V::load(input + i);
    squares = V::fma(x, x, squares);
  }
  if (whole < columns) {
    const auto x = V::load_partial(input + whole, columns - whole);
    squares = V::fma(x, x, squares);
  }
  const float mean = sum_lanes<V>(squares) / static_cast<float>(columns);
  const auto scale = V::broadcast(1.0F / __builtin_sqrtf(mean + epsilon));
  for (int64_t i = 0; i < whole; i += kLanes) {
    V::store(output + i, V::multiply(V::load(weight + i), V::multiply(V::load(input + i), scale)));
  }
  if (whole < columns) {
    const int64_t rest = columns - whole;
    const auto x = V::multiply(V::load_partial(input + whole, rest), scale);
    V::store_partial(output + whole, V::multiply(V::load_partial(weight + whole, rest), x), rest);
  }
}

// Pairs (i, i + half) turned by the angle whose cosine and sine are given, then scaled.
template <class V>
void rotate_head(float* head, const float* cosine, const float* sine, int64_t half, float scale) {
  const auto factor = V::broadcast(scale);
  for (int64_t i = 0; i < half; i += kLanes) {
    const int64_t rest = half - i;
    const auto c = V::load_partial(cosine + i, rest);
    const auto s = V::load_partial(sine + i, rest);
    const auto x = V::load_partial(head + i, rest);
    const auto y = V::load_partial(head + half + i, rest);
    const auto turned_x = V::subtract(V::multiply(x, c), V::multiply(y, s));
    const auto turned_y = V::add(V::multiply(y, c), V::multiply(x, s));
    V::store_partial(head + i, V::multiply(turned_x, factor), rest);
    V::store_partial(head + half + i, V::multiply(turned_y, factor), rest);
  }
}

inline void put(float* target, float value) { *target = value; }
inline void put(uint16_t* target, float value) { *target = narrow_bfloat16(value); }

template <class V, class Stored>
void rotate_and_store_row(const AttentionLayout& layout, const RotateTask& task) {
  const int64_t dim = layout.head_dim;
  for (int64_t head = 0; head < layout.num_heads; ++head) {
    float* query = task.qkv + head * dim;
    if (task.query_norm != nullptr) rms_norm_row<V>(query, task.query_norm, task.epsilon, dim, query);
    rotate_head<V>(query, task.cosine, task.sine, dim / 2, task.query_scale);
  }
  float* keys = task.qkv + layout.num_heads * dim;
  const float* values = keys + layout.num_key_value_heads * dim;
  Stored* block = static_cast<Stored*>(layout.layer_cache) + task.block * layout.block_stride;
  for (int64_t head = 0; head < layout.num_key_value_heads; ++head) {
    float* key = keys + head * dim;
    if (task.key_norm != nullptr) rms_norm_row<V>(key, task.key_norm, task.epsilon, dim, key);
    rotate_head<V>(key, task.cosine, task.sine, dim / 2, 1.0F);
    Stored* key_slots = block + head * dim * layout.block_size + task.slot;
    for (int64_t i = 0; i < dim; ++i) put(key_slots + i * layout.block_size, key[i]);
    Stored* value_slot =
        block + layout.key_elements + (head * layout.block_size + task.slot) * layout.value_stride;
    for (int64_t i = 0; i < dim; ++i) put(value_slot + i, values[head * dim + i]);
  }
}

template <class V>
void rotate_and_store_any(const AttentionLayout& layout, const RotateTask& task) {
  if (layout.storage == DType::kFloat32) {
    rotate_and_store_row<V, float>(layout, task);
  } else {
    rotate_and_store_row<V, uint16_t>(layout, task);
  }
}

inline float widen_element(const void* data, DType dtype, int64_t index) {
  if (dtype == DType::kFloat32) return static_cast<const float*>(data)[index];
  const uint16_t bits = static_cast<const uint16_t*>(data)[index];
  return dtype == DType::kFloat16 ? widen_float16(bits) : widen_bfloat16(bits);
}

template <class V>
void read_panel_row_any(const MatmulWeight& weight, int64_t row, float* output) {
  const int64_t first = row / kLanes * weight.inputs * kLanes + row % kLanes;
  for (int64_t i = 0; i < weight.inputs; ++i)
    output[i] = widen_element(weight.panels, weight.dtype, first + i * kLanes);
}

template <class V>
void widen_any(const void* input, DType dtype, int64_t count, float* output) {
  for (int64_t i = 0; i < count; ++i) output[i] = widen_element(input, dtype, i);
}

}  // namespace
}  // namespace kadenz
