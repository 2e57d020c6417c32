// Mapped weight files: ranges that lie, names that are missing, pages given back; and sizes that would wrap.
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "check.h"
#include "model/checked_math.h"
#include "model/weights.h"
#include "tiny_model.h"

namespace kadenz::test {
namespace {

std::string open_code(const std::string& path, const TensorDescription& tensor) {
  return code_of([&] { const WeightFiles files({path}, {tensor}); });
}

// Pages of [data, data + bytes) that this process has in its page tables.
uint64_t resident_bytes(const std::byte* data) {
  std::ifstream maps("/proc/self/smaps");
  std::string line;
  bool inside = false;
  while (std::getline(maps, line)) {
    unsigned long begin = 0, end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2) {
      const unsigned long at = reinterpret_cast<unsigned long>(data);
      inside = begin <= at && at < end;
    }
    unsigned long kilobytes = 0;
    if (inside && std::sscanf(line.c_str(), "Rss: %lu kB", &kilobytes) == 1) return kilobytes * 1024;
  }
  return ~uint64_t{0};
}

}  // namespace

TEST("a tensor's bytes are found at its range, aligned or not") {
  const TemporaryFile file("abc\x01\x02\x03\x04");
  const WeightFiles files({file.path()}, {{"t", DType::kFloat16, {2}, 0, 3, 7}});
  const TensorView view = files.require("t", {2});
  EXPECT(view.bytes == 4 && std::memcmp(view.data, "\x01\x02\x03\x04", 4) == 0);
  EXPECT(files.contains("t") && !files.contains("u"));
}

TEST("ranges beyond the file, backwards, of the wrong length, or of no file are refused") {
  const TemporaryFile file(std::string(64, 'x'));
  EXPECT(open_code(file.path(), {"t", DType::kFloat32, {16}, 0, 4, 68}) == "file_truncated");
  EXPECT(open_code(file.path(), {"t", DType::kFloat32, {16}, 0, ~uint64_t{0} - 63, ~uint64_t{0}}) ==
         "invalid_tensor");
  EXPECT(
      open_code(file.path(), {"t", DType::kFloat32, {16}, 0, uint64_t{1} << 63, (uint64_t{1} << 63) + 64}) ==
      "file_truncated");
  EXPECT(open_code(file.path(), {"t", DType::kFloat32, {4}, 0, 32, 16}) == "invalid_tensor");
  EXPECT(open_code(file.path(), {"t", DType::kFloat32, {4}, 0, 0, 15}) == "invalid_tensor");
  EXPECT(open_code(file.path(), {"t", DType::kFloat32, {-4, -1}, 0, 0, 16}) == "invalid_tensor");
  EXPECT(open_code(file.path(), {"t", DType::kFloat32, {4}, 1, 0, 16}) == "invalid_tensor");
  EXPECT(open_code(file.path(), {"t", DType::kFloat32, {4}, -1, 0, 16}) == "invalid_tensor");
  EXPECT(open_code(file.path(), {"t", static_cast<DType>(9), {4}, 0, 0, 16}) == "invalid_tensor");
  EXPECT(open_code(file.path(), {"t", DType::kFloat32, {int64_t{1} << 32, int64_t{1} << 32}, 0, 0, 16}) ==
         "size_overflow");
  EXPECT(open_code(file.path(), {"t", DType::kFloat32, {int64_t{1} << 62, 4}, 0, 0, 0}) == "size_overflow");
  const TensorDescription fine{"t", DType::kFloat32, {4}, 0, 0, 16};
  EXPECT(code_of([&] { const WeightFiles files({file.path()}, {fine, fine}); }) == "duplicate_tensor");
}

TEST("files that are absent or no files are refused, an empty one holds only empty tensors") {
  EXPECT(open_code("/nonexistent/kadenz", {"t", DType::kFloat32, {4}, 0, 0, 16}) == "file_unreadable");
  EXPECT(open_code("/tmp", {"t", DType::kFloat32, {4}, 0, 0, 16}) == "file_unreadable");
  const TemporaryFile empty("");
  EXPECT(open_code(empty.path(), {"t", DType::kFloat32, {1}, 0, 0, 4}) == "file_truncated");
  const WeightFiles files({empty.path()}, {{"t", DType::kFloat32, {0, 5}, 0, 0, 0}});
  files.forget(files.require("t", {0, 5}));
}

TEST("a missing tensor is named, a wrong shape is told with both shapes") {
  const TemporaryFile file(std::string(64, 'x'));
  const WeightFiles files({file.path()}, {{"model.norm.weight", DType::kFloat32, {2, 8}, 0, 0, 64}});
  EXPECT(code_of([&] { files.require("lm_head.weight", {3, 4}); }) == "missing_tensor");
  EXPECT(sentence_of([&] {
           files.require("lm_head.weight", {3, 4});
         }).find("'lm_head.weight' (shape [3, 4]") != std::string::npos);
  EXPECT(code_of([&] { files.require("model.norm.weight", {8, 2}); }) == "wrong_shape");
  const std::string sentence = sentence_of([&] { files.require("model.norm.weight", {8, 2}); });
  EXPECT(sentence.find("[2, 8]") != std::string::npos && sentence.find("[8, 2]") != std::string::npos);
}

TEST("a forgotten tensor's pages leave resident memory and can be read again") {
  constexpr uint64_t kBytes = uint64_t{8} << 20;
  const TemporaryFile file(std::string(kBytes, 'k'));
  const WeightFiles files({file.path()}, {{"t", DType::kFloat32, {kBytes / 4}, 0, 0, kBytes}});
  const TensorView view = files.require("t", {kBytes / 4});
  uint64_t sum = 0;
  for (uint64_t i = 0; i < kBytes; i += 512) sum += static_cast<uint64_t>(view.data[i]);
  EXPECT(resident_bytes(view.data) >= kBytes);
  files.forget(view);
  EXPECT(resident_bytes(view.data) < kBytes / 16);
  for (uint64_t i = 0; i < kBytes; i += 512) sum -= static_cast<uint64_t>(view.data[i]);
  EXPECT(sum == 0);
}

TEST("sizes that do not fit 64 bits are refused, not wrapped") {
  EXPECT(checked_multiply(uint64_t{1} << 32, (uint64_t{1} << 32) - 1, "x") ==
         (uint64_t{1} << 32) * ((uint64_t{1} << 32) - 1));
  EXPECT(code_of([] { checked_multiply(uint64_t{1} << 32, uint64_t{1} << 32, "x"); }) == "size_overflow");
  EXPECT(code_of([] { checked_add(~uint64_t{0}, 1, "x"); }) == "size_overflow");
}

}  // namespace kadenz::test
