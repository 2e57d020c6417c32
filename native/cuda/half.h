// The two 16-bit formats that operands of matmuls and the KV cache come in. Sums are float32 with both.
#pragma once

#include <cstdint>

namespace kadenz::cuda {

enum class Half : uint8_t { kBFloat16, kFloat16 };

}  // namespace kadenz::cuda
