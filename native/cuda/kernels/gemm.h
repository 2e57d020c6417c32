// Our own matmul on Hopper, for decode and for gate_up of any number of rows: Y[r][n] = sum over k of X[r][k]
// W[n][k], X and W row-major Half, sums in float32. It stands beside cuBLASLt because it takes part in
// programmatic dependent launch (its weights are on their way before the kernel in front of it has ended), fits
// its tiles to the GPU's size, and makes gate_up's activation before anything is written.
//
// Bits: an output of a slice is one accumulator that takes its products in steps of 16 inputs, in order.
// Tiles, clusters, stages and rows never change it, and they are the bits of cuBLASLt's certified algorithms.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/half.h"

namespace kadenz::cuda {

struct GemmArgs {
  Half dtype = Half::kBFloat16;
  const void* weight = nullptr;  // [outputs][inputs]; gated: [gate; up], outputs / 2 rows each
  const void* input = nullptr;   // [rows][inputs]
  uint32_t rows = 0;
  uint32_t padded_rows = 0;  // partial s begins at output + s * padded_rows * outputs floats
  uint32_t outputs = 0;      // rows of the weight
  uint32_t inputs = 0;
  uint32_t slices = 1;       // equal parts of the inputs, each summed on its own; more than one: float32 only
  void* output = nullptr;    // [slices][padded_rows][outputs]; gated: [rows][outputs / 2]
  bool half_output = false;  // rounded once
  bool gated = false;        // Half(silu(Half(gate)) * Half(up)): the bits of a Half output and silu_mul
};

// How a launch is cut; every choice has the same bits.
struct GemmTile {
  uint32_t rows = 0;             // of a block: 64, 128 or 256
  uint32_t columns = 0;          // of a block, of the weight's rows: 16 .. 192
  uint32_t cluster_rows = 1;     // blocks that share their weights
  uint32_t cluster_columns = 1;  // blocks that share their input
  uint32_t stages = 4;           // of 64 inputs; at least 3
};

// Whether this GPU and build can run it: Hopper, slices of whole 64 inputs, operands on 16 bytes.
bool gemm_takes(const GemmArgs& args);
// Whether it is faster than cuBLASLt there, where measured. Bits are equal either way.
bool gemm_pays(const GemmArgs& args);
// At start: asks the device what it has and waits for it. The first gemm_takes() does it otherwise, which
// must not happen while a stream is captured. One device a process.
void prepare_gemm();
// May be captured. Rows from args.rows on are neither read nor written.
void gemm(const GemmArgs& args, cudaStream_t stream);

// The tile that gemm() takes, and a launch with another one, for tests and the benchmark.
GemmTile gemm_tile(const GemmArgs& args);
bool gemm_has(const GemmArgs& args, const GemmTile& tile);
void gemm_with(const GemmArgs& args, const GemmTile& tile, bool dependent, cudaStream_t stream);

}  // namespace kadenz::cuda
