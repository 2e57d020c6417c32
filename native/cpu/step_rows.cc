#include "cpu/step_rows.h"

#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/row_tasks.h"
#include "model/exact_math.h"

namespace kadenz {
namespace {

constexpr int64_t kMaxAttendScratchFloats = 256 * 1024;  // fewer rows run together where contexts are long

}  // namespace

int64_t StepRows::cut_into_tiles() {
  const int64_t group = shape_.num_heads / shape_.num_key_value_heads;
  places_.clear();
  tiles_.clear();
  int64_t scratch_floats = 0;
  for (uint32_t index = 0; index < batch_.sequences.size(); ++index) {
    const SequenceSpan& span = batch_.sequences[index];
    expect(span.first_row == places_.size(), "sequences cover the rows in order");
    for (uint32_t row = 0; row < span.num_rows; ++row) places_.push_back({index, span.start_position + row});
    const int64_t floats_a_row = group * (int64_t{span.start_position} + span.num_rows);
    const uint32_t together = static_cast<uint32_t>(
        std::clamp<int64_t>(kMaxAttendScratchFloats / std::max<int64_t>(floats_a_row, 1), 1, 8));
    for (uint32_t first = 0; first < span.num_rows; first += together) {
      tiles_.push_back({index, first, std::min(together, span.num_rows - first)});
    }
    AttentionLayout layout{};
    layout.num_heads = shape_.num_heads;
    layout.num_key_value_heads = shape_.num_key_value_heads;
    layout.value_stride = (int64_t{shape_.head_dim} + kLanes - 1) / kLanes * kLanes;
    scratch_floats =
        std::max(scratch_floats, attend_scratch_floats(layout, std::min(together, span.num_rows),
                                                       int64_t{span.start_position} + span.num_rows));
  }
  expect(places_.size() == batch_.token_ids.size(), "every row has a sequence");
  return (scratch_floats + 1023) / 1024 * 1024;
}

void StepRows::fill_rotary_tables(ThreadPool& pool) {
  const uint64_t table_bytes = (places_.size() * half() * sizeof(float) + 65535) / 65536 * 65536;
  if (table_bytes > cosine_.bytes()) {
    cosine_ = PageBuffer(table_bytes, "rotary tables");
    sine_ = PageBuffer(table_bytes, "rotary tables");
  }
  pool.run(ceil_divide(count(), kRowsPerTask), [&](uint32_t task, uint32_t) {
    for (uint32_t row = task * kRowsPerTask; row < std::min(count(), (task + 1) * kRowsPerTask); ++row) {
      for (uint32_t i = 0; i < half(); ++i) {
        const float angle = static_cast<float>(places_[row].position) * rotary_.inverse_frequencies[i];
        double sine = 0.0;
        double cosine = 0.0;
        exact_sin_cos(static_cast<double>(angle), &sine, &cosine);
        cosine_.floats()[row * half() + i] = static_cast<float>(cosine) * rotary_.attention_factor;
        sine_.floats()[row * half() + i] = static_cast<float>(sine) * rotary_.attention_factor;
      }
    }
  });
}

void StepRows::begin(const DecoderBatch& batch, const AttentionShape& shape, ThreadPool& pool) {
  batch_ = batch;
  shape_ = shape;
  const int64_t scratch_floats = cut_into_tiles();
  if (scratch_floats > attend_floats_) {
    attend_scratch_ = PageBuffer();
    attend_floats_ = 0;
    attend_scratch_ =
        PageBuffer(pool.num_threads() * static_cast<uint64_t>(scratch_floats) * sizeof(float), "scratch");
    attend_floats_ = scratch_floats;
  }
  fill_rotary_tables(pool);
}

}  // namespace kadenz
