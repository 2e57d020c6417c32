// Tensors on their way into device memory: dtypes against a twin in double, pieces, offsets and failures.
#include <cuda_runtime_api.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"
#include "cuda/check.h"
#include "cuda/kernels/convert.h"
#include "cuda/weight_loader.h"
#include "random.h"

namespace kadenz::test {
namespace {

using cuda::check;
using cuda::LoadTarget;
using cuda::WeightLoader;

constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};
constexpr uint64_t kGuardBytes = 64;

// What a value of a format is, and the nearest one to a value: by definition, not by bits.
double decode(const std::byte* data, DType dtype) {
  if (dtype == DType::kFloat32) {
    float value;
    std::memcpy(&value, data, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, data, 2);
  if (dtype == DType::kBFloat16) return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  const double sign = (bits & 0x8000) != 0 ? -1 : 1;
  const int exponent = (bits >> 10) & 31;
  const int mantissa = bits & 1023;
  if (exponent == 31) return mantissa != 0 ? std::nan("") : sign * HUGE_VAL;
  return sign * std::ldexp(exponent == 0 ? mantissa : mantissa + 1024, std::max(exponent, 1) - 25);
}

double nearest(double value, DType dtype) {
  if (dtype == DType::kFloat32 || value == 0 || !std::isfinite(value)) return value;
  const bool half = dtype == DType::kFloat16;
  const int significand_bits = half ? 11 : 8;
  const int least_exponent = half ? -14 : -126;
  const double largest = half ? 65504.0 : std::ldexp(255.0, 120);
  const int unit = std::max(std::ilogb(value), least_exponent) - (significand_bits - 1);
  const double rounded = std::ldexp(std::nearbyint(std::ldexp(value, -unit)), unit);  // to nearest even
  return std::fabs(rounded) > largest ? std::copysign(HUGE_VAL, value) : rounded;
}

bool same(double a, double b) {
  return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b));
}

// Device memory between two guard zones, all of it poisoned.
class Target {
 public:
  explicit Target(uint64_t bytes, uint64_t offset_bytes = 0) : bytes_(bytes), offset_bytes_(offset_bytes) {
    check(cudaMalloc(&memory_, kGuardBytes + offset_bytes + bytes + kGuardBytes), "cudaMalloc");
    check(cudaMemset(memory_, 0xff, kGuardBytes + offset_bytes + bytes + kGuardBytes), "cudaMemset");
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  }
  ~Target() { cudaFree(memory_); }
  Target(const Target&) = delete;
  Target& operator=(const Target&) = delete;

  std::byte* data() { return static_cast<std::byte*>(memory_) + kGuardBytes + offset_bytes_; }
  std::vector<std::byte> read() {
    const uint64_t before = kGuardBytes + offset_bytes_;
    std::vector<std::byte> all(before + bytes_ + kGuardBytes);
    check(cudaMemcpy(all.data(), memory_, all.size(), cudaMemcpyDeviceToHost), "cudaMemcpy");
    for (uint64_t i = 0; i < all.size(); ++i) {
      const bool guard = i < before || i >= before + bytes_;
      EXPECT_NOTE(!guard || all[i] == std::byte{0xff}, "guard byte " +
                                                           std::to_string(static_cast<int64_t>(i - before)) +
                                                           " of " + std::to_string(bytes_) + " was written");
    }
    return {all.begin() + static_cast<int64_t>(before), all.end() - static_cast<int64_t>(kGuardBytes)};
  }

 private:
  void* memory_ = nullptr;
  uint64_t bytes_;
  uint64_t offset_bytes_;
};

void expect_converted(const std::byte* source, DType source_dtype, const std::byte* got, DType target_dtype,
                      uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) {
    const double value = decode(source + i * dtype_bytes(source_dtype), source_dtype);
    const double expected = nearest(value, target_dtype);
    const double converted = decode(got + i * dtype_bytes(target_dtype), target_dtype);
    EXPECT_NOTE(same(converted, expected),
                std::string(dtype_name(source_dtype)) + " to " + dtype_name(target_dtype) + ", element " +
                    std::to_string(i) + " of " + std::to_string(count) + ": " + std::to_string(value) +
                    " became " + std::to_string(converted) + ", expected " + std::to_string(expected) +
                    ", seed " + std::to_string(base_seed()));
  }
}

void convert_and_compare(const std::vector<std::byte>& source, DType source_dtype, DType target_dtype,
                         uint64_t source_offset, uint64_t target_offset) {
  const uint64_t source_size = dtype_bytes(source_dtype);
  const uint64_t target_size = dtype_bytes(target_dtype);
  const uint64_t count = source.size() / source_size;
  Target input(source.size(), source_offset * source_size);
  Target output(count * target_size, target_offset * target_size);
  check(cudaMemcpy(input.data(), source.data(), source.size(), cudaMemcpyHostToDevice), "cudaMemcpy");
  cuda::convert_elements({.source = input.data(),
                          .source_dtype = source_dtype,
                          .target = output.data(),
                          .target_dtype = target_dtype,
                          .count = count},
                         nullptr);
  check(cudaDeviceSynchronize(), "convert_elements");
  expect_converted(source.data(), source_dtype, output.read().data(), target_dtype, count);
}

template <class Value>
void append(std::vector<std::byte>& bytes, Value value) {
  const auto* begin = reinterpret_cast<const std::byte*>(&value);
  bytes.insert(bytes.end(), begin, begin + sizeof value);
}

std::vector<std::byte> random_bytes(Random& random, uint64_t count) {
  std::vector<std::byte> bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.bits() >> 56);
  return bytes;
}

// Tensors at odd addresses of one block of random bytes, as a file has them; any bits, NaN included.
struct Checkpoint {
  std::vector<std::byte> bytes;
  std::vector<TensorView> tensors;

  Checkpoint(Random& random, uint64_t num_tensors, uint64_t max_count) {
    std::vector<uint64_t> offsets;
    uint64_t size = 0;
    for (uint64_t i = 0; i < num_tensors; ++i) {
      TensorView tensor;
      tensor.name = "tensor " + std::to_string(i);
      tensor.dtype = kDTypes[random.integer(0, 2)];
      const int64_t count = random.integer(0, static_cast<int64_t>(max_count));
      tensor.shape = {count};
      tensor.bytes = static_cast<uint64_t>(count) * dtype_bytes(tensor.dtype);
      size += static_cast<uint64_t>(random.integer(0, 5));
      offsets.push_back(size);
      size += tensor.bytes;
      tensors.push_back(tensor);
    }
    bytes = random_bytes(random, size + 1);
    for (uint64_t i = 0; i < num_tensors; ++i) tensors[i].data = bytes.data() + offsets[i];
  }
  uint64_t loaded_bytes(DType dtype) const {
    uint64_t count = 0;
    for (const TensorView& tensor : tensors) count += tensor.bytes / dtype_bytes(tensor.dtype);
    return count * dtype_bytes(dtype);
  }
  void expect_loaded(const std::vector<std::byte>& got, DType dtype) const {
    const std::byte* at = got.data();
    for (const TensorView& tensor : tensors) {
      const uint64_t count = tensor.bytes / dtype_bytes(tensor.dtype);
      if (tensor.dtype == dtype) {
        EXPECT_NOTE(std::equal(at, at + tensor.bytes, tensor.data),
                    tensor.name + " was not copied bit by bit");
      }
      expect_converted(tensor.data, tensor.dtype, at, dtype, count);
      at += count * dtype_bytes(dtype);
    }
  }
};

bool throws_logic_error(const std::function<void()>& action) {
  try {
    action();
  } catch (const std::logic_error&) {
    return true;
  }
  return false;
}

}  // namespace

TEST("every float16 and bfloat16 converts to each dtype as IEEE 754 does, at any alignment") {
  std::vector<std::byte> all;
  for (uint32_t bits = 0; bits < 65536; ++bits) append(all, static_cast<uint16_t>(bits));
  for (const DType source : {DType::kFloat16, DType::kBFloat16}) {
    for (const DType target : kDTypes) {
      convert_and_compare(all, source, target, 0, 0);
      convert_and_compare(all, source, target, 3, 1);
    }
  }
}

TEST("float32 narrows to nearest even: ties, subnormals, overflow, infinity, NaN and random bits") {
  std::vector<std::byte> values;
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    // Around each value of the format: itself, the tie to the next one, and that tie's neighbours.
    for (uint32_t bits = 0; bits < 65536; ++bits) {
      const uint16_t here = static_cast<uint16_t>(bits);
      const uint16_t next = static_cast<uint16_t>(bits + 1);
      const double value = decode(reinterpret_cast<const std::byte*>(&here), dtype);
      const double above = decode(reinterpret_cast<const std::byte*>(&next), dtype);
      append(values, static_cast<float>(value));
      if (!std::isfinite(value) || !std::isfinite(above)) continue;
      const float tie = static_cast<float>((value + above) / 2);
      append(values, tie);
      append(values, std::nextafterf(tie, HUGE_VALF));
      append(values, std::nextafterf(tie, -HUGE_VALF));
    }
  }
  for (const float value : {65519.996F, 65520.0F, -65520.0F, 65536.0F, 3.3961775e38F, 3.4028235e38F,
                            -3.4028235e38F, 1e-45F, -1e-45F, 2.9802322e-8F, 2.9802326e-8F, 0.0F, -0.0F}) {
    append(values, value);
  }
  Random random(11);
  for (int i = 0; i < 100001; ++i) append(values, static_cast<uint32_t>(random.bits() >> 32));
  for (const DType target : kDTypes) {
    convert_and_compare(values, DType::kFloat32, target, 0, 0);
    convert_and_compare(values, DType::kFloat32, target, 1, 3);
  }
}

TEST("tensors of any size, offset and dtype land one after the other, cut into pieces or not") {
  Random random(12);
  for (int round = 0; round < 40; ++round) {
    const Checkpoint checkpoint(random, static_cast<uint64_t>(random.integer(1, 6)), 5000);
    const DType dtype = kDTypes[random.integer(0, 2)];
    WeightLoader loader({.num_threads = static_cast<uint32_t>(random.integer(1, 8)),
                         .buffer_bytes = random.one_of<uint64_t>({64, 192, 4096, 1 << 20})});
    Target target(checkpoint.loaded_bytes(dtype),
                  static_cast<uint64_t>(random.integer(0, 3)) * dtype_bytes(dtype));
    loader.load(checkpoint.tensors, {target.data(), checkpoint.loaded_bytes(dtype), dtype});
    loader.finish();
    checkpoint.expect_loaded(target.read(), dtype);
  }
}

TEST("thousands of tiny tensors are loaded, each by a call of its own, and the loader serves again") {
  Random random(13);
  WeightLoader loader;
  for (const DType dtype : kDTypes) {
    const Checkpoint checkpoint(random, 3000, 9);
    Target target(checkpoint.loaded_bytes(dtype));
    std::byte* at = target.data();
    for (const TensorView& tensor : checkpoint.tensors) {
      const uint64_t bytes = tensor.bytes / dtype_bytes(tensor.dtype) * dtype_bytes(dtype);
      loader.load({&tensor, 1}, {at, bytes, dtype});
      at += bytes;
    }
    loader.finish();
    checkpoint.expect_loaded(target.read(), dtype);
    loader.finish();  // nothing queued: returns at once
  }
}

TEST("a tensor larger than all buffers gives the same bytes with one thread as with eight") {
  Random random(14);
  const std::vector<std::byte> source = random_bytes(random, (uint64_t{5} << 20) + 12);
  TensorView tensor;
  tensor.name = "large";
  tensor.dtype = DType::kFloat32;
  tensor.data = source.data();
  tensor.bytes = source.size();
  std::vector<std::byte> results[2];
  for (const uint32_t num_threads : {1U, 8U}) {
    Target target(source.size() / 2);
    WeightLoader loader({.num_threads = num_threads, .buffer_bytes = 65536});
    loader.load({&tensor, 1}, {target.data(), source.size() / 2, DType::kBFloat16});
    loader.finish();
    results[num_threads == 1 ? 0 : 1] = target.read();
  }
  EXPECT(results[0] == results[1]);
  expect_converted(source.data(), DType::kFloat32, results[0].data(), DType::kBFloat16, source.size() / 4);
}

TEST("parts that do not fill their target exactly are a bug, and nothing is copied") {
  const std::vector<std::byte> source(64);
  TensorView tensor;
  tensor.name = "t";
  tensor.dtype = DType::kFloat16;
  tensor.data = source.data();
  tensor.bytes = 64;
  WeightLoader loader;
  Target target(256);
  const std::vector<TensorView> parts{tensor, tensor};
  for (const uint64_t bytes : {0, 64, 127, 252, 260}) {
    EXPECT_NOTE(throws_logic_error([&] { loader.load(parts, {target.data(), bytes, DType::kFloat32}); }),
                std::to_string(bytes) + " bytes were accepted for 256");
  }
  tensor.bytes = 63;
  EXPECT(throws_logic_error([&] { loader.load({&tensor, 1}, {target.data(), 62, DType::kFloat16}); }));
  loader.finish();
  const std::vector<std::byte> untouched = target.read();
  EXPECT(std::count(untouched.begin(), untouched.end(), std::byte{0xff}) == 256);
}

TEST("a loader that goes away with work queued leaves the device in order") {
  Random random(15);
  const Checkpoint checkpoint(random, 200, 4000);
  Target target(checkpoint.loaded_bytes(DType::kBFloat16));
  {
    WeightLoader loader({.num_threads = 2, .buffer_bytes = 4096});
    loader.load(checkpoint.tensors,
                {target.data(), checkpoint.loaded_bytes(DType::kBFloat16), DType::kBFloat16});
  }
  WeightLoader loader;
  loader.load(checkpoint.tensors,
              {target.data(), checkpoint.loaded_bytes(DType::kBFloat16), DType::kBFloat16});
  loader.finish();
  checkpoint.expect_loaded(target.read(), DType::kBFloat16);
}

TEST("a file that became shorter is an error with a code, where the system tells of it") {
  constexpr uint64_t kFileBytes = 1 << 20;
  const int file = ::memfd_create("weights", 0);
  EXPECT(file >= 0 && ::ftruncate(file, kFileBytes) == 0);
  void* mapping = ::mmap(nullptr, kFileBytes, PROT_READ, MAP_PRIVATE, file, 0);
  EXPECT(mapping != MAP_FAILED);
#ifdef MADV_POPULATE_READ
  const bool told = ::madvise(mapping, 4096, MADV_POPULATE_READ) == 0;
#else
  const bool told = false;  // reading beyond the end would end this program
#endif
  if (told) {
    EXPECT(::ftruncate(file, 8192) == 0);
    TensorView tensor;
    tensor.name = "model.norm.weight";
    tensor.dtype = DType::kFloat16;
    tensor.data = static_cast<const std::byte*>(mapping) + kFileBytes / 2;
    tensor.bytes = 4096;
    Target target(4096);
    WeightLoader loader;
    loader.load({&tensor, 1}, {target.data(), 4096, DType::kFloat16});
    EXPECT(code_of([&] { loader.finish(); }) == "file_truncated");
    EXPECT(sentence_of([&] { loader.finish(); }).find("model.norm.weight") != std::string::npos);
    tensor.data = static_cast<const std::byte*>(mapping);
    WeightLoader other;
    other.load({&tensor, 1}, {target.data(), 4096, DType::kFloat16});
    other.finish();
    EXPECT(target.read() == std::vector<std::byte>(4096));
  }
  ::munmap(mapping, kFileBytes);
  ::close(file);
}

}  // namespace kadenz::test
