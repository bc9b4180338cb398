// One direction of an LSTM layer over a group of sequences. What it is part of is in cpu.cpp.

#pragma once

#include <algorithm>
#include <type_traits>
#include <utility>

#include "layer.h"
#include "packing.h"
#include "products.h"
#include "vectors.h"
#include "workspace.h"

namespace bilstm {

template <class Products>
class Recurrence {
  using Number = typename Products::Number;
  using Operand = typename Products::Operand;
  // Whether products read floats: then a step's hidden_ are, rounded, the next one's states_.
  static constexpr bool kSwaps = std::is_same_v<Operand, float>;

 public:
  // The sequences from `first` up to `last`, longest first, in direction 0 or 1, the backward one.
  Recurrence(const Layer& layer, const Batch& batch, Index direction, Index first, Index last)
      : layer_(layer),
        weights_(layer.direction[direction]),
        backward_(direction == 1),
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
    Index active = rows_;
    for (Index step = 0; active > 0;) {
      const Index steps = project_input(step, active);
      for (Index end = step + steps, row = 0; step < end; ++step) {
        advance(step, active, row);
        publish(active, step);
        row += active;
        active = active_at(active, step + 1);
      }
    }
    Products::release();
    store_states();
  }

 private:
  // How many of the first `active` sequences have more than `step` steps.
  Index active_at(Index active, Index step) const {
    while (active > 0 && lengths_[active - 1] <= step) --active;
    return active;
  }

  Index input_row(Index sequence, Index step) const {
    return first_rows_[sequence] + (backward_ ? lengths_[sequence] - 1 - step : step);
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
  Index project_input(Index step, Index active) {
    Index rows = 0, steps = 0;
    do {
      for (Index row = 0; row < active; ++row)
        convert(x_ + input_row(row, step + steps) * layer_.input, layer_.input,
                inputs_ + (rows + row) * input_stride_);
      rows += active;
      ++steps;
      active = active_at(active, step + steps);
    } while (active > 0 && rows + active <= Products::kAhead);
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

  // One step of `active` rows, whose input's products are in sums_ from `first` on: cells_ and
  // hidden_ (o * tanh(c)) of the step before -> of this one.
  void advance(Index step, Index active, Index first) {
    const Index panels = unit_stride_ / kLanes;
    // Of few rows, several panels together, so that an activation has enough to overlap.
    const Index together = std::max<Index>(Products::kBlock / active, 1);
    for (Index done = 0; done < panels; done += together) {
      const Index count = std::min(together, panels - done);
      // To and fro: the panels that a step ends with are still in the cache when the next begins.
      const Index panel = step % 2 == 0 ? done : panels - done - count;
      in_blocks<Products>(active, [&](Index row, Index rows) {
        Products::multiply(rows, states_ + row * state_stride_, state_stride_,
                           panels_of<Products>(weights_.w_hh, panel, count, layer_.output),
                           as_input(sums(panel, first + row)), {block_, kPanel, rows * kPanel});
        const Index unit = row * unit_stride_ + panel * kLanes;
        activate(count, rows, block_, cells_ + unit, hidden_ + unit, unit_stride_);
      });
    }
  }

  // hidden_ -> y and states_, by way of the projection if there is one. hidden_ is used up.
  void publish(Index active, Index step) {
    if (weights_.w_hr != nullptr) project_outputs(active);
    for (Index row = 0; row < active; ++row) {
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
  void project_outputs(Index active) {
    for (Index row = 0; row < active; ++row)
      convert(hidden_ + row * unit_stride_, layer_.hidden, outputs_ + row * output_stride_);
    static constexpr float zeros[kPanel] = {};
    for (Index panel = 0; panel * kPanel < layer_.output; ++panel) {
      const Index columns = std::min<Index>(kPanel, layer_.output - panel * kPanel);
      in_blocks<Products>(active, [&](Index row, Index count) {
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
  const bool backward_;
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
