// Times of the row kernels at decode sizes (inputs in L2, as the matmul before leaves them) and at prefill
// sizes (far larger than L2). A time is that of one launch among many in a replayed graph, programmatic
// launches included: the median over replays.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "cuda/check.h"
#include "cuda/device_buffer.h"
#include "cuda/kernels/prepare.h"
#include "cuda/kernels/rotate.h"
#include "cuda/kernels/rows.h"
#include "cuda/kernels/upload.h"

namespace kadenz::cuda {
namespace {

constexpr double kBandwidth = 4.3e12;  // measured, read + write
constexpr int kReplays = 25;
constexpr int kWarmups = 4;

__device__ float noise(uint64_t index) {  // -1 .. 1
  uint64_t mixed = (index + 1) * 0x9e3779b97f4a7c15ULL;
  mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9ULL;
  mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebULL;
  return static_cast<float>(static_cast<uint32_t>(mixed >> 40)) * 0x1p-23F - 1.0F;
}

__global__ void fill_floats(float* target, uint64_t count) {
  const uint64_t stride = static_cast<uint64_t>(gridDim.x) * blockDim.x;
  for (uint64_t i = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    target[i] = noise(i);
  }
}

__global__ void fill_halves(__nv_bfloat16* target, uint64_t count) {
  const uint64_t stride = static_cast<uint64_t>(gridDim.x) * blockDim.x;
  for (uint64_t i = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    target[i] = __float2bfloat16_rn(4.0F * noise(i));
  }
}

class Buffer {
 public:
  explicit Buffer(uint64_t bytes) { check(cudaMalloc(&data_, std::max<uint64_t>(bytes, 16)), "cudaMalloc"); }
  ~Buffer() { cudaFree(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

struct Floats : Buffer {
  explicit Floats(uint64_t count) : Buffer(4 * count) { fill_floats<<<1024, 256>>>(as<float>(), count); }
  operator float*() const { return as<float>(); }
};

struct Halves : Buffer {
  explicit Halves(uint64_t count) : Buffer(2 * count) {
    fill_halves<<<1024, 256>>>(as<__nv_bfloat16>(), count);
  }
  operator void*() const { return as<void>(); }
};

template <typename T>
struct Copied : Buffer {
  explicit Copied(const std::vector<T>& values) : Buffer(values.size() * sizeof(T)) {
    check(
        cudaMemcpy(this->template as<T>(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice),
        "cudaMemcpy");
  }
  operator T*() const { return this->template as<T>(); }
};

double median_us(const std::function<void(cudaStream_t)>& launch, int launches) {
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  check(cudaDeviceSynchronize(), "fill");
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  check(cudaEventCreate(&begin), "cudaEventCreate");
  check(cudaEventCreate(&end), "cudaEventCreate");
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  for (int i = 0; i < launches; ++i) launch(stream);
  check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
  std::vector<double> times_us;
  for (int replay = 0; replay < kWarmups + kReplays; ++replay) {
    check(cudaEventRecord(begin, stream), "cudaEventRecord");
    check(cudaGraphLaunch(executable, stream), "cudaGraphLaunch");
    check(cudaEventRecord(end, stream), "cudaEventRecord");
    check(cudaEventSynchronize(end), "replay");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
    if (replay >= kWarmups) times_us.push_back(1000.0 * static_cast<double>(milliseconds) / launches);
  }
  std::sort(times_us.begin(), times_us.end());
  check(cudaGraphExecDestroy(executable), "cudaGraphExecDestroy");
  check(cudaGraphDestroy(graph), "cudaGraphDestroy");
  check(cudaEventDestroy(begin), "cudaEventDestroy");
  check(cudaEventDestroy(end), "cudaEventDestroy");
  check(cudaStreamDestroy(stream), "cudaStreamDestroy");
  return times_us[times_us.size() / 2];
}

void report(const char* kernel, const std::string& shape, uint64_t bytes,
            const std::function<void(cudaStream_t)>& launch) {
  const int launches = bytes > 100'000'000 ? 4 : 64;
  const double time_us = median_us(launch, launches);
  const double rate = static_cast<double>(bytes) / (time_us * 1e-6);
  std::printf("%-13s %-34s %9.2f us %8.0f GB/s %6.1f%% of 4.3 TB/s\n", kernel, shape.c_str(), time_us,
              rate / 1e9, 100.0 * rate / kBandwidth);
  std::fflush(stdout);
}

std::string text(const char* name, uint64_t value) {
  return std::string(name) + " " + std::to_string(value) + " ";
}

void bench_add_norm(uint32_t rows, uint32_t columns, uint32_t slices) {
  const uint64_t count = static_cast<uint64_t>(rows) * columns;
  const Floats residual(count);
  const Floats partials(count * slices);
  const Floats weight(columns);
  const Halves normed(count);
  report("add_norm", text("rows", rows) + text("columns", columns) + text("slices", slices),
         count * (4ULL * slices + 4 + 4 + 2), [&](cudaStream_t stream) {
           add_norm(Half::kBFloat16, {partials, slices, count, nullptr}, residual, weight, 1e-6F, rows,
                    columns, normed, stream);
         });
}

void bench_silu_mul(uint32_t rows, uint32_t inner) {
  const uint64_t count = static_cast<uint64_t>(rows) * inner;
  const Halves gate_up(2 * count);
  const Halves out(count);
  report("silu_mul", text("rows", rows) + text("inner", inner), 6 * count, [&](cudaStream_t stream) {
    silu_mul(Half::kBFloat16, gate_up, false, nullptr, rows, inner, out, stream);
  });
}

struct Heads {
  uint32_t query, key_value, dim;
};

void bench_rotate(uint32_t rows, const Heads& heads, uint32_t slices, bool norms) {
  const uint32_t padded = heads.dim <= 64 ? 64 : 128;
  const uint64_t width = heads.query + 2ULL * heads.key_value;
  const uint64_t columns = width * heads.dim;
  const uint32_t block_size = 16;
  const uint64_t num_slots = 2ULL * (rows + block_size) / block_size * block_size;
  std::vector<int32_t> positions;
  std::vector<int64_t> kv_slots;
  for (uint32_t row = 0; row < rows; ++row) {
    positions.push_back(static_cast<int32_t>(row * 7 % 4096));
    kv_slots.push_back(2 * static_cast<int64_t>(row));
  }
  const Copied<int32_t> device_positions(positions);
  const Copied<int64_t> device_slots(kv_slots);
  const Floats partials(rows * columns * slices);
  const Floats bias(columns);
  const Floats norm(heads.dim);
  const Floats cos_sin(4096ULL * heads.dim);
  const Halves query(static_cast<uint64_t>(rows) * heads.query * padded);
  const Halves cache(num_slots * 2 * heads.key_value * padded);
  RotateArgs args;
  args.qkv = {partials, slices, rows * columns, norms ? nullptr : static_cast<float*>(bias)};
  args.rows = rows;
  args.num_heads = heads.query;
  args.num_kv_heads = heads.key_value;
  args.head_dim = heads.dim;
  args.head_dim_padded = padded;
  args.block_size = block_size;
  args.query_norm = norms ? static_cast<float*>(norm) : nullptr;
  args.key_norm = args.query_norm;
  args.epsilon = 1e-6F;
  args.cos_sin = cos_sin;
  args.positions = device_positions;
  args.kv_slots = device_slots;
  args.q_out = query;
  args.cache_layer = cache;
  report("rotate",
         text("rows", rows) + std::to_string(heads.query) + "/" + std::to_string(heads.key_value) + "x" +
             std::to_string(heads.dim) + " " + text("slices", slices) + (norms ? "norms" : "bias"),
         rows * (columns * 4 * slices + width * padded * 2),
         [&](cudaStream_t stream) { rotate_and_store(args, stream); });
}

void bench_small(uint32_t rows) {
  const uint32_t columns = 4096;
  const uint64_t count = static_cast<uint64_t>(rows) * columns;
  std::vector<int32_t> ids;
  std::vector<uint32_t> picked;
  std::vector<RowInput> input;
  const uint32_t stride = 512;
  for (uint32_t row = 0; row < rows; ++row) {
    ids.push_back(static_cast<int32_t>(row * 97 % 8192));
    picked.push_back(rows - 1 - row);
    input.push_back(
        {-1 - static_cast<int32_t>(row), static_cast<int32_t>(row % 256), static_cast<int32_t>(row % 4096)});
  }
  const Copied<int32_t> token_ids(ids);
  const Copied<uint32_t> row_ids(picked);
  const Copied<RowInput> row_input(input);
  const Copied<int32_t> tables(std::vector<int32_t>(256 * stride, 3));
  const Buffer prepared(rows * 32ULL);
  const Halves table(8192ULL * columns);
  const Floats residual(count);
  const Halves source(count);
  const Halves target(count);
  report("embed", text("rows", rows) + text("columns", columns), count * 6, [&](cudaStream_t stream) {
    embed(Half::kBFloat16, table, token_ids, rows, columns, residual, stream);
  });
  report("gather_rows", text("rows", rows) + text("bytes", 2 * columns), count * 4,
         [&](cudaStream_t stream) { gather_rows(source, 2ULL * columns, row_ids, rows, target, stream); });
  report("prepare_rows", text("rows", rows), rows * 37ULL, [&](cudaStream_t stream) {
    int64_t* kv_slots = prepared.as<int64_t>();
    int32_t* out = reinterpret_cast<int32_t*>(kv_slots + rows);
    prepare_rows({row_input, rows, token_ids, tables, stride, 16},
                 {out, out + rows, kv_slots, reinterpret_cast<uint8_t*>(out + 2 * rows)}, stream);
  });
}

void bench_copy_blocks(uint32_t count) {
  const uint32_t layers = 36;
  const uint64_t block_bytes = 65536;  // 16 positions of 8 heads of 128, keys and values
  const uint64_t blocks = 2ULL * count;
  const Halves cache(layers * blocks * block_bytes / 2);
  std::vector<BlockCopy> pairs;
  for (uint32_t i = 0; i < count; ++i) pairs.push_back({i, count + i});
  const Copied<BlockCopy> device_pairs(pairs);
  report("copy_blocks", text("pairs", count) + text("layers", layers), 2 * layers * count * block_bytes,
         [&](cudaStream_t stream) {
           copy_blocks(cache, layers, blocks * block_bytes, block_bytes, device_pairs, count, stream);
         });
}

// Over the bus: about 50 GB/s is all there is. The launches overlap, as those of a step do not quite.
void bench_upload(uint64_t bytes) {
  const PinnedBuffer<uint8_t> source = zeroed_pinned<uint8_t>(bytes);
  const Buffer target(bytes);
  UploadList list;
  list.segments[list.count++] = {source.data(), target.as<void>(), bytes / 16};
  report("upload", text("bytes", bytes), bytes, [&](cudaStream_t stream) { upload(list, stream); });
}

void run_all() {
  for (const uint32_t rows : {8U, 64U, 256U, 8192U}) {
    for (const uint32_t columns : {896U, 1536U, 3584U, 4096U}) {
      for (const uint32_t slices : {1U, 2U, 4U}) {
        if (rows == 8192 && columns < 4096) continue;
        if (slices == 4 && columns != 4096) continue;
        bench_add_norm(rows, columns, slices);
      }
    }
  }
  for (const uint32_t rows : {8U, 256U, 8192U}) {
    for (const uint32_t inner : {4864U, 8960U, 12288U, 18944U}) bench_silu_mul(rows, inner);
  }
  for (const uint32_t rows : {8U, 256U, 8192U}) {
    bench_rotate(rows, {14, 2, 64}, 1, false);
    bench_rotate(rows, {12, 2, 128}, 1, false);
    bench_rotate(rows, {28, 4, 128}, 1, false);
    bench_rotate(rows, {32, 8, 128}, 1, true);
    bench_rotate(rows, {32, 8, 128}, 2, true);
  }
  for (const uint32_t rows : {8U, 256U, 8192U}) bench_small(rows);
  bench_copy_blocks(1);
  bench_copy_blocks(64);
  for (const uint64_t bytes : {512U, 16384U, 65536U, 524288U, 4194304U}) bench_upload(bytes);
}

}  // namespace
}  // namespace kadenz::cuda

int main() {
  try {
    kadenz::cuda::run_all();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
