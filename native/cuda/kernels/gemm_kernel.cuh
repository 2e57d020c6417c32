// The kernel behind gemm(). A block makes kConsumers * kParts * 64 rows of kColumns outputs of one slice. Two
// warps copy tiles of 64 inputs into a ring of stages, one of X and one of W; each consumer warpgroup
// multiplies its rows of them. Blocks of a cluster that share rows or columns copy a part each and send it to
// one another. Where there are more tiles than the GPU takes at once, a cluster goes from tile to tile: the
// ring goes on filling while the sums of the last tile are stored.
//
// Weights are copied before the wait for the kernel in front: no kernel of a step writes them. The last turn
// of the ring is not handed back: nobody waits for it, and so no block is signalled after it has ended.
#pragma once

#include "cuda/kernels/dependent_launch.cuh"
#include "cuda/kernels/gemm_copy.cuh"
#include "cuda/kernels/gemm_gated.cuh"
#include "cuda/kernels/gemm_matrix.cuh"
#include "cuda/kernels/rows_units.cuh"

namespace kadenz::cuda::gemm_unit {

constexpr uint32_t kStepInputs = 64;  // 128 bytes of a row: the width of the swizzle
constexpr uint32_t kStepBytes = kStepInputs * 2;
constexpr uint32_t kUnitBytes = 1024;  // 8 rows; tiles begin on whole units

struct Problem {
  void* output;
  uint64_t slice_stride;  // in floats
  uint32_t rows;
  uint32_t outputs;
  uint32_t steps;  // of 64 inputs, in one slice
  uint32_t stages;
  uint32_t early_steps;  // copied before the next kernel may start
  uint32_t cluster_rows, cluster_columns;
  uint32_t row_clusters;    // tiles of a cluster along the rows
  uint32_t slice_clusters;  // of one slice
  uint32_t clusters;        // of all slices
  uint32_t input_box_rows;  // what one block copies of the tile of X that its cluster shares
  uint32_t input_boxes;
  uint32_t weight_box_rows;  // and of W's; gated: pairs of a row of gate and a row of up
  bool half_output;
};

// Where a block stands in its cluster, and which tiles are its cluster's: each `stride`th from the first on.
struct Place {
  uint32_t rank, row_rank, column_rank;
  uint32_t first, stride;

  __device__ explicit Place(const Problem& problem) {
    const uint32_t size = problem.cluster_rows * problem.cluster_columns;
    first = blockIdx.x / size;
    stride = gridDim.x / size;
    rank = blockIdx.x - first * size;
    column_rank = rank / problem.cluster_rows;
    row_rank = rank - column_rank * problem.cluster_rows;
  }
  __device__ uint32_t tiles(const Problem& problem) const {
    return (problem.clusters - first + stride - 1) / stride;
  }
};

struct Tile {
  uint32_t slice, row, column;  // row and column in tiles

  __device__ Tile(const Problem& problem, const Place& place, uint32_t cluster) {
    slice = cluster / problem.slice_clusters;
    const uint32_t in_slice = cluster - slice * problem.slice_clusters;
    const uint32_t cluster_column = in_slice / problem.row_clusters;
    const uint32_t cluster_row = in_slice - cluster_column * problem.row_clusters;
    row = cluster_row * problem.cluster_rows + place.row_rank;
    column = cluster_column * problem.cluster_columns + place.column_rank;
  }
};

// The ring in shared memory: for each stage a tile of X and one of W; then their barriers.
template <int kTileRows, int kColumns>
struct Ring {
  static constexpr uint32_t kInputBytes = kTileRows * kStepBytes;
  static constexpr uint32_t kStageBytes = kInputBytes + kColumns * kStepBytes;
  uint32_t base, stages;

  __device__ uint32_t input(uint32_t stage) const { return base + stage * kStageBytes; }
  __device__ uint32_t weight(uint32_t stage) const { return input(stage) + kInputBytes; }
  __device__ uint32_t full(uint32_t stage) const { return base + stages * kStageBytes + stage * 16; }
  __device__ uint32_t empty(uint32_t stage) const { return full(stage) + 8; }
};

// Walks the ring on the producers' side: waits until the stage of a step is free.
struct FreeStage {
  uint32_t stage = 0;
  uint32_t parity = 1;  // of the turn before the first one, which is over

  template <class Ring>
  __device__ __forceinline__ void wait(const Ring& ring) const {
    wait_for(ring.empty(stage), parity);
  }
  __device__ __forceinline__ void advance(uint32_t stages) {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// One thread. Does not wait for the kernel in front: no kernel of a step writes weights.
template <int kColumns, bool kGated, class Ring>
__device__ __forceinline__ void produce_weights(const Problem& problem, const Place& place, const Ring& ring,
                                                const CUtensorMap* map) {
  const uint32_t shared_by = problem.cluster_rows;
  const uint16_t mask =
      shared_by == 1 ? 0 : static_cast<uint16_t>(((1U << shared_by) - 1) << (place.column_rank * shared_by));
  const uint32_t first_row = place.row_rank * problem.weight_box_rows;
  const uint32_t offset = first_row * (kGated ? 2 : 1) * kStepBytes;
  FreeStage free;
  for (uint32_t cluster = place.first; cluster < problem.clusters; cluster += place.stride) {
    const Tile tile(problem, place, cluster);
    const uint32_t row = tile.column * (kGated ? kColumns / 2 : kColumns) + first_row;
    uint32_t input = tile.slice * problem.steps * kStepInputs;
    for (uint32_t step = 0; step < problem.steps; ++step) {
      free.wait(ring);
      const uint32_t barrier = ring.full(free.stage);
      expect_bytes(barrier, kColumns * kStepBytes);
      if constexpr (kGated) {
        copy_tile(ring.weight(free.stage) + offset, map, barrier, mask, input, 0, row);
      } else {
        copy_tile(ring.weight(free.stage) + offset, map, barrier, mask, input, row);
      }
      input += kStepInputs;
      free.advance(problem.stages);
    }
  }
}

// One thread.
template <int kTileRows, class Ring>
__device__ __forceinline__ void produce_input(const Problem& problem, const Place& place, const Ring& ring,
                                              const CUtensorMap* map) {
  uint32_t mask = 0;
  if (problem.cluster_columns > 1) {
    for (uint32_t i = 0; i < problem.cluster_columns; ++i) {
      mask |= 1U << (i * problem.cluster_rows + place.row_rank);
    }
  }
  const bool copies = place.column_rank < problem.input_boxes;
  const uint32_t first_row = place.column_rank * problem.input_box_rows;
  const uint32_t bytes = problem.input_boxes * problem.input_box_rows * kStepBytes;
  FreeStage free;
  wait_for_previous_kernel();
  for (uint32_t cluster = place.first; cluster < problem.clusters; cluster += place.stride) {
    const Tile tile(problem, place, cluster);
    const bool is_last = cluster + place.stride >= problem.clusters;
    const uint32_t row = tile.row * kTileRows + first_row;
    uint32_t input = tile.slice * problem.steps * kStepInputs;
    for (uint32_t step = 0; step < problem.steps; ++step) {
      free.wait(ring);
      const uint32_t barrier = ring.full(free.stage);
      expect_bytes(barrier, bytes);
      if (copies) {
        copy_tile(ring.input(free.stage) + first_row * kStepBytes, map, barrier, static_cast<uint16_t>(mask),
                  input, row);
      }
      if (is_last && step + 1 == problem.early_steps) let_next_kernel_start();
      input += kStepInputs;
      free.advance(problem.stages);
    }
  }
}

// Four values of a thread, one of each of four groups of 4 columns of which the thread's place in its quad
// picks one; after: the four columns of the group that the place picks.
template <class T>
__device__ __forceinline__ uint2 turn_quad(float a, float b, float c, float d, uint32_t place) {
  const uint32_t first = pack_pair<T>(a, b);
  const uint32_t second = pack_pair<T>(c, d);
  const bool upper = place >= 2;
  const uint32_t far = __shfl_xor_sync(~0U, upper ? first : second, 2);
  const uint32_t low = upper ? far : first;
  const uint32_t high = upper ? second : far;
  const bool odd = (place & 1) != 0;
  const uint32_t firsts = __byte_perm(low, high, 0x5410);
  const uint32_t seconds = __byte_perm(low, high, 0x7632);
  const uint32_t mine = odd ? seconds : firsts;
  const uint32_t theirs = __shfl_xor_sync(~0U, odd ? firsts : seconds, 1);
  const uint32_t even_columns = odd ? theirs : mine;
  const uint32_t odd_columns = odd ? mine : theirs;
  return make_uint2(__byte_perm(even_columns, odd_columns, 0x5410),
                    __byte_perm(even_columns, odd_columns, 0x7632));
}

// Rounded as a pair: a conversion of one alone takes the unit that the exponential and the division need.
template <class T>
__device__ __forceinline__ float gated_rounded(float gate, float up) {
  const float2 rounded = unpack_pair<T>(pack_pair<T>(gate, up));
  return gated_unit(rounded.x, rounded.y);
}

// Columns alternate between gate and up, so that a thread holds the two of an output.
template <class T, int kColumns>
__device__ __forceinline__ void store_gated(const Problem& problem, const Tile& tile,
                                            const float (&sums)[kColumns / 2], uint32_t row, int half,
                                            uint32_t quad_place) {
  constexpr int kGroups = kColumns / 8;
  const uint32_t inner = problem.outputs / 2;
  const uint32_t first = tile.column * (kColumns / 2);
  T* output = static_cast<T*>(problem.output) + static_cast<uint64_t>(row) * inner;
  const auto value = [&](int group) {
    return gated_rounded<T>(sums[4 * group + 2 * half], sums[4 * group + 2 * half + 1]);
  };
#pragma unroll
  for (int group = 0; group + 4 <= kGroups; group += 4) {
    const uint2 four =
        turn_quad<T>(value(group), value(group + 1), value(group + 2), value(group + 3), quad_place);
    const uint32_t column = first + 4 * (group + quad_place);
    if (row < problem.rows && column < inner) *reinterpret_cast<uint2*>(output + column) = four;
  }
#pragma unroll
  for (int group = kGroups / 4 * 4; group < kGroups; ++group) {
    const uint32_t column = first + 4 * group + quad_place;
    const uint32_t pair = pack_pair<T>(value(group), 0.0F);
    if (row < problem.rows && column < inner) {
      *reinterpret_cast<uint16_t*>(output + column) = static_cast<uint16_t>(pair);
    }
  }
}

template <class T, int kColumns>
__device__ __forceinline__ void store_sums(const Problem& problem, const Tile& tile,
                                           const float (&sums)[kColumns / 2], uint32_t row, int half,
                                           uint32_t quad_place) {
  if (row >= problem.rows) return;
  const uint64_t offset = static_cast<uint64_t>(row) * problem.outputs;
  const uint32_t first = tile.column * kColumns + 2 * quad_place;
  T* rounded = static_cast<T*>(problem.output) + offset;
  float* exact = static_cast<float*>(problem.output) + tile.slice * problem.slice_stride + offset;
#pragma unroll
  for (int group = 0; group < kColumns / 8; ++group) {
    const uint32_t column = first + 8 * group;
    if (column >= problem.outputs) break;
    const float low = sums[4 * group + 2 * half];
    const float high = sums[4 * group + 2 * half + 1];
    if (problem.half_output) {
      *reinterpret_cast<uint32_t*>(rounded + column) = pack_pair<T>(low, high);
    } else {
      *reinterpret_cast<float2*>(exact + column) = make_float2(low, high);
    }
  }
}

template <class T, int kConsumers, int kParts, int kColumns, bool kGated>
__device__ __forceinline__ void consume(const Problem& problem, const Place& place,
                                        const Ring<kConsumers * kParts * 64, kColumns>& ring, uint32_t warp,
                                        uint32_t lane) {
  // Steps in flight: of small tiles a second one, because issuing a step takes longer than the tile's matrix
  // work.
  constexpr uint32_t kPending = kParts * kColumns <= 96 ? 2 : 1;
  const uint32_t group = warp / 4;
  float sums[kParts][kColumns / 2];
  // The blocks that send to this one, and this itself: those of its row and of its column.
  const uint32_t lane_column = lane / problem.cluster_rows;
  const bool releases =
      lane < problem.cluster_rows * problem.cluster_columns &&
      (lane_column == place.column_rank || lane - lane_column * problem.cluster_rows == place.row_rank);
  const uint32_t remote_empty = address_in(ring.empty(0), releases ? lane : place.rank);
  const uint64_t input = describe_tile(ring.input(0) + group * (kParts * 64 * kStepBytes));
  const uint64_t weight = describe_tile(ring.weight(0));
  uint32_t stage = 0;
  uint32_t parity = 0;
  uint32_t released = 0;  // the next stage to hand back
  const uint32_t all_steps = place.tiles(problem) * problem.steps;
  uint32_t to_release = all_steps > problem.stages ? all_steps - problem.stages : 0;
  const auto release = [&] {
    if (to_release == 0) return;
    --to_release;
    if (releases) arrive_in_cluster(remote_empty + released * 16);
    if (++released == problem.stages) released = 0;
  };
  for (uint32_t cluster = place.first; cluster < problem.clusters; cluster += place.stride) {
    for (uint32_t step = 0; step < problem.steps; ++step) {
      const uint64_t offset = stage * (ring.kStageBytes >> 4);
      wait_for(ring.full(stage), parity);
      begin_matrix();
#pragma unroll
      for (int k = 0; k < 4; ++k) {  // 16 inputs: 32 bytes, 2 in a description
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          multiply<T, kColumns>(sums[part], input + offset + (part * (64 * kStepBytes >> 4) + 2 * k),
                                weight + offset + 2 * k, k > 0 || step > 0 ? 1 : 0);
        }
      }
      commit_matrix();
      wait_for_matrix<kPending>();
      if (step >= kPending) release();
      if (++stage == problem.stages) {
        stage = 0;
        parity ^= 1;
      }
    }
    wait_for_matrix<0>();
#pragma unroll
    for (int part = 0; part < kParts; ++part) settle_sums(sums[part]);
    for (uint32_t i = 0; i < min(kPending, problem.steps); ++i) release();
    wait_for_previous_kernel();  // long over: X came after it
    const Tile tile(problem, place, cluster);
    const uint32_t first_row = tile.row * (kConsumers * kParts * 64) + group * (kParts * 64);
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t row = first_row + part * 64 + (warp % 4) * 16 + half * 8 + lane / 4;
        if constexpr (kGated) {
          store_gated<T, kColumns>(problem, tile, sums[part], row, half, lane % 4);
        } else {
          store_sums<T, kColumns>(problem, tile, sums[part], row, half, lane % 4);
        }
      }
    }
  }
}

// Above this many sums a thread, consumers take over registers that the copying warps leave. Registers change
// hands by whole warpgroups, so that two more warps come along, which do nothing else.
template <int kParts, int kColumns>
constexpr bool kTradesRegisters = kParts * kColumns / 2 > 136;
template <int kConsumers, int kParts, int kColumns>
constexpr int kThreads = kConsumers * 128 + (kTradesRegisters<kParts, kColumns> ? 128 : 64);

template <class T, int kConsumers, int kParts, int kColumns, bool kGated>
__global__ void __launch_bounds__(kThreads<kConsumers, kParts, kColumns>, 1)
    gemm_kernel(const __grid_constant__ CUtensorMap input, const __grid_constant__ CUtensorMap weight,
                const __grid_constant__ Problem problem) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  constexpr int kTileRows = kConsumers * kParts * 64;
  extern __shared__ uint8_t memory[];
  const Ring<kTileRows, kColumns> ring{(shared_address(memory) + kUnitBytes - 1) & ~(kUnitBytes - 1),
                                       problem.stages};
  const Place place(problem);
  const uint32_t warp = __shfl_sync(~0U, threadIdx.x / 32, 0);
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t cluster_size = problem.cluster_rows * problem.cluster_columns;
  if (warp == kConsumers * 4 && is_elected()) {
    prefetch_map(&weight);
    prefetch_map(&input);
    const uint32_t releases = kConsumers * 4 * (problem.cluster_rows + problem.cluster_columns - 1);
    for (uint32_t stage = 0; stage < problem.stages; ++stage) {
      init_barrier(ring.full(stage), 2);
      init_barrier(ring.empty(stage), releases);
    }
    publish_barriers();
  }
  __syncthreads();
  if (cluster_size > 1) sync_cluster();
  constexpr bool kTrades = kTradesRegisters<kParts, kColumns>;
  if (warp >= kConsumers * 4) {
    if constexpr (kTrades) asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (warp == kConsumers * 4) {
      if (is_elected()) produce_weights<kColumns, kGated>(problem, place, ring, &weight);
    } else if (warp == kConsumers * 4 + 1) {
      if (is_elected()) produce_input<kTileRows>(problem, place, ring, &input);
    }
  } else {
    if constexpr (kTrades) asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    consume<T, kConsumers, kParts, kColumns, kGated>(problem, place, ring, warp, lane);
  }
#endif
}

}  // namespace kadenz::cuda::gemm_unit
