// One direction of an LSTM layer over a group of sequences. What it is part of is in cpu.cpp.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <type_traits>
#include <utility>

#include "products.h"
#include "vectors.h"

namespace bilstm {

// -- what layer.py passes; ctypes structures of the same fields -------------------------------------

struct Direction {
  const char* w_ih;   // packed [4 hidden, input]
  const char* w_hh;   // packed [4 hidden, output]
  const char* w_hr;   // packed [output, hidden], null without a projection
  const float* bias;  // b_ih + b_hh, [panels, panel]
};

struct Layer {
  Index input, hidden, output, directions;
  Direction direction[2];
};

// What one direction runs over: B sequences with N steps in all, or none. x, y and h are of the
// layer's type; so are cells, unless they are carried on and may lose nothing: then floats.
struct Batch {
  Index sequences;
  const Index* lengths;     // [B], longest first
  const Index* first_rows;  // [B], in the same order
  const Index* positions;   // [B], in the same order: the caller's
  const void* x;            // [N, input]
  void* y;                  // [N, output], a row y_stride numbers after the other
  Index y_stride;
  const void* h_0;          // [B, output], in the caller's order
  const void* c_0;          // [B, hidden]
  void* h_n;                // as h_0
  void* c_n;                // as c_0
  Index float_cells;
};

// -- memory ---------------------------------------------------------------------------------------

// A thread keeps its buffers; their size is bounded by the model's and by kGroup.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }

  T* reserve(Index count) {
    if (count > capacity_) {
      std::free(data_);
      capacity_ = 0;
      data_ = static_cast<T*>(std::aligned_alloc(64, round_up(count * Index(sizeof(T)), 64)));
      if (data_ == nullptr) throw std::bad_alloc();
      capacity_ = count;
    }
    return data_;
  }

 private:
  T* data_ = nullptr;
  Index capacity_ = 0;
};

template <class Operand>
struct Workspace {
  Buffer<Operand> inputs, states, outputs;
  Buffer<float> cells, hidden, sums, block;
};

// Calls block(row, count) for rows in equal blocks of up to kBlock; the last may be smaller.
template <class Products, class Block>
void in_blocks(Index rows, const Block& block) {
  const Index blocks = divide_up(rows, Products::kBlock);
  const Index most = blocks == 1 ? rows : round_up(divide_up(rows, blocks), Products::kShare);
  Products::prepare(most);
  for (Index row = 0; row < rows; row += most) block(row, std::min(most, rows - row));
}

template <class Products>
Panels panels_of(const char* packed, Index first, Index count, Index depth) {
  const Index bytes = Products::panel_bytes(depth);
  return {packed + first * bytes, count, depth, bytes};
}

template <class Operand>
void zero_padding(Operand* to, Index rows, Index used, Index stride) {
  if (used == stride) return;
  for (Index row = 0; row < rows; ++row)
    std::fill(to + row * stride + used, to + (row + 1) * stride, Operand(0));
}

// -- one direction of one group -------------------------------------------------------------------

template <class Products>
class Recurrence {
  using Number = typename Products::Number;
  using Operand = typename Products::Operand;
  // Whether products read floats: then a step's hidden_ are, rounded, the next one's states_.
  static constexpr bool kSwaps = std::is_same_v<Operand, float>;

 public:
  // The sequences from `first` up to `last`, longest first, in direction 0 or 1, the reverse.
  Recurrence(const Layer& layer, const Batch& batch, Index direction, Index first, Index last)
      : layer_(layer),
        weights_(layer.direction[direction]),
        reverse_(direction == 1),
        rows_(last - first),
        lengths_(batch.lengths + first),
        first_rows_(batch.first_rows + first),
        positions_(batch.positions + first),
        x_(static_cast<const Number*>(batch.x)),
        y_(static_cast<Number*>(batch.y)),
        y_stride_(batch.y_stride),
        h_0_(static_cast<const Number*>(batch.h_0)),
        c_0_(batch.c_0),
        h_n_(static_cast<Number*>(batch.h_n)),
        c_n_(batch.c_n),
        float_cells_(batch.float_cells != 0),
        input_stride_(round_up(layer.input, Products::kDepthUnit)),
        state_stride_(kSwaps ? round_up(layer.hidden, kLanes)
                             : round_up(layer.output, Products::kDepthUnit)),
        output_stride_(round_up(layer.hidden, Products::kDepthUnit)),
        unit_stride_(round_up(layer.hidden, kLanes)),
        sum_rows_(std::max(Products::kAhead, rows_) + Products::kBlock) {
    static thread_local Workspace<Operand> space;
    const Index rows = rows_ + Products::kBlock;
    inputs_ = space.inputs.reserve(sum_rows_ * input_stride_);
    states_ = space.states.reserve(rows * state_stride_);
    cells_ = space.cells.reserve(rows * unit_stride_);
    hidden_ = space.hidden.reserve(rows * unit_stride_);
    sums_ = space.sums.reserve(sum_rows_ * unit_stride_ * kGates);
    block_ = space.block.reserve(Products::kBlock * kPanel);
    zero_padding(inputs_, sum_rows_, layer.input, input_stride_);
    if constexpr (!kSwaps) zero_padding(states_, rows, layer.output, state_stride_);
    if (weights_.w_hr != nullptr) {
      outputs_ = space.outputs.reserve(rows * output_stride_);
      zero_padding(outputs_, rows, layer.hidden, output_stride_);
    }
  }

  void run() {
    load_states();
    Index live = rows_;
    for (Index step = 0; live > 0;) {
      const Index steps = project_input(step, live);
      for (Index end = step + steps, row = 0; step < end; ++step) {
        advance(step, live, row);
        publish(live, step);
        row += live;
        live = alive(live, step + 1);
      }
    }
    Products::release();
    store_states();
  }

 private:
  // How many of the first `live` sequences have more than `step` steps.
  Index alive(Index live, Index step) const {
    while (live > 0 && lengths_[live - 1] <= step) --live;
    return live;
  }

  Index input_row(Index sequence, Index step) const {
    return first_rows_[sequence] + (reverse_ ? lengths_[sequence] - 1 - step : step);
  }

  void load_states() {
    for (Index row = 0; row < rows_; ++row) {
      const Index from = positions_[row];
      convert(h_0_ + from * layer_.output, layer_.output, states_ + row * state_stride_);
      float* cells = cells_ + row * unit_stride_;
      if (float_cells_)
        convert(static_cast<const float*>(c_0_) + from * layer_.hidden, layer_.hidden, cells);
      else
        convert(static_cast<const Number*>(c_0_) + from * layer_.hidden, layer_.hidden, cells);
      std::fill(cells + layer_.hidden, cells + unit_stride_, 0.0f);
    }
  }

  void store_states() const {
    for (Index row = 0; row < rows_; ++row) {
      // h_n is what y has at the last step.
      const Number* last = y_ + input_row(row, lengths_[row] - 1) * y_stride_;
      const Index to = positions_[row];
      convert(last, layer_.output, h_n_ + to * layer_.output);
      const float* cells = cells_ + row * unit_stride_;
      if (float_cells_)
        convert(cells, layer_.hidden, static_cast<float*>(c_n_) + to * layer_.hidden);
      else
        convert(cells, layer_.hidden, static_cast<Number*>(c_n_) + to * layer_.hidden);
    }
  }

  // W_ih x + b of this step, and of those after it that fit into kAhead rows -> sums_ [panels, rows,
  // panel]. Returns the number of steps.
  Index project_input(Index step, Index live) {
    Index rows = 0, steps = 0;
    do {
      for (Index row = 0; row < live; ++row)
        convert(x_ + input_row(row, step + steps) * layer_.input, layer_.input,
                inputs_ + (rows + row) * input_stride_);
      rows += live;
      ++steps;
      live = alive(live, step + steps);
    } while (live > 0 && rows + live <= Products::kAhead);
    // Few rows meet all panels in one go; more of them meet one, while it is in the cache.
    const Index panels = unit_stride_ / kLanes;
    const Index together = rows <= Products::kBlock ? panels : 1;
    for (Index panel = 0; panel < panels; panel += together) {
      in_blocks<Products>(rows, [&](Index row, Index count) {
        Products::multiply(count, inputs_ + row * input_stride_, input_stride_,
                           panels_of<Products>(weights_.w_ih, panel, together, layer_.input),
                           {weights_.bias + panel * kPanel, 0, kPanel}, sums(panel, row));
      });
    }
    return steps;
  }

  static Sums<const float> as_input(const Sums<float>& sums) {
    return {sums.first, sums.row_stride, sums.panel_stride};
  }

  Sums<float> sums(Index panel, Index row) const {
    return {sums_ + (panel * sum_rows_ + row) * kPanel, kPanel, sum_rows_ * kPanel};
  }

  // One step of `live` rows, whose input's products are in sums_ from `first` on: cells_ and
  // hidden_ (o * tanh(c)) of the step before -> of this one.
  void advance(Index step, Index live, Index first) {
    const Index panels = unit_stride_ / kLanes;
    // Of few rows, several panels together, so that an activation has enough to overlap.
    const Index together = std::max<Index>(Products::kBlock / live, 1);
    for (Index done = 0; done < panels; done += together) {
      const Index count = std::min(together, panels - done);
      // To and fro: the panels that a step ends with are still in the cache when the next begins.
      const Index panel = step % 2 == 0 ? done : panels - done - count;
      in_blocks<Products>(live, [&](Index row, Index rows) {
        Products::multiply(rows, states_ + row * state_stride_, state_stride_,
                           panels_of<Products>(weights_.w_hh, panel, count, layer_.output),
                           as_input(sums(panel, first + row)), {block_, kPanel, rows * kPanel});
        const Index unit = row * unit_stride_ + panel * kLanes;
        activate(count, rows, block_, cells_ + unit, hidden_ + unit, unit_stride_);
      });
    }
  }

  // hidden_ -> y and states_, by way of the projection if there is one. hidden_ is used up.
  void publish(Index live, Index step) {
    if (weights_.w_hr != nullptr) project_outputs(live);
    for (Index row = 0; row < live; ++row) {
      Number* y = y_ + input_row(row, step) * y_stride_;
      float* hidden = hidden_ + row * unit_stride_;
      convert(hidden, layer_.output, y);
      if constexpr (!kSwaps) {
        convert(y, layer_.output, states_ + row * state_stride_);
      } else if constexpr (!std::is_same_v<Number, float>) {
        convert(y, layer_.output, hidden);
      }
    }
    if constexpr (kSwaps) std::swap(states_, hidden_);
  }

  // W_hr hidden_ -> the first of hidden_'s columns.
  void project_outputs(Index live) {
    for (Index row = 0; row < live; ++row)
      convert(hidden_ + row * unit_stride_, layer_.hidden, outputs_ + row * output_stride_);
    static constexpr float zeros[kPanel] = {};
    for (Index panel = 0; panel * kPanel < layer_.output; ++panel) {
      const Index columns = std::min<Index>(kPanel, layer_.output - panel * kPanel);
      in_blocks<Products>(live, [&](Index row, Index count) {
        Products::multiply(count, outputs_ + row * output_stride_, output_stride_,
                           panels_of<Products>(weights_.w_hr, panel, 1, layer_.hidden), {zeros, 0, 0},
                           {block_, kPanel, 0});
        for (Index own = 0; own < count; ++own)
          std::copy_n(block_ + own * kPanel, columns,
                      hidden_ + (row + own) * unit_stride_ + panel * kPanel);
      });
    }
  }

  const Layer& layer_;
  const Direction& weights_;
  const bool reverse_;
  const Index rows_;
  const Index* const lengths_;
  const Index* const first_rows_;
  const Index* const positions_;
  const Number* const x_;
  Number* const y_;
  const Index y_stride_;
  const Number* const h_0_;
  const void* const c_0_;
  Number* const h_n_;
  void* const c_n_;
  const bool float_cells_;
  const Index input_stride_, state_stride_, output_stride_, unit_stride_, sum_rows_;
  Operand* inputs_;           // [sum_rows_, input_stride_]
  Operand* states_;           // h [rows_, state_stride_]
  Operand* outputs_ = nullptr;  // o * tanh(c) [rows_, output_stride_], with a projection only
  float* cells_;              // c [rows_, unit_stride_]
  float* hidden_;             // o * tanh(c), or what is made of it [rows_, unit_stride_]
  float* sums_;               // see project_input
  float* block_;              // [kBlock, panel]
};

}  // namespace bilstm
