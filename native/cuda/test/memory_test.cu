// Device memory that goes and comes back: addresses, captured graphs, what is free, what the sentences say;
// the copy of it in host memory; and the probe.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"
#include "cuda/address_range.h"
#include "cuda/check.h"
#include "cuda/device_memory.h"
#include "cuda/host_backup.h"
#include "cuda/probe.h"
#include "random.h"

namespace kadenz::test {
namespace {

using cuda::AddressRange;
using cuda::check;
using cuda::device_memory;
using cuda::DeviceArena;
using cuda::HostBackup;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kGiB = uint64_t{1} << 30;

__host__ __device__ uint32_t pattern(uint64_t index, uint32_t seed) {
  uint64_t mixed = (index + 1) * 0x9e3779b97f4a7c15ULL + seed;
  mixed = (mixed ^ (mixed >> 29)) * 0xbf58476d1ce4e5b9ULL;
  return static_cast<uint32_t>(mixed >> 32);
}

__global__ void write_pattern(uint32_t* words, uint64_t count, uint32_t seed) {
  const uint64_t stride = uint64_t{gridDim.x} * blockDim.x;
  for (uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
    words[i] = pattern(i, seed);
  }
}

__global__ void count_differences(const uint32_t* words, uint64_t count, uint32_t seed,
                                  unsigned long long* num_differences) {
  const uint64_t stride = uint64_t{gridDim.x} * blockDim.x;
  for (uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
    if (words[i] != pattern(i, seed)) atomicAdd(num_differences, 1ULL);
  }
}

void write(uint32_t* words, uint64_t count, uint32_t seed) {
  write_pattern<<<264, 256>>>(words, count, seed);
  cuda::check_launch("write_pattern");
}

uint64_t differences(const uint32_t* words, uint64_t count, uint32_t seed) {
  unsigned long long* counter = nullptr;
  unsigned long long num_differences = ~0ULL;
  check(cudaMalloc(&counter, sizeof *counter), "cudaMalloc");
  check(cudaMemset(counter, 0, sizeof *counter), "cudaMemset");
  count_differences<<<264, 256>>>(words, count, seed, counter);
  cuda::check_launch("count_differences");
  check(cudaMemcpy(&num_differences, counter, sizeof *counter, cudaMemcpyDeviceToHost), "cudaMemcpy");
  cudaFree(counter);
  return num_differences;
}

uint64_t distance(uint64_t a, uint64_t b) { return a > b ? a - b : b - a; }

bool throws_logic_error(const std::function<void()>& action) {
  try {
    action();
  } catch (const std::logic_error&) {
    return true;
  }
  return false;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST("a range keeps its address while its memory goes and comes back, in any size") {
  AddressRange range(5 * kGiB, "a test");
  std::byte* const base = range.base();
  EXPECT(base != nullptr && range.mapped_bytes() == 0 && range.capacity_bytes() >= 5 * kGiB);
  for (const uint64_t bytes : {uint64_t{1}, kGiB, 2 * kGiB + 5, 3 * kMiB, uint64_t{0}, 5 * kGiB}) {
    range.map(bytes, "Lower it.");
    EXPECT(range.base() == base);
    EXPECT_NOTE(range.mapped_bytes() >= bytes && range.mapped_bytes() < bytes + 64 * kMiB,
                std::to_string(range.mapped_bytes()) + " mapped for " + std::to_string(bytes));
    const uint64_t words = range.mapped_bytes() / 4;
    if (words != 0) {
      write(reinterpret_cast<uint32_t*>(base), words, 7);
      EXPECT(differences(reinterpret_cast<uint32_t*>(base), words, 7) == 0);
    }
    range.unmap();
    EXPECT(range.mapped_bytes() == 0);
    range.unmap();  // nothing is mapped: nothing happens
  }
}

TEST("a captured graph over a range replays after its memory went and came back") {
  AddressRange range(3 * kGiB, "a test");
  range.map(3 * kGiB, "Lower it.");
  // Across the end of the first handle, and of the second one.
  auto* words = reinterpret_cast<uint32_t*>(range.base() + kGiB - 4 * kMiB);
  const uint64_t count = (kGiB + 8 * kMiB) / 4;
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  write_pattern<<<264, 256, 0, stream>>>(words, count, 99);
  cuda::check_launch("write_pattern");
  check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&replay, graph, 0), "cudaGraphInstantiate");
  for (int round = 0; round < 3; ++round) {
    check(cudaMemset(range.base(), 0xff, range.mapped_bytes()), "cudaMemset");
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    EXPECT(differences(words, count, 99) > count / 2);
    check(cudaGraphLaunch(replay, stream), "cudaGraphLaunch");
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    EXPECT_NOTE(differences(words, count, 99) == 0, "round " + std::to_string(round));
    check(cudaGraphLaunch(replay, stream), "cudaGraphLaunch");
    range.unmap();  // waits for the graph
    range.map(3 * kGiB, "Lower it.");
  }
  cudaGraphExecDestroy(replay);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

TEST("unmapping gives all the memory back, and so does the end of a range") {
  {  // what the driver sets up once is not counted
    AddressRange first(kGiB, "a test");
    first.map(kGiB, "Lower it.");
  }
  const uint64_t before = device_memory().free_bytes;
  {
    AddressRange range(6 * kGiB, "a test");
    range.map(5 * kGiB + 1, "Lower it.");
    const uint64_t taken = before - device_memory().free_bytes;
    EXPECT_NOTE(taken >= 5 * kGiB && taken <= 5 * kGiB + 128 * kMiB, std::to_string(taken) + " bytes taken");
    range.unmap();
    const uint64_t after = device_memory().free_bytes;
    EXPECT_NOTE(distance(before, after) <= 64 * kMiB,
                std::to_string(before) + " free before, " + std::to_string(after) + " after unmap");
    range.map(2 * kGiB, "Lower it.");
  }
  const uint64_t after = device_memory().free_bytes;
  EXPECT_NOTE(distance(before, after) <= 64 * kMiB,
              std::to_string(before) + " free before, " + std::to_string(after) + " after the range's end");
}

TEST("more memory than the device has is refused by a sentence with all the numbers, and nothing is kept") {
  const uint64_t total = device_memory().total_bytes;
  AddressRange range(total + 8 * kGiB, "the KV cache");
  const uint64_t before = device_memory().free_bytes;
  const auto map_too_much = [&] { range.map(total + 4 * kGiB, "Lower --gpu-memory-utilization."); };
  EXPECT(code_of(map_too_much) == "out_of_memory");
  const std::string sentence = sentence_of(map_too_much);
  for (const char* part :
       {"the KV cache", " asked for, ", " of ", " free. Lower --gpu-memory-utilization."}) {
    EXPECT_NOTE(contains(sentence, part), sentence);
  }
  char asked[32];
  std::snprintf(asked, sizeof asked, "%.2f GiB asked", static_cast<double>(total + 4 * kGiB) / 0x1p30);
  EXPECT_NOTE(contains(sentence, asked), sentence);
  EXPECT(range.mapped_bytes() == 0);
  const uint64_t after = device_memory().free_bytes;
  EXPECT_NOTE(distance(before, after) <= 64 * kMiB,
              std::to_string(before) + " free before, " + std::to_string(after) + " after");
  range.map(kGiB, "Lower it.");
  write(reinterpret_cast<uint32_t*>(range.base()), kGiB / 4, 3);
  EXPECT(differences(reinterpret_cast<uint32_t*>(range.base()), kGiB / 4, 3) == 0);
}

TEST("more addresses than there are are refused with a code") {
  EXPECT(code_of([] { const AddressRange range(uint64_t{1} << 62, "a test"); }) == "out_of_memory");
  EXPECT(code_of([] { const AddressRange range(~uint64_t{0}, "a test"); }) == "size_overflow");
}

TEST("mapping twice, or beyond what was reserved, is a bug and changes nothing") {
  AddressRange range(kGiB, "a test");
  EXPECT(throws_logic_error([&] { range.map(range.capacity_bytes() + 1, "Lower it."); }));
  range.map(kGiB, "Lower it.");
  EXPECT(throws_logic_error([&] { range.map(kMiB, "Lower it."); }));
  EXPECT(range.mapped_bytes() == kGiB);
}

TEST(
    "an arena gives the same addresses for the same sizes, aligned and apart, before and after reset and "
    "map") {
  Random random(31);
  std::vector<uint64_t> sizes;
  for (int i = 0; i < 200; ++i) sizes.push_back(static_cast<uint64_t>(random.integer(0, 100000)));
  DeviceArena arena({.purpose = "the workspace", .remedy = "Lower it.", .capacity_bytes = 64 * kMiB});
  std::vector<std::byte*> first;
  uint64_t end = 0;
  for (const uint64_t size : sizes) {
    std::byte* address = arena.allocate<std::byte>(size);
    EXPECT(reinterpret_cast<uintptr_t>(address) % 256 == 0);
    EXPECT(address == arena.base() + end);
    end += (size + 255) / 256 * 256;
    first.push_back(address);
  }
  EXPECT(arena.used_bytes() == end && !arena.mapped());
  arena.map();
  EXPECT(arena.mapped() && arena.mapped_bytes() >= end);
  for (int round = 0; round < 2; ++round) {
    arena.reset();
    for (size_t i = 0; i < sizes.size(); ++i) EXPECT(arena.allocate<std::byte>(sizes[i]) == first[i]);
    write(reinterpret_cast<uint32_t*>(arena.base()), end / 4, 5);
    EXPECT(differences(reinterpret_cast<uint32_t*>(arena.base()), end / 4, 5) == 0);
    arena.unmap();
    arena.map();
  }
}

TEST("an arena that is full refuses with a code: by its capacity before map, by what is mapped after") {
  DeviceArena arena(
      {.purpose = "the workspace", .remedy = "Lower --max-num-seqs.", .capacity_bytes = 64 * kMiB});
  const uint64_t capacity = arena.capacity_bytes();
  EXPECT(code_of([&] { arena.allocate<float>(capacity / 4 + 1); }) == "out_of_memory");
  EXPECT(code_of([&] { arena.allocate<float>(uint64_t{1} << 62); }) == "size_overflow");
  EXPECT(code_of([&] { arena.allocate<std::byte>(~uint64_t{0}); }) == "size_overflow");
  EXPECT(arena.used_bytes() == 0);
  arena.allocate<float>(100);
  arena.map();
  const uint64_t mapped = arena.mapped_bytes();
  EXPECT(mapped < capacity);
  const auto too_much = [&] { arena.allocate<std::byte>(mapped - 512 + 1); };
  EXPECT(code_of(too_much) == "out_of_memory");
  const std::string sentence = sentence_of(too_much);
  EXPECT_NOTE(contains(sentence, "the workspace") && contains(sentence, "Lower --max-num-seqs."), sentence);
  EXPECT(arena.allocate<std::byte>(mapped - 512) == arena.base() + 512);
}

TEST("weights that went to the host and back are the same bits, and their neighbours are left alone") {
  AddressRange range(2 * kGiB, "the weights");
  const uint64_t count = (600 * kMiB + 12) / 4;  // ends inside the third piece of a copy
  auto* words = reinterpret_cast<uint32_t*>(range.base());
  range.map(kGiB, "Lower it.");
  HostBackup backup(count * 4, 3);
  EXPECT(backup.capacity_bytes() == count * 4 && backup.saved_bytes() == 0);
  EXPECT(throws_logic_error([&] { backup.restore(words, count * 4); }));
  EXPECT(throws_logic_error([&] { backup.save(words, count * 4 + 1); }));
  for (uint32_t round = 0; round < 2; ++round) {
    write(words, count, round);  // not waited for: save() does
    backup.save(words, count * 4);
    EXPECT(backup.saved_bytes() == count * 4);
    range.unmap();
    range.map(kGiB, "Lower it.");
    check(cudaMemset(words, 0xff, kGiB), "cudaMemset");
    EXPECT(differences(words, count, round) > count / 2);
    backup.restore(words, count * 4);
    EXPECT_NOTE(differences(words, count, round) == 0, "round " + std::to_string(round));
    std::vector<uint32_t> after(1024);
    check(cudaMemcpy(after.data(), words + count, after.size() * 4, cudaMemcpyDeviceToHost), "cudaMemcpy");
    for (size_t i = 0; i < after.size(); ++i) {
      EXPECT_NOTE(after[i] == 0xffffffff,
                  "word " + std::to_string(i) + " after the backup's end was written");
    }
  }
  EXPECT(throws_logic_error([&] { backup.restore(words, count * 4 - 4); }));
}

TEST("a backup of nothing, and of one byte, holds") {
  HostBackup nothing(0);
  nothing.save(nullptr, 0);
  nothing.restore(nullptr, 0);
  std::byte* device = nullptr;
  check(cudaMalloc(&device, 2), "cudaMalloc");
  check(cudaMemset(device, 0x5a, 1), "cudaMemset");
  check(cudaMemset(device + 1, 0xff, 1), "cudaMemset");
  HostBackup one(1);
  one.save(device, 1);
  check(cudaMemset(device, 0xff, 1), "cudaMemset");
  one.restore(device, 1);
  std::byte read[2];
  check(cudaMemcpy(read, device, 2, cudaMemcpyDeviceToHost), "cudaMemcpy");
  cudaFree(device);
  EXPECT(read[0] == std::byte{0x5a} && read[1] == std::byte{0xff});
}

TEST("the probe tells what the runtime tells, and finds nothing wrong where this test runs") {
  const cuda::CudaProbe probe = cuda::probe_cuda({.with_free_memory = true});
  std::string problems;
  for (const std::string& problem : probe.problems) problems += problem + " ";
  EXPECT_NOTE(probe.usable() && probe.driver_found, problems);
  int count = 0;
  int driver_version = 0;
  int runtime_version = 0;
  check(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
  check(cudaDriverGetVersion(&driver_version), "cudaDriverGetVersion");
  check(cudaRuntimeGetVersion(&runtime_version), "cudaRuntimeGetVersion");
  EXPECT(probe.driver_version == driver_version && probe.runtime_version == runtime_version);
  EXPECT(!probe.driver_path.empty());
  EXPECT(probe.gpus.size() == static_cast<size_t>(count));
  for (const cuda::GpuDescription& gpu : probe.gpus) {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, gpu.index), "cudaGetDeviceProperties");
    EXPECT_NOTE(gpu.name == properties.name, gpu.name);
    EXPECT(gpu.compute_capability_major == properties.major &&
           gpu.compute_capability_minor == properties.minor);
    EXPECT(gpu.num_multiprocessors == properties.multiProcessorCount);
    EXPECT(gpu.total_bytes == properties.totalGlobalMem);
    char bus[64] = {};
    check(cudaDeviceGetPCIBusId(bus, sizeof bus, gpu.index), "cudaDeviceGetPCIBusId");
    EXPECT_NOTE(gpu.pci_bus_id == bus, gpu.pci_bus_id + " and " + bus);
    EXPECT(gpu.free_bytes.has_value() && *gpu.free_bytes > 0 && *gpu.free_bytes <= gpu.total_bytes);
  }
  EXPECT(!cuda::probe_cuda().gpus[0].free_bytes.has_value());
  EXPECT(cuda::cuda_version_text(13000) == "13.0" && cuda::cuda_version_text(12080) == "12.8");
}

}  // namespace kadenz::test
