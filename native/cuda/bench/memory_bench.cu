// What giving memory back, taking it again, keeping weights on the host and loading them costs.
// memory_bench [map] [backup] [load]: these parts; all when none is named. Times are wall time of the calls.
// KADENZ_BENCH_GIB=N maps N GiB instead of 100; the file of `load` (6 GB) is made under $TMPDIR, or /tmp.
#include <cuda_runtime_api.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "cuda/check.h"
#include "cuda/device_memory.h"
#include "cuda/host_backup.h"
#include "cuda/weight_loader.h"
#include "model/weights.h"

namespace {

using namespace kadenz;
using cuda::check;

constexpr uint64_t kGiB = uint64_t{1} << 30;

double milliseconds(const std::function<void()>& action) {
  const auto begin = std::chrono::steady_clock::now();
  action();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
}

struct Spread {
  std::vector<double> samples_ms;
  void add(double sample_ms) { samples_ms.push_back(sample_ms); }
  double median() {
    std::sort(samples_ms.begin(), samples_ms.end());
    return samples_ms[samples_ms.size() / 2];
  }
  double most() { return *std::max_element(samples_ms.begin(), samples_ms.end()); }
};

__global__ void write_noise(uint32_t* words, uint64_t count) {
  const uint64_t stride = uint64_t{gridDim.x} * blockDim.x;
  for (uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
    words[i] = static_cast<uint32_t>((i + 1) * 0x9e3779b97f4a7c15ULL >> 32);
  }
}

void fill(void* data, uint64_t bytes) {
  write_noise<<<1056, 256>>>(static_cast<uint32_t*>(data), bytes / 4);
  cuda::check_launch("write_noise");
  check(cudaDeviceSynchronize(), "write_noise");
}

void row(const char* what, uint64_t bytes, double median_ms, double most_ms, const char* aim) {
  std::printf("%-34s %8.1f GB %10.1f ms %10.1f ms %8.1f GB/s   %s\n", what, static_cast<double>(bytes) / 1e9,
              median_ms, most_ms, static_cast<double>(bytes) / 1e6 / median_ms, aim);
  std::fflush(stdout);
}

void bench_map() {
  const char* wanted = std::getenv("KADENZ_BENCH_GIB");
  const uint64_t bytes = (wanted == nullptr ? 100 : std::strtoull(wanted, nullptr, 10)) * kGiB;
  cuda::AddressRange range(bytes, "the benchmark");
  const uint64_t before = cuda::device_memory().free_bytes;
  Spread resume, release;
  for (int round = 0; round < 5; ++round) {
    resume.add(milliseconds([&] { range.map(bytes, "Set KADENZ_BENCH_GIB lower."); }));
    fill(range.base(), bytes);
    release.add(milliseconds([&] { range.unmap(); }));
  }
  row("resume (map)", bytes, resume.median(), resume.most(), "aim 250 ms for 100 GiB");
  row("release (unmap)", bytes, release.median(), release.most(), "aim 60 ms for 100 GiB");
  const auto kept = static_cast<double>(before) - static_cast<double>(cuda::device_memory().free_bytes);
  std::printf("kept after release: %.1f MiB; in use on the device in all: %.1f MiB\n", kept / 0x1p20,
              static_cast<double>(cuda::device_memory().used_bytes()) / 0x1p20);
}

void bench_backup() {
  constexpr uint64_t kBytes = 8 * kGiB;
  cuda::AddressRange range(kBytes, "the benchmark");
  range.map(kBytes, "Free memory on the device.");
  fill(range.base(), kBytes);
  // The first one also makes a virtual machine grow its memory, so 8 threads come first and last.
  for (const uint32_t num_threads : {8U, 1U, 8U}) {
    std::unique_ptr<cuda::HostBackup> backup;
    const double lock_ms =
        milliseconds([&] { backup = std::make_unique<cuda::HostBackup>(kBytes, num_threads); });
    const std::string what = "lock pages, " + std::to_string(num_threads) + " threads";
    row(what.c_str(), kBytes, lock_ms, lock_ms, "");
    Spread save, restore;
    for (int round = 0; round < 3; ++round) {
      save.add(milliseconds([&] { backup->save(range.base(), kBytes); }));
      restore.add(milliseconds([&] { backup->restore(range.base(), kBytes); }));
    }
    row("  save to the host", kBytes, save.median(), save.most(), "aim 45 GB/s");
    row("  restore from the host", kBytes, restore.median(), restore.most(), "aim 45 GB/s");
    const double unlock_ms = milliseconds([&] { backup.reset(); });
    row("  unlock pages", kBytes, unlock_ms, unlock_ms, "");
  }
}

// 6 GB of plausible weights in a file that goes when the benchmark does.
class WeightFile {
 public:
  static constexpr uint64_t kBytes = 6'000'000'000;

  WeightFile() {
    const char* folder = std::getenv("TMPDIR");
    path_ = std::string(folder != nullptr ? folder : "/tmp") + "/kadenz_memory_bench." +
            std::to_string(::getpid());
    std::vector<uint32_t> block(16 << 20);
    for (uint64_t i = 0; i < block.size(); ++i) {
      const uint32_t noise = static_cast<uint32_t>((i + 1) * 0x9e3779b97f4a7c15ULL >> 32);
      block[i] = (noise & 0x83ff83ff) | 0x3c003c00;  // finite in each dtype
    }
    std::ofstream file(path_, std::ios::binary);
    for (uint64_t written = 0; written < kBytes;) {
      const uint64_t part = std::min(kBytes - written, static_cast<uint64_t>(block.size() * 4));
      file.write(reinterpret_cast<const char*>(block.data()), static_cast<std::streamsize>(part));
      written += part;
    }
    file.close();
    if (!file) {
      std::fprintf(stderr, "could not write %s\n", path_.c_str());
      ::unlink(path_.c_str());
      std::exit(1);
    }
  }
  ~WeightFile() { ::unlink(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Matrices of 33.5 MB, as an 8B model has them, and the rest.
std::vector<TensorDescription> describe(DType dtype) {
  constexpr uint64_t kMatrixBytes = 4096 * 4096 * 2;
  std::vector<TensorDescription> tensors;
  for (uint64_t begin = 0; begin < WeightFile::kBytes; begin += kMatrixBytes) {
    const uint64_t end = std::min(begin + kMatrixBytes, WeightFile::kBytes);
    tensors.push_back({std::to_string(begin),
                       dtype,
                       {static_cast<int64_t>((end - begin) / dtype_bytes(dtype))},
                       0,
                       begin,
                       end});
  }
  return tensors;
}

void bench_load() {
  const WeightFile file;
  cuda::DeviceArena arena({.purpose = "the benchmark", .remedy = "Free memory on the device."});
  arena.map(WeightFile::kBytes + kGiB);
  struct Case {
    DType source, target;
    uint32_t num_threads;
  };
  const auto bfloat16 = DType::kBFloat16;
  for (const Case& each : {Case{bfloat16, bfloat16, 2}, Case{bfloat16, bfloat16, 8},
                           Case{bfloat16, bfloat16, 16}, Case{DType::kFloat32, bfloat16, 8}}) {
    const std::vector<TensorDescription> tensors = describe(each.source);
    Spread load;
    double start_ms = 0;
    for (int round = 0; round < 3; ++round) {
      arena.reset();
      std::unique_ptr<cuda::WeightLoader> loader;
      start_ms = milliseconds([&] {
        loader = std::make_unique<cuda::WeightLoader>(cuda::WeightLoaderOptions{each.num_threads});
      });
      load.add(milliseconds([&] {
        const WeightFiles files({file.path()}, tensors);  // mapped anew: no page is in the tables
        for (const TensorDescription& tensor : tensors) {
          const TensorView view = files.require(tensor.name, {tensor.shape[0]});
          const uint64_t bytes = view.bytes / dtype_bytes(each.source) * dtype_bytes(each.target);
          loader->load({&view, 1}, {arena.allocate_bytes(bytes), bytes, each.target});
        }
        loader->finish();
      }));
    }
    const std::string what =
        std::string("load ") + dtype_name(each.source) + ", " + std::to_string(each.num_threads) + " threads";
    char aim[64];
    std::snprintf(aim, sizeof aim, "aim 3 GB/s; loader made in %.0f ms", start_ms);
    row(what.c_str(), WeightFile::kBytes, load.median(), load.most(), aim);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const auto wanted = [&](const char* part) {
    bool named = argc < 2;
    for (int i = 1; i < argc; ++i) named = named || std::strcmp(argv[i], part) == 0;
    return named;
  };
  try {
    std::printf("%-34s %11s %13s %13s %13s   (%u cores)\n", "what", "bytes", "median", "most", "rate",
                std::thread::hardware_concurrency());
    if (wanted("map")) bench_map();
    if (wanted("backup")) bench_backup();
    if (wanted("load")) bench_load();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
