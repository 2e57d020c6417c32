// A step's upload against what the host holds: byte for byte, and nothing outside of its targets.
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/device_buffer.h"
#include "cuda/kernels/dependent_launch.cuh"
#include "cuda/step_upload.h"
#include "cuda/test/rows_device.cuh"
#include "test/check.h"
#include "test/random.h"

namespace kadenz::cuda::rows_test {
namespace {

using ::kadenz::test::Random;

constexpr uint8_t kUnwritten = 0xff;  // as DeviceArray poisons

uint64_t rounded(uint64_t bytes) { return (bytes + 15) / 16 * 16; }

PinnedBuffer<uint8_t> random_bytes(Random& random, uint64_t count) {
  PinnedBuffer<uint8_t> bytes = zeroed_pinned<uint8_t>(count);
  for (uint64_t i = 0; i < count; ++i) bytes.data()[i] = static_cast<uint8_t>(random.bits() % 255);  // never 0xff
  return bytes;
}

// Source and target of one segment; the target's 64 bytes after it must stay as they are, as must the guard zones.
struct Segment {
  Segment(Random& random, uint64_t bytes)
      : bytes(bytes), source(random_bytes(random, rounded(bytes) + 64)), target(rounded(bytes) + 64) {}
  void expect_moved(const std::string& what) const {
    std::vector<uint8_t> expected(rounded(bytes) + 64, kUnwritten);
    std::memcpy(expected.data(), source.data(), rounded(bytes));
    expect_same_bits(target.read(what), expected, what);
  }
  uint64_t bytes;
  PinnedBuffer<uint8_t> source;
  DeviceArray<uint8_t> target;
};

// May start before the upload is done.
__global__ void copy_after_upload(const uint8_t* from, uint8_t* to, uint64_t count) {
  wait_for_previous_kernel();
  const uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) to[i] = from[i];
}

// Lets the upload start long before it reads what that will write over.
__global__ void spin_then_copy(const uint8_t* from, uint8_t* to, uint64_t count) {
  let_next_kernel_start();
  const uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const long long begin = clock64();
  while (clock64() - begin < 300000) {
  }
  if (i < count) to[i] = from[i];
}

}  // namespace

TEST("an upload moves segments of any size, whole 16-byte words of each, and writes nothing else") {
  Random random(1200);
  StepUpload upload(nullptr);
  const uint64_t sizes[] = {0,    1,    15,    16,    17,     255,    4096,    8176,
                            8191, 8192, 8193,  16384, 40000,  123457, 1 << 20, (5 << 20) + 3};
  for (const uint64_t bytes : sizes) {
    const Segment segment(random, bytes);
    upload.add(segment.source.data(), segment.target.data(), bytes);
    upload.send();
    segment.expect_moved("one segment of " + std::to_string(bytes) + " bytes");
  }
}

TEST("an upload takes several segments, empty ones among them and more than one launch holds") {
  Random random(1210);
  StepUpload upload(nullptr);
  for (const uint32_t count : {2U, 3U, kUploadSegments, kUploadSegments + 1, 3 * kUploadSegments + 1}) {
    std::vector<std::unique_ptr<Segment>> segments;
    for (uint32_t i = 0; i < count; ++i) {
      const int64_t most = random.one_of<int64_t>({0, 40, 5000, 9000, 100000});
      segments.push_back(std::make_unique<Segment>(random, static_cast<uint64_t>(random.integer(0, most))));
    }
    for (const auto& segment : segments) {
      upload.add(segment->source.data(), segment->target.data(), segment->bytes);
    }
    upload.send();
    for (uint32_t i = 0; i < count; ++i) {
      segments[i]->expect_moved("segment " + std::to_string(i) + " of " + std::to_string(count) + ", " +
                                std::to_string(segments[i]->bytes) + " bytes");
    }
  }
}

TEST("an upload sends what was added since the last one: nothing twice, nothing that was cleared") {
  Random random(1220);
  StepUpload upload(nullptr);
  Segment first(random, 1000);
  const Segment second(random, 2000);
  const Segment cleared(random, 3000);
  upload.send();  // of nothing
  upload.add(first.source.data(), first.target.data(), first.bytes);
  upload.send();
  first.expect_moved("first");
  const std::vector<uint8_t> poison(rounded(first.bytes) + 64, kUnwritten);
  first.target.write(poison);
  upload.add(cleared.source.data(), cleared.target.data(), cleared.bytes);
  upload.clear();
  upload.add(second.source.data(), second.target.data(), second.bytes);
  upload.send();
  second.expect_moved("second");
  expect_same_bits(first.target.read("first"), poison, "first, not sent again");
  expect_same_bits(cleared.target.read("cleared"),
                   std::vector<uint8_t>(rounded(cleared.bytes) + 64, kUnwritten), "cleared");
}

TEST("an upload reads what the host wrote last, however often it wrote the same place") {
  Random random(1230);
  StepUpload upload(nullptr);
  const uint64_t count = 20000;
  const Segment segment(random, count);
  for (int round = 0; round < 20; ++round) {
    for (uint64_t i = 0; i < count; ++i) segment.source.data()[i] = static_cast<uint8_t>(random.bits() % 255);
    upload.add(segment.source.data(), segment.target.data(), count);
    upload.send();
    segment.expect_moved("round " + std::to_string(round));
  }
}

TEST("an upload leaves its targets to the kernel before it until that is done, and is done before the next one") {
  Random random(1240);
  const uint64_t count = 100000;
  const uint32_t blocks = (count + 255) / 256;
  StepUpload upload(nullptr);
  const Segment segment(random, count);
  for (int round = 0; round < 10; ++round) {
    const DeviceArray<uint8_t> before(count);
    const DeviceArray<uint8_t> after(count);
    check(cudaMemset(segment.target.data(), 7, count), "cudaMemset");
    spin_then_copy<<<blocks, 256>>>(segment.target.data(), before.data(), count);
    check_launch("spin_then_copy");
    upload.add(segment.source.data(), segment.target.data(), count);
    upload.send();
    launch_dependent(copy_after_upload, dim3(blocks), dim3(256), 0, nullptr,
                     static_cast<const uint8_t*>(segment.target.data()), after.data(), count);
    check_launch("copy_after_upload");
    const std::string what = "round " + std::to_string(round);
    expect_same_bits(before.read("before"), std::vector<uint8_t>(count, 7), what + ", before the upload");
    expect_same_bits(after.read("after"),
                     std::vector<uint8_t>(segment.source.data(), segment.source.data() + count),
                     what + ", after the upload");
  }
}

TEST("an upload refuses addresses that are not aligned to 16 bytes, and moves nothing") {
  Random random(1250);
  const Segment segment(random, 1000);
  for (const uint64_t shift : {uint64_t{0}, uint64_t{8}}) {
    StepUpload upload(nullptr);
    upload.add(segment.source.data() + shift, segment.target.data() + (8 - shift), 500);
    bool refused = false;
    try {
      upload.send();
    } catch (const std::logic_error&) {
      refused = true;
    }
    EXPECT(refused);
  }
  expect_same_bits(segment.target.read("target"), std::vector<uint8_t>(rounded(1000) + 64, kUnwritten), "target");
}

TEST("fill_with_zeros fills what it is given, and nothing beside it") {
  for (const uint64_t bytes : {0ULL, 16ULL, 4096ULL, 1000016ULL, (40ULL << 20) + 16}) {
    const DeviceArray<uint8_t> target(bytes);
    fill_with_zeros(target.data(), bytes, nullptr);
    expect_same_bits(target.read("zeros"), std::vector<uint8_t>(bytes, 0), "zeros, " + std::to_string(bytes));
  }
  bool refused = false;
  try {
    fill_with_zeros(nullptr, 8, nullptr);
  } catch (const std::logic_error&) {
    refused = true;
  }
  EXPECT(refused);
}

}  // namespace kadenz::cuda::rows_test
