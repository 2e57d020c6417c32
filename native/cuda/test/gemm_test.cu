// Our matmul against cuBLASLt's certified algorithms, bit for bit, for every tile, cluster, number of rows
// and output; against a twin in double; and behind kernels that it may overlap.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "cuda/check.h"
#include "cuda/kernels/gemm.h"
#include "cuda/kernels/matmul_probe.h"
#include "cuda/kernels/rows.h"
#include "cuda/matmul.h"
#include "cuda/scratch_memory.h"
#include "random.h"

namespace kadenz::test {
namespace {

using namespace kadenz::cuda;

constexpr uint64_t kGuardBytes = 4096;
constexpr uint32_t kTileRows[] = {64, 128, 256};
constexpr uint32_t kMostColumns = 192;

std::string words(const GemmArgs& args) {
  return std::to_string(args.rows) + " rows x " + std::to_string(args.outputs) + " outputs x " +
         std::to_string(args.inputs) + " inputs in " + std::to_string(args.slices) + " slices, " +
         (args.dtype == Half::kBFloat16 ? "bfloat16" : "float16") + (args.gated ? ", gated" : "") +
         (args.half_output ? ", Half" : ", float32") + ", seed " + std::to_string(base_seed());
}

std::string words(const GemmTile& tile) {
  return "tile " + std::to_string(tile.rows) + " x " + std::to_string(tile.columns) + ", cluster " +
         std::to_string(tile.cluster_rows) + " x " + std::to_string(tile.cluster_columns) + ", " +
         std::to_string(tile.stages) + " stages";
}

uint64_t output_bytes(const GemmArgs& args) {
  if (args.gated) return uint64_t{args.rows} * args.outputs;
  const uint64_t one = uint64_t{args.slices > 1 ? args.padded_rows : args.rows} * args.outputs;
  return args.half_output ? one * 2 : one * 4 * args.slices;
}

// Operands of a shape, the output that cuBLASLt gives, and a poisoned one for ours.
struct World {
  GemmArgs args;
  ScratchMemory weight, input, output, reference;
  std::vector<uint8_t> expected;

  World(GemmArgs shape, uint64_t seed)
      : args(shape),
        weight(uint64_t{shape.outputs} * shape.inputs * 2),
        input(uint64_t{Matmul::padded_rows(shape.rows)} * shape.inputs * 2),
        output(uint64_t{Matmul::padded_rows(shape.rows)} * shape.outputs * 4 * shape.slices + kGuardBytes),
        reference(uint64_t{Matmul::padded_rows(shape.rows)} * shape.outputs * 4 * shape.slices) {
    args.weight = weight.get();
    args.input = input.get();
    args.output = output.get();
    args.padded_rows = Matmul::padded_rows(args.rows);
    fill_operand(args.dtype, weight.get(), uint64_t{args.outputs} * args.inputs, base_seed() + seed, nullptr);
    fill_operand(args.dtype, input.get(), uint64_t{args.padded_rows} * args.inputs, base_seed() + seed + 1,
                 nullptr);
    expected = expect();
  }

  std::vector<uint8_t> expect() {
    const ScratchMemory workspace(Matmul::kWorkspaceBytes);
    Matmul matmul(args.dtype, Matmul::kWorkspaceBytes, workspace.get());
    matmul.set_slices(args.slices);
    const MatmulOutput kind = args.half_output ? MatmulOutput::kHalf : MatmulOutput::kFloat32;
    EXPECT_NOTE(!matmul.uses_plain_kernel(args.outputs, args.inputs, kind), words(args));
    matmul.run(weight.get(), input.get(), args.rows, args.outputs, args.inputs,
               args.gated ? output.get() : reference.get(), kind, nullptr);
    if (args.gated) {
      silu_mul(args.dtype, output.get(), false, nullptr, args.rows, args.outputs / 2, reference.get(),
               nullptr);
    }
    std::vector<uint8_t> bytes(output_bytes(args));
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    check(cudaMemcpy(bytes.data(), reference.get(), bytes.size(), cudaMemcpyDeviceToHost), "cudaMemcpy");
    return bytes;
  }

  std::vector<uint8_t> run(const GemmTile* tile) const {
    check(cudaMemset(output.get(), 0xFF, output.bytes()), "cudaMemset");
    if (tile == nullptr) {
      gemm(args, nullptr);
    } else {
      gemm_with(args, *tile, true, nullptr);
    }
    const std::string note = words(args) + (tile == nullptr ? "" : ", " + words(*tile));
    check(cudaDeviceSynchronize(), note.c_str());
    std::vector<uint8_t> all(output_bytes(args) + kGuardBytes);
    check(cudaMemcpy(all.data(), output.get(), all.size(), cudaMemcpyDeviceToHost), "cudaMemcpy");
    for (uint64_t i = output_bytes(args); i < all.size(); ++i) {
      EXPECT_NOTE(all[i] == 0xFF, "guard byte " + std::to_string(i - output_bytes(args)) + ": " + note);
    }
    all.resize(output_bytes(args));
    return all;
  }

  void expect_equal(const GemmTile* tile) const {
    const std::vector<uint8_t> got = run(tile);
    const uint64_t element = args.half_output ? 2 : 4;
    const uint64_t columns = args.gated ? args.outputs / 2 : args.outputs;
    const uint64_t rows = args.slices > 1 ? args.padded_rows : args.rows;
    for (uint64_t slice = 0; slice < args.slices; ++slice) {
      const uint64_t first = slice * rows * columns * element;
      if (std::memcmp(&got[first], &expected[first], args.rows * columns * element) == 0) continue;
      for (uint64_t i = 0; i < args.rows * columns; ++i) {
        uint32_t mine = 0;
        uint32_t theirs = 0;
        std::memcpy(&mine, &got[first + i * element], element);
        std::memcpy(&theirs, &expected[first + i * element], element);
        EXPECT_NOTE(mine == theirs, "slice " + std::to_string(slice) + " row " + std::to_string(i / columns) +
                                        " output " + std::to_string(i % columns) + " got bits " +
                                        std::to_string(mine) + " expected " + std::to_string(theirs) + ": " +
                                        words(args) + (tile == nullptr ? "" : ", " + words(*tile)));
      }
    }
  }
};

GemmArgs shape(Half dtype, uint32_t rows, uint32_t outputs, uint32_t inputs, uint32_t slices = 1,
               bool half_output = false, bool gated = false) {
  GemmArgs args;
  args.dtype = dtype;
  args.rows = rows;
  args.outputs = outputs;
  args.inputs = inputs;
  args.slices = slices;
  args.half_output = half_output;
  args.gated = gated;
  return args;
}

// Every tile that there is, with every cluster, the fewest stages and a middling number of them.
template <class Visit>
uint32_t for_each_tile(const GemmArgs& args, const Visit& visit) {
  uint32_t tiles = 0;
  for (const uint32_t rows : kTileRows) {
    for (uint32_t columns = 8; columns <= kMostColumns; columns += 8) {
      for (const uint32_t cluster_rows : {1U, 2U, 4U}) {
        for (const uint32_t cluster_columns : {1U, 2U, 4U}) {
          for (const uint32_t stages : {3U, 5U}) {
            const GemmTile tile{rows, columns, cluster_rows, cluster_columns, stages};
            if (!gemm_has(args, tile)) continue;
            visit(tile);
            ++tiles;
          }
        }
      }
    }
  }
  return tiles;
}

TEST("our matmul has cuBLASLt's bits with every tile and cluster") {
  prepare_gemm();
  for (const Half dtype : {Half::kBFloat16, Half::kFloat16}) {
    for (const GemmArgs& args :
         {shape(dtype, 300, 1000, 512), shape(dtype, 77, 136, 1024, 4), shape(dtype, 256, 264, 320, 1, true),
          shape(dtype, 300, 1040, 512, 1, true, true), shape(dtype, 5, 272, 448, 1, true, true)}) {
      const World world(args, 11);
      EXPECT(gemm_takes(world.args));
      const uint32_t tiles =
          for_each_tile(world.args, [&](const GemmTile& tile) { world.expect_equal(&tile); });
      EXPECT_NOTE(tiles >= 50, std::to_string(tiles));
    }
  }
}

TEST("our matmul has cuBLASLt's bits for shapes of real models, whatever the number of rows") {
  prepare_gemm();
  for (const uint32_t rows : {1U, 2U, 7U, 8U, 9U, 63U, 64U, 65U, 100U, 128U, 200U, 256U, 1000U}) {
    for (const GemmArgs& args :
         {shape(Half::kBFloat16, rows, 1152, 896), shape(Half::kBFloat16, rows, 2048, 1536),
          shape(Half::kFloat16, rows, 1536, 1536),
          shape(Half::kBFloat16, rows, 896, 4864, rows > 512 ? 1 : 2),
          shape(Half::kBFloat16, rows, 9728, 896, 1, true, true),
          shape(Half::kFloat16, rows, 9728, 896, 1, true)}) {
      World(args, 21).expect_equal(nullptr);
    }
  }
}

TEST("our matmul has cuBLASLt's bits where a block takes one tile after the other") {
  prepare_gemm();
  for (const GemmArgs& args :
       {shape(Half::kBFloat16, 1100, 12008, 448), shape(Half::kBFloat16, 1100, 24000, 512, 1, true, true),
        shape(Half::kFloat16, 500, 6000, 1280, 4), shape(Half::kBFloat16, 1100, 24000, 64, 1, true, true)}) {
    const World world(args, 71);
    uint32_t tiles = 0;
    for_each_tile(world.args, [&](const GemmTile& tile) {
      if (tile.rows < 128 || tile.columns < 112 || tile.stages * (tile.rows + tile.columns) < 908) return;
      world.expect_equal(&tile);
      ++tiles;
    });
    EXPECT_NOTE(tiles >= 15, std::to_string(tiles));
  }
}

TEST("our matmul is near its twin in double") {
  prepare_gemm();
  const World world(shape(Half::kBFloat16, 33, 72, 1536), 31);
  const std::vector<uint8_t> bytes = world.run(nullptr);
  std::vector<float> got(bytes.size() / 4);
  std::memcpy(got.data(), bytes.data(), bytes.size());
  const auto read = [](const ScratchMemory& memory, uint64_t count) {
    std::vector<__nv_bfloat16> values(count);
    check(cudaMemcpy(values.data(), memory.get(), count * 2, cudaMemcpyDeviceToHost), "cudaMemcpy");
    return values;
  };
  const GemmArgs& args = world.args;
  const auto weight = read(world.weight, uint64_t{args.outputs} * args.inputs);
  const auto input = read(world.input, uint64_t{args.rows} * args.inputs);
  double error = 0.0;
  double size = 0.0;
  for (uint32_t row = 0; row < args.rows; ++row) {
    for (uint32_t n = 0; n < args.outputs; ++n) {
      double expected = 0.0;
      for (uint32_t k = 0; k < args.inputs; ++k) {
        expected += double{__bfloat162float(input[row * args.inputs + k])} *
                    double{__bfloat162float(weight[n * args.inputs + k])};
      }
      const double difference = got[row * args.outputs + n] - expected;
      error += difference * difference;
      size += expected * expected;
    }
  }
  const double relative = std::sqrt(error / size);
  EXPECT_NOTE(relative < 1e-4, std::to_string(relative));  // NaN fails
}

TEST("our matmul waits for the kernel that makes its input, launch after launch, in a graph too") {
  prepare_gemm();
  constexpr uint32_t kInner = 8960;
  constexpr uint32_t kHidden = 1536;
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  for (const uint32_t rows : {8U, 256U}) {
    const World up(shape(Half::kBFloat16, rows, 2 * kInner, kHidden, 1, true, true), 41);
    World down(shape(Half::kBFloat16, rows, kHidden, kInner, 2), 51);
    GemmArgs second = down.args;
    second.input = up.output.get();  // what the first one makes
    const auto both = [&](bool apart) {
      gemm(up.args, stream);
      if (apart) check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
      gemm(second, stream);
      if (apart) check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    };
    const uint64_t bytes = output_bytes(second);
    check(cudaMemset(second.output, 0, bytes), "cudaMemset");
    both(true);
    std::vector<uint8_t> expected(bytes);
    check(cudaMemcpy(expected.data(), second.output, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    check(cudaMemsetAsync(second.output, 0, bytes, stream), "cudaMemsetAsync");
    check(cudaMemsetAsync(up.output.get(), 0xFF, up.output.bytes(), stream), "cudaMemsetAsync");
    for (int i = 0; i < 3; ++i) both(false);
    check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
    for (int i = 0; i < 20; ++i) {
      check(cudaGraphLaunch(executable, stream), "cudaGraphLaunch");
      check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
      std::vector<uint8_t> got(bytes);
      check(cudaMemcpy(got.data(), second.output, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
      EXPECT_NOTE(got == expected, "replay " + std::to_string(i) + " of " + words(second));
    }
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
  }
  cudaStreamDestroy(stream);
}

TEST("our matmul leaves shapes to cuBLASLt that its tiles do not fit") {
  prepare_gemm();
  const World world(shape(Half::kBFloat16, 8, 64, 256), 61);
  EXPECT(gemm_takes(world.args));
  GemmArgs args = world.args;
  args.inputs = 248;
  EXPECT(!gemm_takes(args));
  args = world.args;
  args.slices = 8;  // of 32 inputs
  EXPECT(!gemm_takes(args));
  args = world.args;
  args.outputs = 60;
  EXPECT(!gemm_takes(args));
  args = world.args;
  args.input = static_cast<const uint8_t*>(args.input) + 2;
  EXPECT(!gemm_takes(args));
  args = world.args;
  args.slices = 2;
  args.half_output = true;
  EXPECT(!gemm_takes(args));
  args = world.args;
  args.gated = true;  // which rounds, and is not asked to
  args.half_output = false;
  EXPECT(!gemm_takes(args));
}

}  // namespace
}  // namespace kadenz::test
