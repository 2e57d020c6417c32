// The split kernel: decode and very short row ranges. Each block is a worker with a list of runs (SplitItem);
// its 4 warps walk the runs' tiles together through a ring of kStages tiles in shared memory, which is filled
// across the borders of chunks and runs, so that the memory never waits for the arithmetic.
//
// Within a tile each warp scores 16 of the 64 positions, the scores are exchanged, every warp makes all of
// the 16 rows' softmax (each the same bits) and then owns head_dim / 4 columns of the values. Which warp
// computes an element changes nothing in its arithmetic, so a row equals the block kernel's.
//
// A pair of (sequence, key-value head) that is cut in runs leaves partials; the block that arrives last folds
// them in order. Its arrival is counted with an integer; which block it is changes no bit.
//
// A partial: m and l of 16 rows, then acc by column group of 8, half, lane, two floats. Upper halves of pairs
// of at most 8 packed rows are not stored.
#pragma once

#include <cstddef>

#include "cuda/kernels/attention_tiles.cuh"
#include "cuda/kernels/dependent_launch.cuh"

namespace kadenz::cuda::attention {

constexpr int kSplitThreads = 128;
constexpr int kSplitRows = kAttentionSplitRows;

template <int kD>
constexpr uint64_t kPartialFloats = 2 * kSplitRows + kSplitRows * kD;

// What a filled stage of the ring holds. tile is absolute; no bits at all: the list has ended.
struct StageNote {
  static constexpr int32_t kFilled = 1, kFirstOfRun = 2, kLastOfChunk = 4, kLastOfRun = 8;
  SplitItem run;
  int32_t tile;
  int32_t bits;
  int32_t padding[2];
};
static_assert(sizeof(StageNote) == 48);

template <int kD, int kStages>
struct SplitShared {
  static constexpr int kTileBytes = kTile * kD * 2;
  static constexpr int kQueryBytes = kSplitRows * kD * 2;
  static constexpr int kStageBytes = 2 * kTileBytes + kQueryBytes;
  static constexpr int kScores = kStages * kStageBytes;
  static constexpr int kNotes = kScores + kSplitRows * kTile * 4;
  static constexpr int kArrived = kNotes + kStages * static_cast<int>(sizeof(StageNote));
  static constexpr int kBytes = kArrived + 16;
};

// Walks the worker's list ahead of the arithmetic and fills stages. Every thread holds the same state; the
// next chunk's table and the next run are loaded one chunk or run before they are needed.
template <int kD, int kStages>
class Filler {
  using Shared = SplitShared<kD, kStages>;

 public:
  __device__ Filler(const Problem& problem, uint32_t begin, uint32_t end)
      : problem_(problem), index_(begin), end_(end) {
    run_ = problem.split_items[begin];
    tile_ = run_.first_tile;
    chunk_end_ = tile_;
    ahead_ = run_;
    if (begin + 1 < end) ahead_ = problem.split_items[begin + 1];
    table_ahead_ = load(run_, run_.first_tile);
  }

  __device__ __forceinline__ void fill(char* shared, int stage) {
    StageNote& note = reinterpret_cast<StageNote*>(shared + Shared::kNotes)[stage];
    if (index_ == end_) {
      if (threadIdx.x == 0) note.bits = 0;
      commit_copies();
      return;
    }
    if (tile_ == chunk_end_) {
      table_ = table_ahead_;
      chunk_end_ = min(run_.end_tile, (tile_ | (kChunkTiles - 1)) + 1);
      if (chunk_end_ < run_.end_tile) {
        table_ahead_ = load(run_, chunk_end_);
      } else if (index_ + 1 < end_) {
        table_ahead_ = load(ahead_, ahead_.first_tile);
      }
    }
    const uint32_t keys = shared_address(shared + stage * Shared::kStageBytes);
    const char* head = problem_.cache + static_cast<uint64_t>(run_.kv_head) * problem_.cache_head_bytes;
    const int32_t low = first_visible(run_.start_position, problem_.window);
    if ((tile_ + 1) * kTile > low) {  // else nobody sees it; it is skipped below
      copy_tile<kD, kSplitThreads>(problem_, keys, keys + Shared::kTileBytes, head, table_, tile_, low,
                                   run_.start_position + run_.num_rows);
    }
    int32_t bits = StageNote::kFilled;
    if (tile_ == run_.first_tile) {
      bits |= StageNote::kFirstOfRun;
      copy_query<kD, kSplitThreads, kSplitRows>(problem_, keys + 2 * Shared::kTileBytes, run_.first_row, 0,
                                                run_.num_rows * problem_.group, run_.kv_head);
    }
    commit_copies();
    const int32_t tile = tile_++;
    if (tile_ == chunk_end_) bits |= StageNote::kLastOfChunk;
    if (tile_ == run_.end_tile) bits |= StageNote::kLastOfRun;
    if (threadIdx.x == 0) {
      note.run = run_;
      note.tile = tile;
      note.bits = bits;
    }
    if (tile_ == run_.end_tile) {
      ++index_;
      run_ = ahead_;
      tile_ = chunk_end_ = run_.first_tile;
      if (index_ + 1 < end_) ahead_ = problem_.split_items[index_ + 1];
    }
  }

 private:
  __device__ int32_t load(const SplitItem& run, int32_t tile) const {
    return load_table(problem_, run.slot, tile / kChunkTiles,
                      first_visible(run.start_position, problem_.window), run.start_position + run.num_rows,
                      threadIdx.x & 31);
  }

  const Problem& problem_;
  uint32_t index_;
  uint32_t end_;
  SplitItem run_;
  SplitItem ahead_;
  int32_t tile_;
  int32_t chunk_end_;
  int32_t table_ = 0;
  int32_t table_ahead_;
};

template <int kD>
struct Partial {
  static constexpr int kColumns = kD / 32;  // of one warp
  float* base;

  __device__ Partial(const Problem& problem, int64_t index)
      : base(problem.partials + index * kPartialFloats<kD>) {}

  __device__ float2* statistics(int row) const { return reinterpret_cast<float2*>(base) + row; }
  __device__ float2* columns(int warp, int n, int half, int lane) const {
    return reinterpret_cast<float2*>(base + 2 * kSplitRows) + ((warp * kColumns + n) * 2 + half) * 32 + lane;
  }

  __device__ __forceinline__ void write(const float (&acc)[kColumns][4], const Statistics& statistics_of_rows,
                                        int num_halves, int warp, int lane) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (half >= num_halves) break;
      if (warp == 0 && (lane & 3) == 0) {
        __stcg(statistics(lane / 4 + 8 * half),
               make_float2(statistics_of_rows.m[half], statistics_of_rows.l[half]));
      }
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        __stcg(columns(warp, n, half, lane), make_float2(acc[n][2 * half], acc[n][2 * half + 1]));
      }
    }
  }
  // Rows of a half that is not stored have seen nothing.
  __device__ __forceinline__ void read(float (&acc)[kColumns][4], Statistics& statistics_of_rows,
                                       int num_halves, int warp, int lane) const {
    statistics_of_rows.clear();
    clear(acc);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (half >= num_halves) break;
      const float2 pair = __ldcg(statistics(lane / 4 + 8 * half));
      statistics_of_rows.m[half] = pair.x;
      statistics_of_rows.l[half] = pair.y;
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        const float2 values = __ldcg(columns(warp, n, half, lane));
        acc[n][2 * half] = values.x;
        acc[n][2 * half + 1] = values.y;
      }
    }
  }
};

// The first partial is the total over the first run's chunks; the others follow chunk by chunk. Several are
// loaded at once, they are merged one after the other.
template <int kD>
__device__ __forceinline__ void fold_partials(const Problem& problem, const SplitItem& run, int num_halves,
                                              int warp, int lane, float (&total)[kD / 32][4],
                                              Statistics& total_statistics) {
  constexpr int kAtOnce = 4;
  Partial<kD>(problem, run.partial).read(total, total_statistics, num_halves, warp, lane);
  for (int first = 1; first < run.num_partials; first += kAtOnce) {
    float acc[kAtOnce][kD / 32][4];
    Statistics statistics[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      statistics[i].clear();
      if (first + i < run.num_partials) {
        Partial<kD>(problem, static_cast<int64_t>(run.partial) + first + i)
            .read(acc[i], statistics[i], num_halves, warp, lane);
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) merge(total, total_statistics, acc[i], statistics[i]);
  }
}

template <class T, int kD, int kStages, int kBlocksPerSm>
__global__ void __launch_bounds__(kSplitThreads, kBlocksPerSm)
    split_kernel(const __grid_constant__ Problem problem) {
  using Shared = SplitShared<kD, kStages>;
  constexpr int kColumns = kD / 32;  // groups of 8 columns of one warp
  extern __shared__ __align__(1024) char shared[];
  wait_for_previous_kernel();
  let_next_kernel_start();
  const uint32_t begin = problem.split_offsets[blockIdx.x];
  const uint32_t end = problem.split_offsets[blockIdx.x + 1];
  if (begin >= end) return;

  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x & 31;
  const uint32_t key_lane = units_first<kD>(lane);
  const uint32_t query_lane = rows_first<kD>(lane);
  uint32_t value_lane = query_lane;
  value_lane ^= warp * kColumns * 16;  // the warp's columns; the steps within them stay below
  // The position of the lane's packed rows, from the run's first.
  const int row_positions[2] = {lane / 4 / static_cast<int>(problem.group),
                                (lane / 4 + 8) / static_cast<int>(problem.group)};
  float4* scores = reinterpret_cast<float4*>(shared + Shared::kScores);
  volatile int* arrived = reinterpret_cast<volatile int*>(shared + Shared::kArrived);

  Query<kD, kD / 16> q;
  float acc[kColumns][4];
  float total[kColumns][4];
  Statistics statistics;
  Statistics total_statistics;

  Filler<kD, kStages> filler(problem, begin, end);
#pragma unroll
  for (int stage = 0; stage < kStages - 1; ++stage) filler.fill(shared, stage);

  for (int stage = 0;; stage = stage + 1 == kStages ? 0 : stage + 1) {
    wait_for_copies<kStages - 2>();
    __syncthreads();  // this tile is here, and all warps are done with the one before
    filler.fill(shared, stage == 0 ? kStages - 1 : stage - 1);
    const StageNote& note = reinterpret_cast<const StageNote*>(shared + Shared::kNotes)[stage];
    const int32_t bits = note.bits;
    if (bits == 0) break;
    const int32_t start_position = note.run.start_position;
    const int32_t last_position = start_position + note.run.num_rows - 1;
    const int32_t tile_position = note.tile * kTile;
    const uint32_t keys = shared_address(shared + stage * Shared::kStageBytes);
    const uint32_t values = keys + Shared::kTileBytes;
    if (bits & StageNote::kFirstOfRun) {
      q.load(values + Shared::kTileBytes, query_lane);
      statistics.clear();
      total_statistics.clear();
      clear(acc);
      clear(total);
    }

    // A list that was made without the layer's window names tiles before it: nothing moves there.
    if (tile_position + kTile > first_visible(start_position, problem.window)) {
      float own[2][4];
      score<T, kD, kD / 16, 1>(own, q, keys + warp * 16 * kD * 2, key_lane);
      if (tile_position + kTile - 1 > start_position ||
          tile_position < first_visible(last_position, problem.window)) {
        const int32_t positions[2] = {min(start_position + row_positions[0], last_position),
                                      min(start_position + row_positions[1], last_position)};
        mask(own, tile_position + warp * 16, sight_of(positions, problem.window), lane);
      }
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        scores[(warp * 2 + n) * 32 + lane] = make_float4(own[n][0], own[n][1], own[n][2], own[n][3]);
      }
      __syncthreads();
      float s[kTileColumns][4];
#pragma unroll
      for (int n = 0; n < kTileColumns; ++n) {
        const float4 four = scores[n * 32 + lane];
        s[n][0] = four.x;
        s[n][1] = four.y;
        s[n][2] = four.z;
        s[n][3] = four.w;
      }
      uint32_t p[kTileColumns / 2][4];
      float rescale[2];
      soften<T>(s, problem.scale, statistics, p, rescale);
      accumulate<T, kD, kColumns / 2>(acc, p, rescale, values, value_lane);
    }
    if (!(bits & StageNote::kLastOfChunk)) continue;

    const int num_packed_rows = note.run.num_rows * static_cast<int>(problem.group);
    const int num_halves = num_packed_rows <= 8 ? 1 : 2;
    const bool first_run = note.run.partial_offset == 0;
    statistics.add_lanes();
    if (first_run) {
      merge(total, total_statistics, acc, statistics);
    } else {
      const int32_t chunk = note.tile / kChunkTiles - note.run.first_tile / kChunkTiles;
      Partial<kD>(problem, static_cast<int64_t>(note.run.partial) + note.run.partial_offset + chunk)
          .write(acc, statistics, num_halves, warp, lane);
    }
    statistics.clear();
    clear(acc);
    if (!(bits & StageNote::kLastOfRun)) continue;

    if (note.run.num_runs > 1) {
      if (first_run) {
        Partial<kD>(problem, note.run.partial).write(total, total_statistics, num_halves, warp, lane);
      }
      __threadfence();
      __syncthreads();
      if (threadIdx.x == 0) *arrived = static_cast<int>(atomicAdd(problem.counters + note.run.partial, 1U));
      __syncthreads();
      if (*arrived != note.run.num_runs - 1) continue;
      __threadfence();
      if (threadIdx.x == 0) problem.counters[note.run.partial] = 0;  // for the next launch
      fold_partials<kD>(problem, note.run, num_halves, warp, lane, total, total_statistics);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int packed = lane / 4 + 8 * half;
      if (packed >= num_packed_rows) continue;
      write_row<T>(problem, total, total_statistics.l[half], half, note.run.first_row, packed,
                   note.run.kv_head, warp * kColumns * 8, lane);
    }
    __syncwarp();
  }
}

}  // namespace kadenz::cuda::attention
