// Sizes as people read them, for sentences and tables: 1536 MiB is "1.50 GiB".
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

namespace kadenz::cuda {

inline std::string bytes_text(uint64_t bytes) {
  const bool large = bytes >= (uint64_t{1} << 30);
  char text[48];
  std::snprintf(text, sizeof text, "%.2f %s", static_cast<double>(bytes) / (large ? 0x1p30 : 0x1p20),
                large ? "GiB" : "MiB");
  return text;
}

}  // namespace kadenz::cuda
