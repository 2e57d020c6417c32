// The element types of a checkpoint and of the storage of weights and KV cache.
#pragma once

#include <cstdint>

namespace kadenz {

enum class DType : uint8_t { kFloat32, kFloat16, kBFloat16 };

constexpr uint64_t dtype_bytes(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

constexpr const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return "float32";
    case DType::kFloat16: return "float16";
    case DType::kBFloat16: return "bfloat16";
  }
  return "unknown";
}

}  // namespace kadenz
