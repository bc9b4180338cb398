// What layer.py passes: library.py has ctypes structures of the same fields.

#pragma once

#include "vectors.h"

namespace bilstm {

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

}  // namespace bilstm
