// Tiles, tensor maps and launches of the matmul in gemm_kernel.cuh.
#include "cuda/kernels/gemm.h"

#include <cudaTypedefs.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "cuda/check.h"
#include "cuda/kernels/gemm_kernel.cuh"
#include "model/error.h"

namespace kadenz::cuda {
namespace {

using gemm_unit::gemm_kernel;
using gemm_unit::Problem;

constexpr uint32_t kMostSharedBytes = 227 << 10;
constexpr uint32_t kSms = 132;

uint32_t divide_up(uint32_t value, uint32_t step) { return (value + step - 1) / step; }

using Kernel = void (*)(CUtensorMap, CUtensorMap, Problem);

// What is built: tiles of many columns where rows are many, down to 16 where they are few.
struct Instance {
  Half dtype;
  bool gated;
  uint32_t rows, columns, threads;
  Kernel kernel;
};

template <class T>
constexpr Half kDtype = std::is_same_v<T, __nv_bfloat16> ? Half::kBFloat16 : Half::kFloat16;

template <class T, int kConsumers, int kParts, int kColumns, bool kGated = false>
constexpr Instance instance() {
  return {kDtype<T>,
          kGated,
          kConsumers * kParts * 64,
          kColumns,
          gemm_unit::kThreads<kConsumers, kParts, kColumns>,
          gemm_kernel<T, kConsumers, kParts, kColumns, kGated>};
}

#define KADENZ_BOTH(...) instance<__nv_bfloat16, __VA_ARGS__>(), instance<__half, __VA_ARGS__>()
const Instance kInstances[] = {
    KADENZ_BOTH(1, 1, 16),        KADENZ_BOTH(1, 1, 24),        KADENZ_BOTH(1, 1, 32),
    KADENZ_BOTH(1, 1, 40),        KADENZ_BOTH(1, 1, 48),        KADENZ_BOTH(1, 1, 56),
    KADENZ_BOTH(1, 1, 64),        KADENZ_BOTH(1, 1, 96),        KADENZ_BOTH(1, 1, 136),
    KADENZ_BOTH(2, 1, 32),        KADENZ_BOTH(2, 1, 48),        KADENZ_BOTH(2, 1, 64),
    KADENZ_BOTH(2, 1, 72),        KADENZ_BOTH(2, 1, 96),        KADENZ_BOTH(2, 1, 112),
    KADENZ_BOTH(2, 1, 128),       KADENZ_BOTH(2, 1, 136),       KADENZ_BOTH(2, 1, 192),
    KADENZ_BOTH(2, 2, 48),        KADENZ_BOTH(2, 2, 96),        KADENZ_BOTH(2, 2, 136),
    KADENZ_BOTH(2, 2, 192),       KADENZ_BOTH(1, 1, 96, true),  KADENZ_BOTH(1, 1, 72, true),
    KADENZ_BOTH(1, 1, 136, true), KADENZ_BOTH(2, 1, 80, true),  KADENZ_BOTH(2, 1, 136, true),
    KADENZ_BOTH(2, 1, 144, true), KADENZ_BOTH(2, 1, 192, true), KADENZ_BOTH(2, 2, 80, true),
    KADENZ_BOTH(2, 2, 96, true),  KADENZ_BOTH(2, 2, 136, true), KADENZ_BOTH(2, 2, 144, true),
    KADENZ_BOTH(2, 2, 192, true),
};
#undef KADENZ_BOTH

const Instance* find(const GemmArgs& args, const GemmTile& tile) {
  for (const Instance& instance : kInstances) {
    if (instance.dtype == args.dtype && instance.gated == args.gated && instance.rows == tile.rows &&
        instance.columns == tile.columns) {
      return &instance;
    }
  }
  return nullptr;
}

uint32_t stage_bytes(const GemmTile& tile) { return (tile.rows + tile.columns) * gemm_unit::kStepBytes + 16; }
uint32_t shared_bytes(const GemmTile& tile) {
  return gemm_unit::kUnitBytes + tile.stages * stage_bytes(tile);
}

// Nothing links libcuda: its one function that is needed is asked of the driver that the runtime found.
PFN_cuTensorMapEncodeTiled_v12000 look_up_encode() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result),
        "cuTensorMapEncodeTiled");
  if (result != cudaDriverEntryPointSuccess || found == nullptr) {
    throw HostError("device_error",
                    "The NVIDIA driver offers no cuTensorMapEncodeTiled; one of CUDA 12 is needed.");
  }
  return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(found);
}

PFN_cuTensorMapEncodeTiled_v12000 encode_function() {
  static const PFN_cuTensorMapEncodeTiled_v12000 found = look_up_encode();
  return found;
}

// `sizes` and `box` from the innermost dimension on, `strides` in bytes from the second on.
CUtensorMap make_map(Half dtype, const void* data, uint32_t dimensions, const uint64_t* sizes,
                     const uint64_t* strides, const uint32_t* box) {
  const uint32_t ones[] = {1, 1, 1};
  CUtensorMap map = {};
  const CUresult result = encode_function()(
      &map, dtype == Half::kBFloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
      dimensions, const_cast<void*>(data), sizes, strides, box, ones, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    throw HostError("device_error", "cuTensorMapEncodeTiled failed (" + std::to_string(int{result}) + ").");
  }
  return map;
}

CUtensorMap input_map(const GemmArgs& args, uint32_t box_rows) {
  const uint64_t sizes[] = {args.inputs, args.rows};
  const uint64_t strides[] = {uint64_t{args.inputs} * 2};
  const uint32_t box[] = {gemm_unit::kStepInputs, box_rows};
  return make_map(args.dtype, args.input, 2, sizes, strides, box);
}

// Gated: row 2 c of a tile is gate c and row 2 c + 1 up c.
CUtensorMap weight_map(const GemmArgs& args, uint32_t box_rows) {
  const uint64_t row_bytes = uint64_t{args.inputs} * 2;
  if (!args.gated) {
    const uint64_t sizes[] = {args.inputs, args.outputs};
    const uint32_t box[] = {gemm_unit::kStepInputs, box_rows};
    return make_map(args.dtype, args.weight, 2, sizes, &row_bytes, box);
  }
  const uint64_t sizes[] = {args.inputs, 2, args.outputs / 2};
  const uint64_t strides[] = {args.outputs / 2 * row_bytes, row_bytes};
  const uint32_t box[] = {gemm_unit::kStepInputs, 2, box_rows};
  return make_map(args.dtype, args.weight, 3, sizes, strides, box);
}

// Only code for sm_90a has the matrix instruction; what another build makes of the kernels for this GPU is
// empty.
__global__ void tell_whether_built(int* built) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  *built = 1;
#else
  *built = 0;
#endif
}

bool ask_whether_built() {
  int device = 0;
  int major = 0;
  int minor = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "cudaDeviceGetAttribute");
  if (major != 9 || minor != 0) return false;
  int* told = nullptr;
  int built = 0;
  check(cudaMalloc(&told, sizeof(int)), "cudaMalloc");
  tell_whether_built<<<1, 1>>>(told);
  check_launch("tell_whether_built");
  check(cudaMemcpy(&built, told, sizeof(int), cudaMemcpyDeviceToHost), "cudaMemcpy");
  check(cudaFree(told), "cudaFree");
  return built == 1;
}

// False where there is nothing to prepare.
bool prepare() {
  if (!ask_whether_built()) return false;
  encode_function();
  for (const Instance& instance : kInstances) {
    check(
        cudaFuncSetAttribute(instance.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostSharedBytes),
        "cudaFuncSetAttribute(gemm)");
  }
  return true;
}

bool is_prepared() {
  static const bool prepared = prepare();
  return prepared;
}

bool on_sixteen(const void* pointer) { return reinterpret_cast<uint64_t>(pointer) % 16 == 0; }

}  // namespace

bool gemm_takes(const GemmArgs& args) {
  if (!is_prepared()) return false;
  return args.slices > 0 && args.inputs > 0 && args.inputs % (gemm_unit::kStepInputs * args.slices) == 0 &&
         args.outputs > 0 && args.outputs % 8 == 0 && on_sixteen(args.weight) && on_sixteen(args.input) &&
         on_sixteen(args.output) && (args.slices == 1 || !(args.half_output || args.gated)) &&
         (!args.gated || args.half_output);
}

bool gemm_pays(const GemmArgs& args) {
  if (args.gated) return true;  // of many rows as fast as cuBLASLt alone, without the activation's pass
  constexpr uint32_t kMostMeasuredRows = 256;
  constexpr uint32_t kMostLayerOutputs = 8192;  // of qkv, o, down
  constexpr uint32_t kLeastHeadInputs = 3584;   // 5% faster from there on; at 1,536 it was 5% slower
  constexpr uint32_t kLongSlice = 8192;  // cuBLASLt was 7% faster for 9,472 inputs a slice at 128 rows
  if (args.rows > kMostMeasuredRows) return false;
  if (args.outputs > kMostLayerOutputs) return args.rows > 128 && args.inputs >= kLeastHeadInputs;
  return args.rows <= 64 || args.rows > 128 || args.inputs / args.slices <= kLongSlice;
}

void prepare_gemm() { is_prepared(); }

bool gemm_has(const GemmArgs& args, const GemmTile& tile) {
  if (find(args, tile) == nullptr || tile.stages < 3 || shared_bytes(tile) > kMostSharedBytes) return false;
  const uint32_t cluster = tile.cluster_rows * tile.cluster_columns;
  const uint32_t weight_unit = args.gated ? 4 : 8;  // rows of a box that end on a whole unit of the swizzle
  const uint32_t weight_rows = args.gated ? tile.columns / 2 : tile.columns;
  return cluster >= 1 && cluster <= 8 && weight_rows % (weight_unit * tile.cluster_rows) == 0 &&
         tile.rows % (8 * tile.cluster_columns) == 0;
}

// The tile with the fewest cycles of the busiest SM for 16 inputs, as far as a model goes that fits what was
// measured: the matrix units' time, what passes through shared memory (copied in once, read by the matrix
// units: X once, W once for every 64 rows), and the weights' way from memory.
GemmTile gemm_tile(const GemmArgs& args) {
  constexpr uint32_t kClusterSteps = 28;
  const uint32_t steps = args.inputs / args.slices / gemm_unit::kStepInputs;
  GemmTile best;
  uint32_t best_cost = UINT32_MAX;
  for (const Instance& instance : kInstances) {
    if (instance.dtype != args.dtype || instance.gated != args.gated) continue;
    if (instance.rows > 64 && args.rows <= instance.rows / 2) continue;
    const uint32_t row_tiles = divide_up(args.rows, instance.rows);
    const uint32_t blocks = row_tiles * divide_up(args.outputs, instance.columns) * args.slices;
    const uint32_t parts = instance.rows / 64;
    const uint32_t copied_rows = std::min(args.rows, instance.rows);
    constexpr uint32_t kLeastCycles = 40;  // of one instruction in a chain
    const uint32_t matrix = parts * instance.columns / 2;
    const uint32_t shared = (instance.rows + parts * instance.columns + copied_rows + instance.columns) / 4;
    const uint32_t memory = instance.columns * 7 / 4 / std::min(row_tiles, 4U);
    const bool lonely = row_tiles % 2 == 0 && steps >= kClusterSteps && instance.columns % 16 != 0;
    const uint32_t cost = divide_up(blocks, kSms) * std::max({matrix, shared, memory, kLeastCycles}) *
                          (lonely ? 13U : 12U);  // no weights shared with another block: a twelfth slower
    if (cost <= best_cost) {                     // of equals the last of the list: fewer and larger blocks
      best_cost = cost;
      best.rows = instance.rows;
      best.columns = instance.columns;
    }
  }
  const uint32_t row_tiles = divide_up(args.rows, best.rows);
  const uint32_t blocks = row_tiles * divide_up(args.outputs, best.columns) * args.slices;
  // Blocks that share weights, or of large tiles input, save the L2 some work, and lose some time in waiting
  // for one another.
  best.stages = 3;
  best.cluster_rows = 2;
  if (row_tiles % 2 != 0 || steps < kClusterSteps || !gemm_has(args, best)) best.cluster_rows = 1;
  if (best.rows == 256 && best.columns >= 128 && steps < kClusterSteps) best.cluster_columns = 2;
  // Room beside this block: for a second one, or, where few stages do, for one of the next kernel, which then
  // begins early; and in any case for those of a small kernel in front, so that they need not all be over.
  constexpr uint32_t kSmallKernels = 8 << 10;
  const uint32_t own = gemm_unit::kUnitBytes;
  const uint32_t half = (kMostSharedBytes / 2 - 2 * own) / stage_bytes(best);
  const uint32_t most = std::max((kMostSharedBytes - own - kSmallKernels) / stage_bytes(best), 4U);
  const bool share = half >= 4 && (blocks > kSms || (half >= 9 && steps <= 28));
  best.stages =
      std::max(3U, std::min({share ? half : most, steps, (kMostSharedBytes - own) / stage_bytes(best)}));
  return best;
}

void gemm_with(const GemmArgs& args, const GemmTile& tile, bool dependent, cudaStream_t stream) {
  if (args.rows == 0) return;
  if (!gemm_has(args, tile)) std::abort();  // a mistake of ours: the caller asked gemm_takes()
  const Instance& instance = *find(args, tile);
  Problem problem = {};
  problem.output = args.output;
  problem.slice_stride = static_cast<uint64_t>(args.padded_rows) * args.outputs;
  problem.rows = args.rows;
  problem.outputs = args.outputs;
  problem.steps = args.inputs / args.slices / gemm_unit::kStepInputs;
  problem.stages = tile.stages;
  problem.early_steps = std::min(problem.steps, tile.stages);
  problem.cluster_rows = tile.cluster_rows;
  problem.cluster_columns = tile.cluster_columns;
  const uint32_t row_tiles = divide_up(args.rows, tile.rows);
  const uint32_t column_tiles = divide_up(args.outputs, tile.columns);
  problem.row_clusters = divide_up(row_tiles, tile.cluster_rows);
  problem.slice_clusters = problem.row_clusters * divide_up(column_tiles, tile.cluster_columns);
  problem.clusters = problem.slice_clusters * args.slices;
  // Of a tile with few rows only those are copied; what the others hold reaches no row that is stored.
  const uint32_t tile_rows = divide_up(std::min(args.rows, tile.rows), 8) * 8;
  problem.input_box_rows = divide_up(tile_rows, 8 * tile.cluster_columns) * 8;
  problem.input_boxes = divide_up(tile_rows, problem.input_box_rows);
  problem.weight_box_rows = tile.columns / (args.gated ? 2 : 1) / tile.cluster_rows;
  problem.half_output = args.half_output;

  cudaLaunchAttribute attributes[2] = {};
  uint32_t count = 0;
  const uint32_t cluster = tile.cluster_rows * tile.cluster_columns;
  if (cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = cluster;
    attributes[count].val.clusterDim.y = 1;
    attributes[count++].val.clusterDim.z = 1;
  }
  if (dependent) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  cudaLaunchConfig_t config = {};
  // Blocks that fill an SM stay there and take one tile after the other.
  const bool stays = shared_bytes(tile) > kMostSharedBytes / 2;
  config.gridDim = dim3((stays ? std::min(problem.clusters, kSms / cluster) : problem.clusters) * cluster);
  config.blockDim = dim3(instance.threads);
  config.dynamicSmemBytes = shared_bytes(tile);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = count;
  check(cudaLaunchKernelEx(&config, instance.kernel, input_map(args, problem.input_box_rows),
                           weight_map(args, problem.weight_box_rows), problem),
        "cudaLaunchKernelEx");
  check_launch("gemm");
}

void gemm(const GemmArgs& args, cudaStream_t stream) { gemm_with(args, gemm_tile(args), true, stream); }

}  // namespace kadenz::cuda
