#include "model/weights.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "model/checked_math.h"
#include "model/error.h"

namespace kadenz {
namespace {

std::string shape_text(const int64_t* begin, const int64_t* end) {
  std::string text = "[";
  for (const int64_t* size = begin; size != end; ++size) {
    if (size != begin) text += ", ";
    text += std::to_string(*size);
  }
  return text + "]";
}

uint64_t shape_bytes(const TensorDescription& tensor) {
  uint64_t bytes = dtype_bytes(tensor.dtype);
  for (const int64_t size : tensor.shape) {
    if (size < 0) {
      throw HostError("invalid_tensor",
                      "Tensor '" + tensor.name + "' has a negative size, " + std::to_string(size) + ".");
    }
    bytes = checked_multiply(bytes, static_cast<uint64_t>(size), "a tensor's size in bytes");
  }
  return bytes;
}

}  // namespace

MappedFile::MappedFile(const std::string& path) {
  const auto fail = [&path](const char* doing) -> HostError {
    return HostError("file_unreadable",
                     std::string("Could not ") + doing + " '" + path + "': " + std::strerror(errno) + ".");
  };
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) throw fail("open");
  struct stat status{};
  if (::fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
    const HostError error = S_ISREG(status.st_mode) || status.st_mode == 0
                                ? fail("read the size of")
                                : HostError("file_unreadable", "'" + path + "' is not a regular file.");
    ::close(descriptor);
    throw error;
  }
  size_bytes_ = static_cast<uint64_t>(status.st_size);
  if (size_bytes_ > 0) {
    void* address = ::mmap(nullptr, size_bytes_, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (address == MAP_FAILED) {
      const HostError error = fail("map");
      ::close(descriptor);
      throw error;
    }
    data_ = static_cast<const std::byte*>(address);
  }
  ::close(descriptor);  // the mapping keeps the file
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_bytes_);
}

WeightFiles::WeightFiles(const std::vector<std::string>& paths,
                         const std::vector<TensorDescription>& tensors) {
  for (const std::string& path : paths) files_.push_back(std::make_unique<MappedFile>(path));
  for (const TensorDescription& tensor : tensors) {
    if (tensor.file < 0 || static_cast<size_t>(tensor.file) >= files_.size()) {
      throw HostError("invalid_tensor", "Tensor '" + tensor.name + "' names file " +
                                            std::to_string(tensor.file) + " of " +
                                            std::to_string(files_.size()) + ".");
    }
    if (tensor.dtype > DType::kBFloat16) {
      throw HostError("invalid_tensor", "Tensor '" + tensor.name + "' has an unknown dtype.");
    }
    const MappedFile& file = *files_[static_cast<size_t>(tensor.file)];
    const uint64_t bytes = shape_bytes(tensor);
    if (tensor.begin_bytes > tensor.end_bytes || tensor.end_bytes - tensor.begin_bytes != bytes) {
      throw HostError("invalid_tensor", "Tensor '" + tensor.name + "' needs " + std::to_string(bytes) +
                                            " bytes for its shape; its range is " +
                                            std::to_string(tensor.begin_bytes) + " to " +
                                            std::to_string(tensor.end_bytes) + ".");
    }
    if (tensor.end_bytes > file.size_bytes()) {
      throw HostError("file_truncated", "Tensor '" + tensor.name + "' ends at byte " +
                                            std::to_string(tensor.end_bytes) + " of '" +
                                            paths[static_cast<size_t>(tensor.file)] + "', which has " +
                                            std::to_string(file.size_bytes()) + " bytes.");
    }
    const std::byte* data = file.data() == nullptr ? nullptr : file.data() + tensor.begin_bytes;
    if (!tensors_.emplace(tensor.name, TensorView{tensor.name, tensor.dtype, tensor.shape, data, bytes})
             .second) {
      throw HostError("duplicate_tensor", "Tensor '" + tensor.name + "' is described twice.");
    }
  }
}

TensorView WeightFiles::require(const std::string& name, std::initializer_list<int64_t> shape) const {
  const auto found = tensors_.find(name);
  const std::string wanted = shape_text(shape.begin(), shape.end());
  if (found == tensors_.end()) {
    throw HostError("missing_tensor",
                    "The weights hold no tensor '" + name + "' (shape " + wanted + " expected).");
  }
  const TensorView& tensor = found->second;
  if (tensor.shape != std::vector<int64_t>(shape)) {
    throw HostError("wrong_shape",
                    "Tensor '" + name + "' has shape " +
                        shape_text(tensor.shape.data(), tensor.shape.data() + tensor.shape.size()) +
                        "; config.json calls for " + wanted + ".");
  }
  return tensor;
}

void WeightFiles::forget(const TensorView& tensor) const {
  if (tensor.bytes == 0) return;
  const uintptr_t page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(tensor.data) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(tensor.data) + tensor.bytes;
  // Clean pages of a read-only mapping: dropping a neighbour's share of the edge pages only makes it read
  // again.
  ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace kadenz
