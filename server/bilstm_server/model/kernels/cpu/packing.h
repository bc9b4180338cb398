// Weights in the order in which products read them.

#pragma once

#include "products.h"

namespace bilstm {

template <class Products>
Index packed_bytes(Index columns, Index depth) {
  return divide_up(columns, kPanel) * Products::panel_bytes(depth);
}

// A matrix [columns, depth] as nn.LSTM has it. A panel of the gates' takes kLanes units' i, f, g
// and o; one of a projection's takes kPanel columns as they come. `packed` is zeroed.
template <class Products>
void pack(const typename Products::Number* weights, Index columns, Index depth, bool gates,
          char* packed) {
  const Index units = columns / kGates;
  for (Index panel = 0; panel * kPanel < columns; ++panel, packed += Products::panel_bytes(depth)) {
    for (int column = 0; column < kPanel; ++column) {
      const int gate = column / kLanes, lane = column % kLanes;
      const Index unit = panel * kLanes + lane;
      const Index from = gates ? gate * units + unit : panel * kPanel + column;
      if (gates ? unit >= units : from >= columns) continue;
      for (Index k = 0; k < depth; ++k)
        Products::put(packed, k, gate, lane, weights[from * depth + k]);
    }
  }
}

template <class Products>
Panels panels_of(const char* packed, Index first, Index count, Index depth) {
  const Index bytes = Products::panel_bytes(depth);
  return {packed + first * bytes, count, depth, bytes};
}

}  // namespace bilstm
