// A step's rows on the CPU, worked out once for all layers: where each row stands, its rotary tables, and the
// tiles in which attention takes the rows. It keeps the batch it was given, whose memory the caller owns,
// until the next begin().
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/memory.h"
#include "cpu/thread_pool.h"
#include "model/batch.h"
#include "model/ops.h"

namespace kadenz {

class StepRows {
 public:
  struct Place {
    uint32_t sequence;
    uint32_t position;
  };
  struct AttendTile {  // some consecutive rows of one sequence
    uint32_t sequence;
    uint32_t first;  // row of the sequence's rows in this batch
    uint32_t rows;
  };

  void use_rotary(const RotaryFrequencies& rotary) { rotary_ = rotary; }
  void begin(const DecoderBatch& batch, const AttentionShape& shape, ThreadPool& pool);

  const DecoderBatch& batch() const { return batch_; }
  const AttentionShape& shape() const { return shape_; }
  uint32_t count() const { return static_cast<uint32_t>(places_.size()); }
  const Place& place(uint32_t row) const { return places_[row]; }
  const SequenceSpan& sequence_of(uint32_t row) const { return batch_.sequences[places_[row].sequence]; }
  const std::vector<AttendTile>& tiles() const { return tiles_; }

  // [head_dim / 2]
  const float* cosine(uint32_t row) const { return cosine_.floats() + row * half(); }
  const float* sine(uint32_t row) const { return sine_.floats() + row * half(); }

  float* attend_scratch(uint32_t thread) { return attend_scratch_.floats() + thread * attend_floats_; }

  uint64_t scratch_bytes() const { return attend_scratch_.bytes() + cosine_.bytes() + sine_.bytes(); }

 private:
  uint64_t half() const { return shape_.head_dim / 2; }
  int64_t cut_into_tiles();  // returns the scratch that one thread needs, in floats
  void fill_rotary_tables(ThreadPool& pool);

  RotaryFrequencies rotary_;
  DecoderBatch batch_;
  AttentionShape shape_{};
  std::vector<Place> places_;  // by row
  std::vector<AttendTile> tiles_;
  PageBuffer cosine_, sine_;   // [row][head_dim / 2]
  PageBuffer attend_scratch_;  // attend_floats_ for each thread
  int64_t attend_floats_ = 0;
};

}  // namespace kadenz
