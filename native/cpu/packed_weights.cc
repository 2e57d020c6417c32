#include "cpu/packed_weights.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "cpu/float_bits.h"
#include "model/checked_math.h"
#include "model/error.h"

namespace kadenz {
namespace {

constexpr int64_t kTransposeBlock = 64;  // inner indices of a panel written before the next row is read

// Files may hold tensors at any address, so elements are read byte by byte.
template <class T>
T read_element(const std::byte* data, int64_t index) {
  T value;
  std::memcpy(&value, data + static_cast<uint64_t>(index) * sizeof(T), sizeof(T));
  return value;
}

float read_as_float(const TensorView& tensor, int64_t index) {
  switch (tensor.dtype) {
    case DType::kFloat32: return read_element<float>(tensor.data, index);
    case DType::kFloat16: return widen_float16(read_element<uint16_t>(tensor.data, index));
    case DType::kBFloat16: return widen_bfloat16(read_element<uint16_t>(tensor.data, index));
  }
  throw HostError("unsupported_dtype", "Tensor '" + tensor.name + "' has an unknown dtype.");
}

DType packed_dtype(std::span<const TensorView> parts, WeightPrecision precision) {
  if (precision == WeightPrecision::kFloat16) {
    throw HostError("unsupported_dtype",
                    "The CPU host computes in float32 or bfloat16; float16 needs the device 'cuda'.");
  }
  if (precision == WeightPrecision::kBFloat16) return DType::kBFloat16;
  for (const TensorView& part : parts) {
    if (part.dtype != parts.front().dtype) return DType::kFloat32;
  }
  return parts.front().dtype;
}

// Writes count elements of one row from inner index `first` to target, target + step, ...
void convert_row(const TensorView& tensor, int64_t index, int64_t count, DType dtype, std::byte* target,
                 int64_t step) {
  if (dtype == DType::kFloat32) {
    float* floats = reinterpret_cast<float*>(target);
    for (int64_t i = 0; i < count; ++i) floats[i * step] = read_as_float(tensor, index + i);
  } else if (dtype == tensor.dtype) {
    uint16_t* halves = reinterpret_cast<uint16_t*>(target);
    for (int64_t i = 0; i < count; ++i) halves[i * step] = read_element<uint16_t>(tensor.data, index + i);
  } else {  // to bfloat16: the one conversion that rounds
    uint16_t* halves = reinterpret_cast<uint16_t*>(target);
    for (int64_t i = 0; i < count; ++i) halves[i * step] = narrow_bfloat16(read_as_float(tensor, index + i));
  }
}

}  // namespace

PackedMatrix::PackedMatrix(std::span<const TensorView> parts, WeightPrecision precision, MatrixUse use,
                           ThreadPool& pool, PageArena& arena)
    : dtype_(packed_dtype(parts, precision)), has_panels_(use != MatrixUse::kEmbedding) {
  std::vector<int64_t> first_output;  // of each part
  for (const TensorView& part : parts) {
    if (part.shape.size() != 2 || part.shape[1] != parts.front().shape[1]) {
      throw HostError("wrong_shape",
                      "Tensor '" + part.name + "' does not stack with '" + parts.front().name + "'.");
    }
    first_output.push_back(outputs_);
    outputs_ += part.shape[0];
  }
  inputs_ = parts.front().shape[1];
  const int64_t stored_rows = has_panels_ ? num_panels() * kLanes : outputs_;
  const uint64_t elements =
      checked_multiply(static_cast<uint64_t>(stored_rows), static_cast<uint64_t>(inputs_), "a weight matrix");
  const uint64_t width = dtype_bytes(dtype_);
  storage_ = arena.allocate(checked_multiply(elements, width, "a weight matrix"), "a weight matrix");

  const auto part_of = [&](int64_t output) {
    return static_cast<size_t>(std::upper_bound(first_output.begin(), first_output.end(), output) -
                               first_output.begin()) -
           1;
  };
  const auto pack_rows = [&](uint32_t panel, uint32_t) {
    const int64_t first = static_cast<int64_t>(panel) * kLanes;
    const int64_t last = std::min(first + kLanes, outputs_);
    for (int64_t k = 0; k < inputs_; k += kTransposeBlock) {
      const int64_t count = std::min(kTransposeBlock, inputs_ - k);
      for (int64_t output = first; output < last; ++output) {
        const size_t part = part_of(output);
        const int64_t source = (output - first_output[part]) * inputs_ + k;
        const int64_t target =
            has_panels_ ? first * inputs_ + k * kLanes + (output - first) : output * inputs_ + k;
        convert_row(parts[part], source, count, dtype_, storage_.data + static_cast<uint64_t>(target) * width,
                    has_panels_ ? kLanes : 1);
      }
    }
  };
  pool.run(static_cast<uint32_t>(num_panels()), pack_rows);
}

PackedVector::PackedVector(std::span<const TensorView> parts, WeightPrecision precision) {
  uint64_t count = 0;
  for (const TensorView& part : parts) count += part.bytes / dtype_bytes(part.dtype);
  storage_ = PageBuffer(checked_multiply(count, sizeof(float), "a weight vector"), "a weight vector");
  float* target = storage_.floats();
  for (const TensorView& part : parts) {
    const int64_t size = static_cast<int64_t>(part.bytes / dtype_bytes(part.dtype));
    for (int64_t i = 0; i < size; ++i) {
      const float value = read_as_float(part, i);
      *target++ = precision == WeightPrecision::kBFloat16 ? widen_bfloat16(narrow_bfloat16(value)) : value;
    }
  }
}

}  // namespace kadenz
