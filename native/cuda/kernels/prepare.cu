#include "cuda/kernels/prepare.h"

#include <bit>
#include <stdexcept>
#include <string>

#include "cuda/check.h"
#include "cuda/kernels/dependent_launch.cuh"

namespace kadenz::cuda {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kCopyWords = 4;  // of 16 bytes, in flight for each thread
constexpr uint32_t kPrepareThreads = 1024;

// blockIdx.x = pair * parts + part, blockIdx.y: the layer. A part is kThreads * kCopyWords words of a block.
__global__ void __launch_bounds__(kThreads)
    copy_blocks_kernel(char* cache, uint64_t layer_bytes, uint64_t block_bytes, const BlockCopy* pairs,
                       uint32_t parts) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const BlockCopy pair = pairs[blockIdx.x / parts];
  char* layer = cache + blockIdx.y * layer_bytes;
  const uint4* source = reinterpret_cast<const uint4*>(layer + pair.source * block_bytes);
  uint4* target = reinterpret_cast<uint4*>(layer + pair.target * block_bytes);
  const uint64_t words = block_bytes / 16;
  const uint64_t first = static_cast<uint64_t>(blockIdx.x % parts) * (kThreads * kCopyWords) + threadIdx.x;
  uint4 held[kCopyWords];
#pragma unroll
  for (uint32_t i = 0; i < kCopyWords; ++i) {
    if (first + i * kThreads < words) held[i] = source[first + i * kThreads];
  }
#pragma unroll
  for (uint32_t i = 0; i < kCopyWords; ++i) {
    if (first + i * kThreads < words) target[first + i * kThreads] = held[i];
  }
}

__global__ void __launch_bounds__(kThreads)
    update_tables_kernel(const TableUpdate* updates, uint32_t count, int32_t* tables, uint32_t table_stride) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= count) return;
  const TableUpdate update = updates[i];
  tables[static_cast<uint64_t>(update.slot) * table_stride + update.index] =
      static_cast<int32_t>(update.block);
}

// One block, so that a barrier orders its two passes: every row gets its own state, then each row that failed
// passes that on along its sequence.
__global__ void __launch_bounds__(kPrepareThreads)
    prepare_rows_kernel(const PrepareArgs a, const PreparedRows out, uint32_t block_shift) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  bool failed_here = false;
  for (uint32_t row = threadIdx.x; row < a.rows; row += blockDim.x) {
    const RowInput input = a.input[row];
    int32_t token = 0;
    int32_t position = -1;
    int64_t kv_slot = -1;
    bool failed = false;
    if (input.position >= 0) {
      const uint32_t index = static_cast<uint32_t>(input.position) >> block_shift;
      const int32_t block =
          index < a.table_stride ? a.tables[static_cast<uint64_t>(input.slot) * a.table_stride + index] : -1;
      token = input.token >= 0 ? input.token : a.sampled_tokens[-1 - input.token];
      failed = token < 0 || block < 0;
      if (token < 0) token = 0;
      if (block >= 0) {
        const uint32_t offset = static_cast<uint32_t>(input.position) & (a.block_size - 1);
        position = input.position;
        kv_slot = (static_cast<int64_t>(block) << block_shift) + offset;
      }
    }
    out.token_ids[row] = token;
    out.positions[row] = position;
    out.kv_slots[row] = kv_slot;
    out.poisoned[row] = failed ? 1 : 0;
    failed_here = failed_here || failed;
  }
  if (__syncthreads_or(failed_here ? 1 : 0) == 0) return;
  // `poisoned` may already be 1 by another thread's walk; walking again from there only writes ones again.
  for (uint32_t row = threadIdx.x; row < a.rows; row += blockDim.x) {
    if (out.poisoned[row] == 0) continue;
    const int32_t slot = a.input[row].slot;
    for (uint32_t next = row + 1; next < a.rows; ++next) {
      const RowInput input = a.input[next];
      if (input.slot != slot || input.position < 0) break;
      out.poisoned[next] = 1;
    }
  }
}

}  // namespace

void copy_blocks(void* cache, uint32_t num_layers, uint64_t layer_bytes, uint64_t block_bytes,
                 const BlockCopy* pairs, uint32_t count, cudaStream_t stream) {
  if (layer_bytes % 16 != 0 || block_bytes % 16 != 0 || reinterpret_cast<uint64_t>(cache) % 16 != 0) {
    throw std::logic_error("copy_blocks: blocks of " + std::to_string(block_bytes) + " bytes in layers of " +
                           std::to_string(layer_bytes) + " are not in units of 16");
  }
  if (count == 0 || num_layers == 0 || block_bytes == 0) return;
  const uint64_t part_bytes = uint64_t{16} * kThreads * kCopyWords;
  const uint32_t parts = static_cast<uint32_t>((block_bytes + part_bytes - 1) / part_bytes);
  launch_dependent(copy_blocks_kernel, dim3(count * parts, num_layers), dim3(kThreads), 0, stream,
                   static_cast<char*>(cache), layer_bytes, block_bytes, pairs, parts);
  check_launch("copy_blocks");
}

void update_tables(const TableUpdate* updates, uint32_t count, int32_t* tables, uint32_t table_stride,
                   cudaStream_t stream) {
  if (count == 0) return;
  launch_dependent(update_tables_kernel, dim3((count + kThreads - 1) / kThreads), dim3(kThreads), 0, stream,
                   updates, count, tables, table_stride);
  check_launch("update_tables");
}

void prepare_rows(const PrepareArgs& args, const PreparedRows& prepared, cudaStream_t stream) {
  if (!std::has_single_bit(args.block_size)) {
    throw std::logic_error("prepare_rows: blocks of " + std::to_string(args.block_size) +
                           " positions are no power of two");
  }
  if (args.rows == 0) return;
  const uint32_t threads = args.rows >= kPrepareThreads ? kPrepareThreads : (args.rows + 31) / 32 * 32;
  launch_dependent(prepare_rows_kernel, dim3(1), dim3(threads), 0, stream, args, prepared,
                   static_cast<uint32_t>(std::countr_zero(args.block_size)));
  check_launch("prepare_rows");
}

}  // namespace kadenz::cuda
