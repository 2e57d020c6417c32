#include "cpu/memory.h"

#include <sys/mman.h>

#include <string>
#include <utility>

#include "model/error.h"

namespace kadenz {
namespace {

constexpr uint64_t kHugePageBytes = uint64_t{2} << 20;
constexpr uint64_t kChunkBytes = uint64_t{64} << 20;
constexpr uint64_t kAlignmentBytes = 64;

}  // namespace

PageBuffer::PageBuffer(uint64_t bytes, const char* what) : bytes_(bytes) {
  if (bytes == 0) return;
  void* address = MAP_FAILED;
  if (bytes <= uint64_t{1} << 46) {
    address =
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  }
  if (address == MAP_FAILED) {
    throw HostError("out_of_memory",
                    "No memory for " + std::string(what) + ": " + std::to_string(bytes) + " bytes.");
  }
  data_ = static_cast<std::byte*>(address);
  if (bytes >= kHugePageBytes)
    ::madvise(address, bytes, MADV_HUGEPAGE);  // a wish; without it all is the same
}

PageBuffer::~PageBuffer() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
}

PageBuffer::PageBuffer(PageBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

PageBuffer& PageBuffer::operator=(PageBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

PageSlice PageArena::allocate(uint64_t bytes, const char* what) {
  if (bytes > kChunkBytes / 2) {
    auto own = std::make_shared<PageBuffer>(bytes, what);
    std::byte* data = own->data();
    return {std::move(own), data, bytes};
  }
  const uint64_t stride = (bytes + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes;
  std::shared_ptr<PageBuffer> chunk = chunk_.lock();
  if (chunk == nullptr || stride > chunk->bytes() - used_bytes_) {
    chunk = std::make_shared<PageBuffer>(kChunkBytes, what);
    chunk_ = chunk;
    used_bytes_ = 0;
  }
  std::byte* data = chunk->data() + used_bytes_;
  used_bytes_ += stride;
  return {std::move(chunk), data, bytes};
}

}  // namespace kadenz
