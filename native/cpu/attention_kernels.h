// Attention of some consecutive rows of one sequence over its paged keys and values, for one key-value head
// and the group of query heads that share it.
//
// Each row does exactly this, whatever rows stand beside it: scores by position (one chain over head_dim
// each), their exact maximum, e^(score - maximum), 16 partial sums by position mod 16 and their tree, the
// weighted sum of the values as one chain over the positions in order, one multiplication by 1 / sum. Vectors
// of positions begin at absolute multiples of 16; places before or after the visible range hold -infinity and
// add zeros.
//
// Several rows run together only so that keys and values stay in the first-level cache while all of them read
// them. Blocks lie anywhere in memory, so a cursor runs ahead of the arithmetic and asks for their lines in
// time.
#pragma once

#include <cstdint>

#include "cpu/float_bits.h"
#include "cpu/kernels.h"
#include "cpu/row_kernels.h"

namespace kadenz {
namespace {

constexpr int kHeadTile = 4;     // query heads that share a load of keys or values
constexpr int kValueTile = 4;    // vectors of head_dim summed at once
constexpr int64_t kStretch = 8;  // dimensions or positions between two looks ahead; divides any block size
constexpr int64_t kPositionGroup = 64;  // positions whose keys (or values) all rows visit before going on

template <class V>
typename V::Vec load_stored(const float* p) {
  return V::load(p);
}
template <class V>
typename V::Vec load_stored(const uint16_t* p) {
  return V::load_bfloat16(p);
}
template <class V>
typename V::Vec load_stored_split(const float* low, const float* high) {
  return V::load_split(low, high);
}
template <class V>
typename V::Vec load_stored_split(const uint16_t* low, const uint16_t* high) {
  return V::load_split_bfloat16(low, high);
}

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

inline int64_t first_visible_position(const AttendTask& task, int64_t row) {
  const int64_t position = task.start_position + row;
  return task.window == 0 || position < task.window ? 0 : position - task.window + 1;
}

// Fetches the lines of the tasks' blocks in the order of use: a task's keys, its values, the next task's
// keys.
template <class Stored>
class Ahead {
 public:
  Ahead(const AttentionLayout& layout, const AttendTask* tasks, int64_t count)
      : layout_(layout), tasks_(tasks), count_(count) {}

  // Called when the arithmetic comes to a task's keys or values: the cursor must not be behind it.
  void reach(int64_t stage) {
    if (stage_ >= stage && stage > 0) return;
    open(stage);
    fetch(kLeadLines);
  }

  void fetch(int64_t lines) {
    for (; lines > 0; --lines) {
      if (left_ == 0 && !next_block()) return;
      __builtin_prefetch(at_, 0, 2);
      at_ += kLineBytes;
      --left_;
    }
  }

 private:
  static constexpr int64_t kLeadLines = 256;
  static constexpr int64_t kLineBytes = 64;

  void open(int64_t stage) {  // task stage / 2, keys when even
    stage_ = stage;
    left_ = 0;
    if (stage_ / 2 >= count_) return;
    const AttendTask& task = tasks_[stage_ / 2];
    block_ = first_visible_position(task, 0) / layout_.block_size;
    end_block_ = (task.start_position + task.num_rows - 1) / layout_.block_size + 1;
  }

  bool next_block() {
    while (stage_ / 2 < count_ && block_ == end_block_) open(stage_ + 1);
    if (stage_ / 2 >= count_) return false;
    const AttendTask& task = tasks_[stage_ / 2];
    const bool keys = stage_ % 2 == 0;
    const int64_t elements =
        layout_.block_size * (keys ? layout_.head_dim : layout_.value_stride);  // of one head
    const int64_t unused = keys || block_ + 1 < end_block_
                               ? 0
                               : end_block_ * layout_.block_size - task.start_position - task.num_rows;
    const Stored* block = static_cast<const Stored*>(layout_.layer_cache) +
                          static_cast<int64_t>(task.block_table[block_++]) * layout_.block_stride;
    at_ = reinterpret_cast<const char*>(block + (keys ? 0 : layout_.key_elements) +
                                        task.key_value_head * elements);
    left_ =
        ((elements - unused * layout_.value_stride) * static_cast<int64_t>(sizeof(Stored)) + kLineBytes - 1) /
        kLineBytes;
    return true;
  }

  const AttentionLayout& layout_;
  const AttendTask* tasks_;
  int64_t count_;
  int64_t stage_ = 0;
  int64_t block_ = 0, end_block_ = 0;
  const char* at_ = nullptr;
  int64_t left_ = 0;  // lines of the open block
};

template <class V, class Stored>
class Attention {
 public:
  Attention(const AttentionLayout& layout, const AttendTask& task, Ahead<Stored>& ahead)
      : layout_(layout),
        task_(task),
        ahead_(ahead),
        dim_(layout.head_dim),
        block_size_(layout.block_size),
        group_(layout.num_heads / layout.num_key_value_heads),
        first_vector_(first_visible_position(task, 0) / kLanes),
        end_vector_((task.start_position + task.num_rows - 1) / kLanes + 1),
        score_stride_(((end_vector_ - first_vector_) | 1) * kLanes),
        scores_(task.scratch),
        sums_(scores_ + task.num_rows * group_ * score_stride_),
        inverse_sums_(sums_ + task.num_rows * group_ * layout.value_stride),
        keys_(static_cast<const Stored*>(layout.layer_cache) + task.key_value_head * dim_ * block_size_),
        values_(static_cast<const Stored*>(layout.layer_cache) + layout.key_elements +
                task.key_value_head * block_size_ * layout.value_stride) {}

  void run(int64_t index) {
    ahead_.reach(2 * index);
    for (int64_t vector = first_vector_; vector < end_vector_; vector += kPositionGroup / kLanes) {
      for (int64_t row = 0; row < task_.num_rows; ++row) score_group(row, vector);
    }
    for (int64_t row = 0; row < task_.num_rows; ++row) {
      for (int64_t head = 0; head < group_; ++head) soften(row, head);
    }
    ahead_.reach(2 * index + 1);
    for (int64_t vector = first_vector_; vector < end_vector_; vector += kPositionGroup / kLanes) {
      for (int64_t row = 0; row < task_.num_rows; ++row) weigh_group(row, vector);
    }
  }

 private:
  int64_t position_of(int64_t row) const { return task_.start_position + row; }
  int64_t first_visible(int64_t row) const { return first_visible_position(task_, row); }
  const Stored* keys_at(int64_t position) const {
    return keys_ + static_cast<int64_t>(task_.block_table[position / block_size_]) * layout_.block_stride +
           position % block_size_;
  }
  const Stored* values_at(int64_t position) const {
    return values_ + static_cast<int64_t>(task_.block_table[position / block_size_]) * layout_.block_stride +
           position % block_size_ * layout_.value_stride;
  }
  float* scores_of(int64_t row, int64_t head) { return scores_ + (row * group_ + head) * score_stride_; }
  float* sum_of(int64_t row, int64_t head) { return sums_ + (row * group_ + head) * layout_.value_stride; }
  const float* query_of(int64_t row, int64_t head) const {
    return task_.queries + row * task_.query_stride + (task_.key_value_head * group_ + head) * dim_;
  }
  float* output_of(int64_t row, int64_t head) const {
    return task_.output + row * task_.output_stride + (task_.key_value_head * group_ + head) * dim_;
  }

  // --- scores ---

  void score_group(int64_t row, int64_t vector) {
    const int64_t begin = larger(vector, first_visible(row) / kLanes);
    const int64_t end =
        smaller(smaller(vector + kPositionGroup / kLanes, end_vector_), position_of(row) / kLanes + 1);
    for (int64_t head = 0; head < group_; head += kHeadTile) {
      const int64_t heads = smaller(group_ - head, kHeadTile);
      for (int64_t at = begin; at < end; at += V::kScorePanels) {
        score_vectors<V::kScorePanels>(smaller(end - at, V::kScorePanels), heads, row, head, at);
      }
    }
  }

  template <int Vectors>
  void score_vectors(int64_t vectors, int64_t heads, int64_t row, int64_t head, int64_t vector) {
    if (vectors == Vectors) {
      score_heads<kHeadTile, Vectors>(heads, row, head, vector);
    } else if constexpr (Vectors > 1) {
      score_vectors<Vectors - 1>(vectors, heads, row, head, vector);
    }
  }

  template <int Heads, int Vectors>
  void score_heads(int64_t heads, int64_t row, int64_t head, int64_t vector) {
    if (heads == Heads) {
      if (block_size_ >= kLanes) {
        score_tile<Heads, Vectors, false>(row, head, vector);
      } else {
        score_tile<Heads, Vectors, true>(row, head, vector);
      }
    } else if constexpr (Heads > 1) {
      score_heads<Heads - 1, Vectors>(heads, row, head, vector);
    }
  }

  template <int Heads, int Vectors, bool Split>  // Split: blocks of 8 slots, two to a vector
  void score_tile(int64_t row, int64_t head, int64_t vector) {
    const Stored* keys[Vectors];
    const Stored* high_keys[Vectors];
    const float* queries[Heads];
    typename V::Vec sum[Heads][Vectors];
    for (int v = 0; v < Vectors; ++v) {
      const int64_t position = (vector + v) * kLanes;
      keys[v] = keys_at(position);
      // The table may end within the vector; what is read in place of its other half is masked later.
      high_keys[v] = Split && position + 8 <= last_position() ? keys_at(position + 8) : keys[v];
    }
    for (int h = 0; h < Heads; ++h) queries[h] = query_of(row, head + h);
#pragma GCC unroll 8
    for (int h = 0; h < Heads; ++h) {
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sum[h][v] = V::zero();
    }
    const int64_t block_size = block_size_;
    const int64_t dim = dim_;
    const bool leads = row == 0 && head == 0;  // the others find the lines there
    constexpr int64_t kVectorsALine = 4 / static_cast<int64_t>(sizeof(Stored));
    for (int64_t d = 0; d < dim;) {
      const int64_t stop = smaller(d + kStretch, dim);
      if (leads) ahead_.fetch(Vectors * (stop - d) / kVectorsALine);
      for (; d < stop; ++d) {
        typename V::Vec key[Vectors];
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v) {
          key[v] =
              V::held(Split ? load_stored_split<V>(keys[v] + d * block_size, high_keys[v] + d * block_size)
                            : load_stored<V>(keys[v] + d * block_size));
        }
#pragma GCC unroll 8
        for (int h = 0; h < Heads; ++h) {
          const auto query = V::broadcast(queries[h][d]);
#pragma GCC unroll 8
          for (int v = 0; v < Vectors; ++v) sum[h][v] = V::fma(query, key[v], sum[h][v]);
        }
      }
    }
#pragma GCC unroll 8
    for (int h = 0; h < Heads; ++h) {
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) {
        V::store(scores_of(row, head + h) + (vector + v - first_vector_) * kLanes, sum[h][v]);
      }
    }
  }

  // --- softmax: scores become weights that wait for their common factor, 1 / sum ---

  void soften(int64_t row, int64_t head) {
    float* scores = scores_of(row, head);
    const int64_t first = first_visible(row);
    const int64_t position = position_of(row);
    const int64_t begin = (first / kLanes - first_vector_) * kLanes;
    const int64_t end = (position / kLanes + 1 - first_vector_) * kLanes;
    const int64_t origin = first_vector_ * kLanes;
    for (int64_t i = begin; i < first - origin; ++i) scores[i] = -__builtin_inff();
    for (int64_t i = position - origin + 1; i < end; ++i) scores[i] = -__builtin_inff();
    auto largest = V::load(scores + begin);
    for (int64_t i = begin + kLanes; i < end; i += kLanes) largest = V::maximum(V::load(scores + i), largest);
    const auto maximum = V::broadcast(largest_lane<V>(largest));
    auto partial = V::zero();
    for (int64_t i = begin; i < end; i += kLanes) {
      const auto weight = exp_lanes<V>(V::subtract(V::load(scores + i), maximum));
      V::store(scores + i, weight);
      partial = V::add(partial, weight);
    }
    inverse_sums_[row * group_ + head] = 1.0F / sum_lanes<V>(partial);
    float* sum = sum_of(row, head);
    for (int64_t i = 0; i < layout_.value_stride; i += kLanes) V::store(sum + i, V::zero());
  }

  // --- values ---

  void weigh_group(int64_t row, int64_t vector) {
    const int64_t begin = larger(vector * kLanes, first_visible(row));
    const int64_t end = smaller(vector * kLanes + kPositionGroup, position_of(row) + 1);
    const bool last = end == position_of(row) + 1;
    if (begin >= end) return;
    const int64_t vectors = layout_.value_stride / kLanes;
    for (int64_t head = 0; head < group_; head += kHeadTile) {
      const int64_t heads = smaller(group_ - head, kHeadTile);
      for (int64_t column = 0; column < vectors; column += kValueTile) {
        weigh_columns<kValueTile>(smaller(vectors - column, kValueTile), heads, row, head, column * kLanes,
                                  begin, end);
      }
    }
    if (!last) return;
    for (int64_t head = 0; head < group_; ++head) {
      const float* sum = sum_of(row, head);
      float* output = output_of(row, head);
      const auto factor = V::broadcast(inverse_sums_[row * group_ + head]);
      for (int64_t i = 0; i < dim_; i += kLanes) {
        V::store_partial(output + i, V::multiply(V::load(sum + i), factor), dim_ - i);
      }
    }
  }

  template <int Vectors>
  void weigh_columns(int64_t vectors, int64_t heads, int64_t row, int64_t head, int64_t column, int64_t begin,
                     int64_t end) {
    if (vectors == Vectors) {
      weigh_heads<kHeadTile, Vectors>(heads, row, head, column, begin, end);
    } else if constexpr (Vectors > 1) {
      weigh_columns<Vectors - 1>(vectors, heads, row, head, column, begin, end);
    }
  }

  template <int Heads, int Vectors>
  void weigh_heads(int64_t heads, int64_t row, int64_t head, int64_t column, int64_t begin, int64_t end) {
    if (heads == Heads) {
      weigh_tile<Heads, Vectors>(row, head, column, begin, end);
    } else if constexpr (Heads > 1) {
      weigh_heads<Heads - 1, Vectors>(heads, row, head, column, begin, end);
    }
  }

  template <int Heads, int Vectors>
  void weigh_tile(int64_t row, int64_t head, int64_t column, int64_t begin, int64_t end) {
    typename V::Vec sum[Heads][Vectors];
    const float* weights[Heads];
    for (int h = 0; h < Heads; ++h) weights[h] = scores_of(row, head + h) - first_vector_ * kLanes;
#pragma GCC unroll 8
    for (int h = 0; h < Heads; ++h) {
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sum[h][v] = V::load(sum_of(row, head + h) + column + v * kLanes);
    }
    const int64_t stride = layout_.value_stride;
    const bool leads = row == 0 && head == 0 && column == 0;
    const int64_t lines = (stride * static_cast<int64_t>(sizeof(Stored)) + 63) / 64;
    for (int64_t position = begin; position < end;) {
      const int64_t stop = smaller(end, (position / kStretch + 1) * kStretch);  // within one block
      const Stored* values = values_at(position) + column;
      if (leads) ahead_.fetch(lines * (stop - position));
      for (; position < stop; ++position, values += stride) {
        typename V::Vec value[Vectors];
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v) value[v] = V::held(load_stored<V>(values + v * kLanes));
#pragma GCC unroll 8
        for (int h = 0; h < Heads; ++h) {
          const auto weight = V::broadcast(weights[h][position]);
#pragma GCC unroll 8
          for (int v = 0; v < Vectors; ++v) sum[h][v] = V::fma(weight, value[v], sum[h][v]);
        }
      }
    }
#pragma GCC unroll 8
    for (int h = 0; h < Heads; ++h) {
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) V::store(sum_of(row, head + h) + column + v * kLanes, sum[h][v]);
    }
  }

  int64_t last_position() const { return task_.start_position + task_.num_rows - 1; }

  const AttentionLayout& layout_;
  const AttendTask& task_;
  Ahead<Stored>& ahead_;
  int64_t dim_, block_size_, group_;
  int64_t first_vector_, end_vector_;  // vectors of 16 positions that any of the rows sees
  int64_t score_stride_;  // an odd number of vectors, so that rows fall into different sets of the cache
  float* scores_;         // [row][head of the group][positions from first_vector_ * 16]
  float* sums_;           // [row][head of the group][value_stride]
  float* inverse_sums_;   // [row][head of the group]
  const Stored* keys_;
  const Stored* values_;
};

template <class V, class Stored>
void attend_tasks(const AttentionLayout& layout, const AttendTask* tasks, int64_t count) {
  Ahead<Stored> ahead(layout, tasks, count);
  for (int64_t index = 0; index < count; ++index)
    Attention<V, Stored>(layout, tasks[index], ahead).run(index);
}

template <class V>
void attend_any(const AttentionLayout& layout, const AttendTask* tasks, int64_t count) {
  if (layout.storage == DType::kFloat32) {
    attend_tasks<V, float>(layout, tasks, count);
  } else {
    attend_tasks<V, uint16_t>(layout, tasks, count);
  }
}

}  // namespace
}  // namespace kadenz
