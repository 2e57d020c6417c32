// Memory straight from the system: zero pages that cost nothing until touched, aligned to a page, in huge
// pages where the system has them (weights and caches are read front to back, and small pages would spend the
// time on look-ups).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace kadenz {

class PageBuffer {
 public:
  PageBuffer() = default;
  // Throws HostError("out_of_memory") naming what and how much. 0 bytes is an empty buffer.
  PageBuffer(uint64_t bytes, const char* what);
  ~PageBuffer();
  PageBuffer(PageBuffer&& other) noexcept;
  PageBuffer& operator=(PageBuffer&& other) noexcept;

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }
  float* floats() { return reinterpret_cast<float*>(data_); }
  const float* floats() const { return reinterpret_cast<const float*>(data_); }

 private:
  std::byte* data_ = nullptr;
  uint64_t bytes_ = 0;
};

// Part of a chunk of memory that several share; the chunk goes when the last of them has gone.
struct PageSlice {
  std::shared_ptr<PageBuffer> chunk;
  std::byte* data = nullptr;
  uint64_t bytes = 0;
};

// Cuts slices, 64-byte aligned, out of chunks large enough for huge pages: most matrices of a small model are
// not.
class PageArena {
 public:
  PageSlice allocate(uint64_t bytes, const char* what);

 private:
  std::weak_ptr<PageBuffer> chunk_;  // the slices alone keep it: weights that are dropped are freed at once
  uint64_t used_bytes_ = 0;
};

}  // namespace kadenz
