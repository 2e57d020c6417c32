// Named tensors in memory-mapped files. The safetensors header is parsed in TypeScript; what arrives here is
// a list of names, shapes and byte ranges, hostile until checked: each range must lie in its file and hold
// exactly its shape.
//
// Ownership: WeightFiles owns the mappings; a TensorView is valid as long as it lives. Pages that were read
// are given back with forget(), so a model that was packed doesn't stay resident twice.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/dtype.h"

namespace kadenz {

struct TensorDescription {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  int32_t file;          // index into the paths
  uint64_t begin_bytes;  // offsets from the start of the file (not of the safetensors data section)
  uint64_t end_bytes;
};

// A tensor's bytes, row-major, little-endian, not necessarily aligned to its dtype.
struct TensorView {
  std::string name;
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;
  uint64_t bytes = 0;
};

class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const { return data_; }
  uint64_t size_bytes() const { return size_bytes_; }

 private:
  const std::byte* data_ = nullptr;
  uint64_t size_bytes_ = 0;
};

class WeightFiles {
 public:
  // Throws HostError: file_unreadable, file_truncated, invalid_tensor, duplicate_tensor.
  WeightFiles(const std::vector<std::string>& paths, const std::vector<TensorDescription>& tensors);

  // Throws HostError: missing_tensor (named), wrong_shape (both shapes named).
  TensorView require(const std::string& name, std::initializer_list<int64_t> shape) const;
  bool contains(const std::string& name) const { return tensors_.contains(name); }

  // Drops the tensor's pages from resident memory. The view stays valid; reading it again reads the file
  // again.
  void forget(const TensorView& tensor) const;

 private:
  std::vector<std::unique_ptr<MappedFile>> files_;
  std::map<std::string, TensorView> tensors_;
};

}  // namespace kadenz
