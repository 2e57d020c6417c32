// What happens to a step's bookkeeping on the device before its first layer: block tables brought up to date,
// blocks copied, and each row's token, position and KV slot made out of what the host sent and what the step
// before sampled. Integers only.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "model/batch.h"

namespace kadenz::cuda {

// Copies whole blocks of the KV cache in every layer, in one launch. Layer l begins at cache + l *
// layer_bytes, its block b at + b * block_bytes (both multiples of 16). No target may be the source or target
// of another pair.
void copy_blocks(void* cache, uint32_t num_layers, uint64_t layer_bytes, uint64_t block_bytes,
                 const BlockCopy* pairs /*device*/, uint32_t count, cudaStream_t stream);

// tables[slot][index] = block, index below table_stride. An entry that comes twice must say the same.
void update_tables(const TableUpdate* updates /*device*/, uint32_t count, int32_t* tables,
                   uint32_t table_stride, cudaStream_t stream);

struct RowInput {
  int32_t token;     // below 0: what sample -1 - token of the step before drew
  int32_t slot;      // of the block tables
  int32_t position;  // -1: a padding row
};

// All of a step's rows. The rows of a sequence are neighbours and share a slot.
struct PrepareArgs {
  const RowInput* input = nullptr;
  uint32_t rows = 0;
  const int32_t* sampled_tokens = nullptr;  // of the step before; below 0: that sample failed
  const int32_t* tables = nullptr;          // [slots][table_stride]; -1: no block yet
  uint32_t table_stride = 0;
  uint32_t block_size = 0;  // a power of two
};

struct PreparedRows {  // [rows] each
  int32_t* token_ids = nullptr;
  int32_t* positions = nullptr;
  int64_t* kv_slots = nullptr;  // block * block_size + offset
  uint8_t* poisoned = nullptr;  // 1: what this row gives is worthless, and its sample must fail
};

// A row is poisoned when its token is a sample that failed (it then reads token 0), and so are the rows of
// its sequence after it. A padding row gets token 0, position -1, kv_slot -1 and is not poisoned. A row whose
// position has no block in the tables would write over a stranger's keys: it becomes a padding row that is
// poisoned.
void prepare_rows(const PrepareArgs& args, const PreparedRows& prepared, cudaStream_t stream);

}  // namespace kadenz::cuda
