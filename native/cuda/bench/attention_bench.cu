// Attention's times: decode against the bandwidth that copies reach (4.3 TB/s), prefill against the matmul
// rate (0.79 PFLOP/s); the default instances first, then others beside them. Bytes are those of the keys and
// values that are read; operations are those of the causal half.
//
// Usage: attention_bench [decode | prefill]
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "cuda/attention_plan.h"
#include "cuda/kernels/attention_launch.cuh"
#include "cuda/kernels/dependent_launch.cuh"

namespace kadenz::cuda {
namespace {

using T = __nv_bfloat16;
constexpr uint32_t kBlockSize = 16;
constexpr uint64_t kRotateBytes = 400ULL << 20;  // inputs rotate until this much was read: well above L2
constexpr int kTimings = 20;

__global__ void fill_random(__nv_bfloat16* data, uint64_t count, uint32_t seed) {
  for (uint64_t i = blockIdx.x * static_cast<uint64_t>(blockDim.x) + threadIdx.x; i < count;
       i += static_cast<uint64_t>(gridDim.x) * blockDim.x) {
    uint64_t mixed = (i + seed) * 0x9e3779b97f4a7c15ULL;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9ULL;
    mixed ^= mixed >> 31;
    data[i] = __float2bfloat16_rn(static_cast<float>(mixed & 0xffff) / 32768.0F - 1.0F);
  }
}

template <class Element>
class Buffer {
 public:
  explicit Buffer(uint64_t count) {
    check(cudaMalloc(reinterpret_cast<void**>(&data), std::max<uint64_t>(count, 1) * sizeof(Element)),
          "cudaMalloc");
  }
  explicit Buffer(std::span<const Element> values) : Buffer(values.size()) {
    check(cudaMemcpy(data, values.data(), values.size_bytes(), cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  ~Buffer() { cudaFree(data); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  Element* data = nullptr;
};

Buffer<T>* random_buffer(uint64_t count, uint32_t seed) {
  auto* buffer = new Buffer<T>(count);
  fill_random<<<1024, 256>>>(buffer->data, count, seed);
  check_launch("fill_random");
  return buffer;
}

struct Case {
  uint32_t num_heads, num_kv_heads, head_dim;
  uint32_t num_sequences, rows, context;  // context = positions before and with the rows
};

struct Instance {
  const char* name;
  uint32_t blocks_per_sm;  // of the split launch
  SplitWay way;
  void (*prepare)();
  void (*launch)(const attention::Problem&, uint32_t num_sms, uint32_t num_block_items, cudaStream_t);
};

template <int kD, int kStages, int kBlocksPerSm>
Instance split_instance(const char* name, SplitWay way = SplitWay::kFastest) {
  return {name, kBlocksPerSm, way, [] { attention::prepare_split<T, kD, kStages, kBlocksPerSm>(); },
          [](const attention::Problem& problem, uint32_t num_sms, uint32_t, cudaStream_t stream) {
            attention::launch_split<T, kD, kStages, kBlocksPerSm>(problem, num_sms, stream);
          }};
}
template <int kD, int kWarps, int kStages, int kHeld>
Instance block_instance(const char* name) {
  return {name, 1, SplitWay::kFastest, [] { attention::prepare_block<T, kD, kWarps, kStages, kHeld>(); },
          [](const attention::Problem& problem, uint32_t, uint32_t num_block_items, cudaStream_t stream) {
            attention::launch_block<T, kD, kWarps, kStages, kHeld>(problem, num_block_items, stream);
          }};
}

// Stands where the rotation stands in a step, and moves as many bytes.
constexpr uint32_t kStandInRowFloats = 4096;
__global__ void __launch_bounds__(128) stand_in(const float4* sums, float4* rotated) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const uint64_t first = blockIdx.x * static_cast<uint64_t>(kStandInRowFloats / 4) + threadIdx.x;
  float4 total = {};
  for (uint32_t i = 0; i < kStandInRowFloats / 4; i += 128) {
    const float4 value = sums[first + i];
    total.x += value.x;
    total.y += value.y;
    total.z += value.z;
    total.w += value.w;
  }
  rotated[blockIdx.x * 128 + threadIdx.x] = total;
}

float median_us(cudaGraphExec_t graph, cudaStream_t stream, int launches) {
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  check(cudaEventCreate(&begin), "cudaEventCreate");
  check(cudaEventCreate(&end), "cudaEventCreate");
  std::vector<float> times;
  for (int i = 0; i < kTimings + 2; ++i) {
    check(cudaEventRecord(begin, stream), "cudaEventRecord");
    check(cudaGraphLaunch(graph, stream), "cudaGraphLaunch");
    check(cudaEventRecord(end, stream), "cudaEventRecord");
    check(cudaEventSynchronize(end), "cudaEventSynchronize");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");
    if (i >= 2) times.push_back(ms * 1000.0F / static_cast<float>(launches));
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::ranges::sort(times);
  return times[times.size() / 2];
}

void measure(const Case& shape, const std::vector<Instance>& instances, uint32_t num_sms,
             cudaStream_t stream) {
  const uint32_t padded = shape.head_dim <= 64 ? 64 : 128;
  const uint32_t blocks_each = (shape.context + kBlockSize - 1) / kBlockSize;
  const uint32_t num_blocks = blocks_each * shape.num_sequences;
  const uint64_t layer_elements =
      static_cast<uint64_t>(num_blocks) * 2 * shape.num_kv_heads * kBlockSize * padded;
  const int layers = static_cast<int>(std::clamp<uint64_t>(kRotateBytes / (layer_elements * 2), 1, 64));
  const int launches = std::max(layers, 2);
  const uint64_t rows = static_cast<uint64_t>(shape.num_sequences) * shape.rows;
  const Buffer<T>* cache = random_buffer(layer_elements * static_cast<uint64_t>(layers), 1);
  const Buffer<T>* q = random_buffer(rows * shape.num_heads * padded, 2);
  const Buffer<float4> sums(rows * kStandInRowFloats / 4);
  const Buffer<float4> rotated(rows * 128);
  const Buffer<T> output(rows * shape.num_heads * shape.head_dim);
  std::vector<int32_t> tables(num_blocks);
  for (uint32_t i = 0; i < num_blocks; ++i) {  // a scattered order: i times a prime, modulo the count
    uint64_t step = 7919;
    while (std::gcd(step, static_cast<uint64_t>(num_blocks)) != 1) ++step;
    tables[i] = static_cast<int32_t>(i * step % num_blocks);
  }
  const Buffer<int32_t> device_tables(std::span<const int32_t>{tables});
  std::vector<AttentionSequence> sequences;
  for (uint32_t i = 0; i < shape.num_sequences; ++i) {
    sequences.push_back({static_cast<int32_t>(i * shape.rows), static_cast<int32_t>(shape.rows),
                         static_cast<int32_t>(shape.context - shape.rows), static_cast<int32_t>(i)});
  }
  const Buffer<AttentionSequence> device_sequences(std::span<const AttentionSequence>{sequences});

  for (const Instance& instance : instances) {
    const AttentionLimits limits = {shape.num_sequences, static_cast<uint32_t>(rows),
                                    shape.context,       shape.num_heads,
                                    shape.num_kv_heads,  num_sms * instance.blocks_per_sm};
    const uint64_t max_partials = attention_bounds(limits).partials;
    AttentionPlan plan(limits);
    plan.make(sequences, 0, instance.way);
    const Buffer<SplitItem> split_items(plan.split_items());
    const Buffer<uint32_t> split_offsets(plan.split_offsets());
    const Buffer<BlockItem> block_items(plan.block_items());
    const Buffer<float> partials(attention_partial_bytes(max_partials, padded) / 4);
    const Buffer<uint32_t> counters(max_partials);
    check(cudaMemset(counters.data, 0, attention_counter_bytes(max_partials)), "cudaMemset");
    AttentionArgs args = {};
    args.dtype = Half::kBFloat16;
    args.q = q->data;
    args.output = output.data;
    args.sequences = device_sequences.data;
    args.block_tables = device_tables.data;
    args.table_stride = blocks_each;
    args.split_items = split_items.data;
    args.split_offsets = split_offsets.data;
    args.block_items = block_items.data;
    args.partials = partials.data;
    args.counters = counters.data;
    args.num_heads = shape.num_heads;
    args.num_kv_heads = shape.num_kv_heads;
    args.head_dim = shape.head_dim;
    args.head_dim_padded = padded;
    args.block_size = kBlockSize;

    instance.prepare();
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    // `steps`: after a stand-in for the rotation each time; what that one takes alone is subtracted.
    const auto time = [&](bool attends, bool steps) {
      cudaGraph_t graph = nullptr;
      cudaGraphExec_t executable = nullptr;
      check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
      for (int i = 0; i < launches; ++i) {
        args.cache_layer = cache->data + layer_elements * static_cast<uint64_t>(i % layers);
        if (steps) {
          stand_in<<<static_cast<uint32_t>(rows), 128, 0, stream>>>(sums.data, rotated.data);
          check_launch("stand_in");
        }
        if (attends) {
          instance.launch(attention::problem_of(args), num_sms,
                          static_cast<uint32_t>(plan.block_items().size()), stream);
        }
      }
      check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
      check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
      const double us = static_cast<double>(median_us(executable, stream, launches));
      cudaGraphExecDestroy(executable);
      cudaGraphDestroy(graph);
      return us;
    };
    const double us = time(true, false);
    const double step_us = time(true, true) - time(false, true);

    std::printf("(%2u,%u,%3u) %4u x %4u to %5u | %-12s | %8.2f us, in a step %8.2f | ", shape.num_heads,
                shape.num_kv_heads, shape.head_dim, shape.num_sequences, shape.rows, shape.context,
                instance.name, us, step_us);
    if (plan.block_items().empty()) {
      const double bytes = 4.0 * shape.num_kv_heads * padded * shape.num_sequences * shape.context;
      std::printf("%5.1f%%, %5.1f%% of 4.3 TB/s | %zu runs, %llu partials\n", bytes / us / 4.3e6 * 100,
                  bytes / step_us / 4.3e6 * 100, plan.split_items().size(),
                  static_cast<unsigned long long>(plan.num_partials()));
    } else {
      const double pairs = shape.rows * (shape.context - shape.rows + (shape.rows + 1) / 2.0);
      const double operations = 4.0 * shape.head_dim * shape.num_heads * shape.num_sequences * pairs;
      std::printf("%7.1f TFLOP/s | %5.1f%% of 0.79 PFLOP/s\n", operations / us / 1e6,
                  operations / us / 0.79e9 * 100);
    }
    std::fflush(stdout);
  }
  delete cache;
  delete q;
}

}  // namespace
}  // namespace kadenz::cuda

int main(int argc, char** argv) {
  using namespace kadenz::cuda;
  const std::string part = argc > 1 ? argv[1] : "";
  int num_sms = 0;
  check(cudaDeviceGetAttribute(&num_sms, cudaDevAttrMultiProcessorCount, 0), "cudaDeviceGetAttribute");
  const uint32_t sms = static_cast<uint32_t>(num_sms);
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");

  if (part != "prefill") {
    const auto ways = [](Instance instance, bool all) {
      std::vector<Instance> instances = {instance};
      if (!all) return instances;
      instance.way = SplitWay::kWhole;
      instance.name = "whole";
      instances.push_back(instance);
      instance.way = SplitWay::kCut;
      instance.name = "cut";
      instances.push_back(instance);
      return instances;
    };
    const Instance wide =
        split_instance<128, attention::kDefaultStages, attention::kDefaultBlocksPerSm<128>>("default");
    const Instance narrow =
        split_instance<64, attention::kDefaultStages, attention::kDefaultBlocksPerSm<64>>("default");
    const uint32_t work[][2] = {{256, 2048}, {256, 300}, {256, 250}, {100, 700}, {64, 1536},
                                {8, 300},    {8, 1536},  {1, 1536},  {8, 16384}, {1, 16384}};
    for (const auto& [sequences, context] : work) {
      const bool all = context < 10000;
      measure({28, 4, 128, sequences, 1, context}, ways(wide, all), sms, stream);
      measure({32, 8, 128, sequences, 1, context}, ways(wide, false), sms, stream);
      measure({12, 2, 128, sequences, 1, context}, ways(wide, all), sms, stream);
      std::vector<Instance> narrow_all = ways(narrow, all);
      narrow_all.push_back(split_instance<64, 5, 2>("5 st x 2 bl"));
      measure({14, 2, 64, sequences, 1, context}, narrow_all, sms, stream);
    }
  }
  if (part != "decode") {
    const std::vector<Instance> wide = {
        block_instance<128, attention::kDefaultBlockWarps, attention::kDefaultStages,
                       attention::kDefaultHeld<128>>("default"),
        block_instance<128, 8, 3, 8>("8 warps, q held"),
        block_instance<128, 8, 3, 4>("8 warps, q half held"),
        block_instance<128, 8, 2, 0>("8 warps, 2 stages"),
        block_instance<128, 4, 3, 0>("4 warps"),
        block_instance<128, 4, 2, 8>("4 warps, 2st, q held")};
    const std::vector<Instance> narrow = {
        block_instance<64, attention::kDefaultBlockWarps, attention::kDefaultStages,
                       attention::kDefaultHeld<64>>("default"),
        block_instance<64, 4, 3, 4>("4 warps")};
    measure({32, 8, 128, 8, 4096, 4096}, wide, sms, stream);
    measure({32, 8, 128, 1, 4096, 4096}, wide, sms, stream);
    measure({28, 4, 128, 16, 512, 512}, wide, sms, stream);
    measure({28, 4, 128, 1, 512, 16384}, wide, sms, stream);
    measure({14, 2, 64, 8, 2048, 2048}, narrow, sms, stream);
  }
  return 0;
}
