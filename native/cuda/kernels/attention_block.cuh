// The block kernel: prefill. One block of kWarps warps takes 16 * kWarps packed rows of one (sequence,
// key-value head), each warp 16 of them, and walks all tiles that any of its rows sees; keys and values pass
// through a ring of kStages tiles that all warps share. Both accumulators (chunk and total) stay in
// registers, and of q the first kHeld steps of 16 halves: as many as leave nothing to spill.
//
// A warp whose rows see nothing of a tile leaves it out; a tile that all of them see whole is not masked.
#pragma once

#include "cuda/kernels/attention_tiles.cuh"
#include "cuda/kernels/dependent_launch.cuh"

namespace kadenz::cuda::attention {

template <int kD, int kWarps, int kStages>
struct BlockShared {
  static constexpr int kTileBytes = kTile * kD * 2;
  static constexpr int kQueryBytes = 16 * kWarps * kD * 2;
  static constexpr int kBytes = kQueryBytes + kStages * 2 * kTileBytes;
};

template <class T, int kD, int kWarps, int kStages, int kHeld>
__global__ void __launch_bounds__(kWarps * 32, 8 / kWarps)
    block_kernel(const __grid_constant__ Problem problem) {
  using Shared = BlockShared<kD, kWarps, kStages>;
  constexpr int kThreads = kWarps * 32;
  constexpr int kRows = kWarps * 16;
  constexpr int kColumns = kD / 8;
  constexpr int kParts = kAttentionBlockRows / kRows;  // blocks that share an item
  extern __shared__ __align__(1024) char shared[];
  wait_for_previous_kernel();
  let_next_kernel_start();

  const uint32_t pair = blockIdx.x / kParts;
  const BlockItem item = problem.block_items[pair / problem.num_kv_heads];
  const int32_t kv_head = pair % problem.num_kv_heads;
  const AttentionSequence sequence = problem.sequences[item.sequence];
  const int32_t group = problem.group;
  const int32_t num_packed_rows = sequence.num_rows * group;
  // Parts of one item run from the last rows to the first: the heaviest begins first.
  const int32_t first_packed_row = item.first_packed_row + (kParts - 1 - blockIdx.x % kParts) * kRows;
  if (first_packed_row >= num_packed_rows) return;
  const int32_t last_packed_row = min(first_packed_row + kRows, num_packed_rows) - 1;
  const int32_t low = first_visible(sequence.start_position + first_packed_row / group, problem.window);
  const int32_t end = sequence.start_position + last_packed_row / group + 1;
  const int32_t first_tile = low / kTile;
  const int32_t end_tile = (end + kTile - 1) / kTile;

  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x & 31;
  const uint32_t query = shared_address(shared);
  const uint32_t ring = query + Shared::kQueryBytes;
  const char* head = problem.cache + static_cast<uint64_t>(kv_head) * problem.cache_head_bytes;

  // What this warp's rows see. Rows past the end stand in for the last one; nobody reads them.
  const int32_t warp_packed_row = first_packed_row + warp * 16;
  int32_t row_positions[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    row_positions[half] =
        sequence.start_position + min(warp_packed_row + lane / 4 + 8 * half, last_packed_row) / group;
  }
  const int32_t warp_first = sequence.start_position + min(warp_packed_row, last_packed_row) / group;
  const int32_t warp_last =
      warp_packed_row > last_packed_row  // no rows at all: sees nothing
          ? -1
          : sequence.start_position + min(warp_packed_row + 15, last_packed_row) / group;

  int32_t table = 0;
  int32_t table_ahead = load_table(problem, sequence.slot, first_tile / kChunkTiles, low, end, lane);
  const auto fill = [&](int stage, int32_t tile) {
    if (tile < end_tile) {
      if (tile == first_tile || tile % kChunkTiles == 0) {
        table = table_ahead;
        table_ahead = load_table(problem, sequence.slot, tile / kChunkTiles + 1, low, end, lane);
      }
      const uint32_t keys = ring + stage * 2 * Shared::kTileBytes;
      copy_tile<kD, kThreads>(problem, keys, keys + Shared::kTileBytes, head, table, tile, low, end);
    }
    commit_copies();
  };

  copy_query<kD, kThreads, kRows>(problem, query, sequence.first_row, first_packed_row, num_packed_rows,
                                  kv_head);
#pragma unroll
  for (int stage = 0; stage < kStages - 1; ++stage) fill(stage, first_tile + stage);

  Query<kD, kHeld> q;
  float acc[kColumns][4];
  float total[kColumns][4];
  Statistics statistics;
  Statistics total_statistics;
  statistics.clear();
  total_statistics.clear();
  clear(acc);
  clear(total);
  const uint32_t key_lane = units_first<kD>(lane);
  const uint32_t value_lane = rows_first<kD>(lane);

  int stage = 0;
  for (int32_t tile = first_tile; tile < end_tile; ++tile) {
    wait_for_copies<kStages - 2>();
    __syncthreads();  // this tile is here, and all warps are done with the one before
    fill(stage == 0 ? kStages - 1 : stage - 1, tile + kStages - 1);
    if (tile == first_tile) q.load(query + warp * 16 * kD * 2, value_lane);
    const uint32_t keys = ring + stage * 2 * Shared::kTileBytes;
    stage = stage + 1 == kStages ? 0 : stage + 1;
    const int32_t position = tile * kTile;
    if (position <= warp_last && position + kTile > first_visible(warp_first, problem.window)) {
      float s[kTileColumns][4];
      score<T, kD, kHeld, kTileColumns / 2>(s, q, keys, key_lane);
      if (position + kTile - 1 > warp_first || position < first_visible(warp_last, problem.window)) {
        mask(s, position, sight_of(row_positions, problem.window), lane);
      }
      uint32_t p[kTileColumns / 2][4];
      float rescale[2];
      soften<T>(s, problem.scale, statistics, p, rescale);
      accumulate<T, kD, kColumns / 2>(acc, p, rescale, keys + Shared::kTileBytes, value_lane);
    }
    if (tile + 1 < end_tile && (tile + 1) % kChunkTiles != 0) continue;
    statistics.add_lanes();
    merge(total, total_statistics, acc, statistics);
    statistics.clear();
    clear(acc);
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int32_t packed = warp_packed_row + lane / 4 + 8 * half;
    if (packed > last_packed_row) continue;
    write_row<T>(problem, total, total_statistics.l[half], half, sequence.first_row, packed, kv_head, 0,
                 lane);
  }
}

}  // namespace kadenz::cuda::attention
