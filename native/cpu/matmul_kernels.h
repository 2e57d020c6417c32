// y = x W^T for one task: up to kMatmulRows rows by kMatmulPanels panels of 16 outputs.
//
// The innermost tile keeps kTileRows x kTilePanels vectors of sums in registers and runs down the inner
// index; each weight vector loaded serves all rows of the tile, each input broadcast all its panels. Tiles
// work through a block of kMatmulInnerBlock inner indices one after the other, so that its weights are read
// from memory once; where widening would cost every tile too much, they are widened to float once for all.
// Sums between blocks rest in `products`: storing and loading a float changes nothing.
#pragma once

#include <cstdint>

#include "cpu/float_bits.h"
#include "cpu/kernels.h"
#include "cpu/row_kernels.h"

namespace kadenz {
namespace {

constexpr int64_t kLineBytes = 64;

// Where a tile finds the weights of inner index k, panel p.
template <class V, int Panels>
struct WidenedBlock {
  const float* base;
  typename V::Vec at(int64_t k, int p) const { return V::load(base + (k * Panels + p) * kLanes); }
};

template <class V>
struct FloatPanels {
  const float* base;
  int64_t panel_stride;
  typename V::Vec at(int64_t k, int p) const { return V::load(base + p * panel_stride + k * kLanes); }
};

template <class V>
struct HalfPanels {
  const uint16_t* base;
  int64_t panel_stride;
  typename V::Vec at(int64_t k, int p) const { return V::load_half(base + p * panel_stride + k * kLanes); }
};

template <class V>
struct BFloat16Panels {
  const uint16_t* base;
  int64_t panel_stride;
  typename V::Vec at(int64_t k, int p) const {
    return V::load_bfloat16(base + p * panel_stride + k * kLanes);
  }
};

struct TileRange {
  const float* input;  // row 0 of the tile, first inner index
  int64_t input_stride;
  int64_t count;    // of inner indices
  float* products;  // row 0 of the tile, first panel
  int64_t products_stride;
  bool first;        // sums begin here, else go on from products
  const char* soon;  // a line at each inner index from here on is wanted soon
};

// Weights that the block after this one will read: `lines` cache lines of each of `panels` panels.
struct Upcoming {
  const char* base;
  int64_t panel_bytes;
  int64_t panels;
  int64_t lines;
};

template <class V, int Rows, int Panels, class Weights>
void multiply_tile(const TileRange& range, const Weights weights) {
  typename V::Vec sum[Rows][Panels];
  const float* input = range.input;
  const int64_t stride = range.input_stride;
#pragma GCC unroll 8
  for (int row = 0; row < Rows; ++row) {
#pragma GCC unroll 8
    for (int panel = 0; panel < Panels; ++panel) {
      sum[row][panel] =
          range.first ? V::zero() : V::load(range.products + row * range.products_stride + panel * kLanes);
    }
  }
  const int64_t count = range.count;
#pragma GCC unroll 4
  for (int64_t k = 0; k < count; ++k) {
    typename V::Vec weight[Panels];
    __builtin_prefetch(range.soon + k * kLineBytes, 0, 2);
#pragma GCC unroll 8
    for (int panel = 0; panel < Panels; ++panel) weight[panel] = V::held(weights.at(k, panel));
#pragma GCC unroll 8
    for (int row = 0; row < Rows; ++row) {
      const auto x = V::broadcast(input[row * stride + k]);
#pragma GCC unroll 8
      for (int panel = 0; panel < Panels; ++panel)
        sum[row][panel] = V::fma(x, weight[panel], sum[row][panel]);
    }
  }
#pragma GCC unroll 8
  for (int row = 0; row < Rows; ++row) {
#pragma GCC unroll 8
    for (int panel = 0; panel < Panels; ++panel) {
      V::store(range.products + row * range.products_stride + panel * kLanes, sum[row][panel]);
    }
  }
}

template <class V, int Rows, int Panels, class Weights>
void multiply_tile_rows(int64_t rows, const TileRange& range, const Weights weights) {
  if (rows == Rows) {
    multiply_tile<V, Rows, Panels>(range, weights);
  } else if constexpr (Rows > 1) {
    multiply_tile_rows<V, Rows - 1, Panels>(rows, range, weights);
  }
}

template <class V, int Panels, class Weights>
void multiply_tiles(int64_t rows, const TileRange& range, const Weights weights, const Upcoming& upcoming) {
  const int64_t tiles = (rows + V::kTileRows - 1) / V::kTileRows;
  int64_t row = 0;
  int64_t line = 0;  // of the upcoming weights, panel after panel
  for (int64_t tile = 0; tile < tiles;
       ++tile) {  // of nearly equal height: a tile of one row would wait on itself
    const int64_t height = (rows - row + (tiles - tile) - 1) / (tiles - tile);
    TileRange here = range;
    here.input += row * range.input_stride;
    here.products += row * range.products_stride;
    here.soon = reinterpret_cast<const char*>(here.input);  // there already: costs nothing
    if (line < upcoming.panels * upcoming.lines) {
      here.soon =
          upcoming.base + line / upcoming.lines * upcoming.panel_bytes + line % upcoming.lines * kLineBytes;
      line += here.count < upcoming.lines - line % upcoming.lines ? here.count
                                                                  : upcoming.lines - line % upcoming.lines;
    }
    multiply_tile_rows<V, V::kTileRows, Panels>(height, here, weights);
    row += height;
  }
}

template <class V, int Panels, class Source>
void widen_block(const Source source, int64_t count, float* widened) {
  for (int64_t k = 0; k < count; ++k) {
#pragma GCC unroll 8
    for (int panel = 0; panel < Panels; ++panel)
      V::store(widened + (k * Panels + panel) * kLanes, source.at(k, panel));
  }
}

// The products of one group of Panels panels.
template <class V, int Panels>
void multiply_group(const MatmulTask& task, const MatmulWeight& weight, int64_t panel, TileRange range,
                    float* widened) {
  const int64_t stride = weight.inputs * kLanes;
  const int64_t rows = task.row_end - task.row_begin;
  const int64_t element_bytes = weight.dtype == DType::kFloat32 ? 4 : 2;
  const float* floats = static_cast<const float*>(weight.panels) + panel * stride;
  const uint16_t* halves = static_cast<const uint16_t*>(weight.panels) + panel * stride;
  const char* bytes = static_cast<const char*>(weight.panels) + panel * stride * element_bytes;
  const bool in_registers = V::kWidensCheaply || rows <= V::kTileRows;
  const int64_t block = rows <= V::kTileRows ? weight.inputs : kMatmulInnerBlock;
  const float* input = range.input;
  for (int64_t k = 0; k < weight.inputs; k += block) {
    range.count = weight.inputs - k < block ? weight.inputs - k : block;
    range.first = k == 0;
    range.input = input + k;
    const int64_t offset = k * kLanes;
    Upcoming upcoming{bytes + (offset + range.count * kLanes) * element_bytes, stride * element_bytes, Panels,
                      0};
    upcoming.lines = (weight.inputs - k - range.count < block ? weight.inputs - k - range.count : block) *
                     kLanes * element_bytes / kLineBytes;
    if (upcoming.lines == 0 && panel + Panels < task.panel_end) {  // the next group's first block
      upcoming.base = bytes + Panels * stride * element_bytes;
      upcoming.panels = task.panel_end - panel - Panels < Panels ? task.panel_end - panel - Panels : Panels;
      upcoming.lines = (weight.inputs < block ? weight.inputs : block) * kLanes * element_bytes / kLineBytes;
    }
    if (weight.dtype == DType::kFloat32) {
      multiply_tiles<V, Panels>(rows, range, FloatPanels<V>{floats + offset, stride}, upcoming);
    } else if (in_registers && weight.dtype == DType::kFloat16) {
      multiply_tiles<V, Panels>(rows, range, HalfPanels<V>{halves + offset, stride}, upcoming);
    } else if (in_registers) {
      multiply_tiles<V, Panels>(rows, range, BFloat16Panels<V>{halves + offset, stride}, upcoming);
    } else {
      if (weight.dtype == DType::kFloat16) {
        widen_block<V, Panels>(HalfPanels<V>{halves + offset, stride}, range.count, widened);
      } else {
        widen_block<V, Panels>(BFloat16Panels<V>{halves + offset, stride}, range.count, widened);
      }
      multiply_tiles<V, Panels>(rows, range, WidenedBlock<V, Panels>{widened}, upcoming);
    }
  }
}

template <class V, int Panels>
void multiply_group_of(int64_t panels, const MatmulTask& task, const MatmulWeight& weight, int64_t panel,
                       const TileRange& range, float* widened) {
  if (panels == Panels) {
    multiply_group<V, Panels>(task, weight, panel, range, widened);
  } else if constexpr (Panels > 1) {
    multiply_group_of<V, Panels - 1>(panels, task, weight, panel, range, widened);
  }
}

// products[row][panel - panel_begin][16], rows from row_begin
template <class V>
void multiply(const MatmulTask& task, const MatmulWeight& weight, float* products, float* widened) {
  const int64_t stride = (task.panel_end - task.panel_begin) * kLanes;
  for (int64_t panel = task.panel_begin; panel < task.panel_end; panel += V::kTilePanels) {
    const int64_t panels = task.panel_end - panel < V::kTilePanels ? task.panel_end - panel : V::kTilePanels;
    const TileRange range{task.input + task.row_begin * task.input_stride,
                          task.input_stride,
                          0,
                          products + (panel - task.panel_begin) * kLanes,
                          stride,
                          true,
                          nullptr};
    multiply_group_of<V, V::kTilePanels>(panels, task, weight, panel, range, widened);
  }
}

// Hands each vector of products to `finish(products, output, column, count)`, count of its 16 columns being
// real.
template <class V, class Finish>
void finish_rows(const MatmulTask& task, const MatmulWeight& weight, const float* products, Finish finish) {
  for (int64_t row = task.row_begin; row < task.row_end; ++row) {
    for (int64_t panel = task.panel_begin; panel < task.panel_end; ++panel, products += kLanes) {
      const int64_t column = panel * kLanes;
      const int64_t count = weight.outputs - column < kLanes ? weight.outputs - column : kLanes;
      finish(products, task.output + row * task.output_stride + column, column, count);
    }
  }
}

template <class V>
typename V::Vec with_bias(typename V::Vec sum, const MatmulWeight& weight, int64_t column, int64_t count) {
  return weight.bias == nullptr ? sum : V::add(sum, V::load_partial(weight.bias + column, count));
}

template <class V>
void linear_task(const MatmulTask& task, const MatmulWeight& weight) {
  float* products = task.scratch;
  multiply<V>(task, weight, products, task.scratch + 2 * kMatmulRows * kMatmulPanels * kLanes);
  finish_rows<V>(task, weight, products,
                 [&](const float* sums, float* output, int64_t column, int64_t count) {
                   V::store_partial(output, with_bias<V>(V::load(sums), weight, column, count), count);
                 });
}

template <class V>
void linear_add_task(const MatmulTask& task, const MatmulWeight& weight) {
  float* products = task.scratch;
  multiply<V>(task, weight, products, task.scratch + 2 * kMatmulRows * kMatmulPanels * kLanes);
  finish_rows<V>(task, weight, products,
                 [&](const float* sums, float* output, int64_t column, int64_t count) {
                   const auto sum = with_bias<V>(V::load(sums), weight, column, count);
                   V::store_partial(output, V::add(V::load_partial(output, count), sum), count);
                 });
}

template <class V>
void gated_linear_task(const MatmulTask& task, const MatmulWeight& gate, const MatmulWeight& up) {
  const int64_t up_offset = kMatmulRows * kMatmulPanels * kLanes;
  float* gates = task.scratch;
  float* ups = task.scratch + up_offset;
  multiply<V>(task, gate, gates, task.scratch + 2 * up_offset);
  multiply<V>(task, up, ups, task.scratch + 2 * up_offset);
  finish_rows<V>(task, gate, gates, [&](const float* sums, float* output, int64_t column, int64_t count) {
    const auto g = with_bias<V>(V::load(sums), gate, column, count);
    const auto u = with_bias<V>(V::load(sums + up_offset), up, column, count);
    V::store_partial(output, V::multiply(silu_lanes<V>(g), u), count);
  });
}

}  // namespace
}  // namespace kadenz
