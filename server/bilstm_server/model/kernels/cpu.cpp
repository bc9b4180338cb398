// One LSTM layer, all its directions, over a ragged batch: the kernel behind cpu.py.
//
// The sequences of a batch, longest first, are split into groups; a work item is one direction of
// one group. It walks its own steps, without padding and without a barrier: the sequences alive at
// a step are a prefix of the group that shrinks, and a reverse direction reads each sequence from
// its own end. The input's products with W_ih are computed for the rows of several steps
// together, just ahead of the steps, so that they stay in the cache.
//
// Every number is the result of the same operations in the same order, wherever its row lies in a
// batch: a sequence has the same bits alone and in company. That is why the compiler may not
// contract expressions (cpu_build.py) and every fused multiply-add is written out.

#include <algorithm>
#include <atomic>
#include <new>
#include <vector>

#if defined(__AMX_BF16__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "cpu_pool.h"
#include "cpu_products.h"
#include "cpu_recurrence.h"

namespace bilstm {
namespace {

// -- a whole layer ----------------------------------------------------------------------------------

// Splits the sequences into groups of up to `most` with about as many steps each, at least
// `wanted` of them: where each begins, and the end of the last.
std::vector<Index> split(const Batch& batch, Index most, Index wanted) {
  Index left = 0;
  for (Index row = 0; row < batch.sequences; ++row) left += batch.lengths[row];
  Index groups = std::max(wanted, divide_up(batch.sequences, most));
  std::vector<Index> bounds{0};
  while (bounds.back() < batch.sequences) {
    const Index share = divide_up(left, std::max<Index>(groups--, 1));
    Index row = bounds.back(), steps = 0;
    for (; row < batch.sequences && row - bounds.back() < most && steps < share; ++row)
      steps += batch.lengths[row];
    left -= steps;
    bounds.push_back(row);
  }
  return bounds;
}

// Operations below which a second thread costs more than it saves.
constexpr double kThreadedWork = 1e6;

template <class Products>
int run(const Layer& layer, const Batch& batch, int threads) {
  double tokens = 0;
  for (Index row = 0; row < batch.sequences; ++row) tokens += double(batch.lengths[row]);
  const double work = tokens * 2 * kGates * double(layer.hidden * (layer.input + layer.output));
  if (work < kThreadedWork) threads = 1;
  std::atomic<bool> exhausted{false};
  try {
    const std::vector<Index> bounds =
        split(batch, Products::kGroup, divide_up(threads, layer.directions));
    const Index items = Index(bounds.size() - 1) * layer.directions;
    Pool::instance().run(threads, int(items), [&](int item) {
      const Index group = item / layer.directions, direction = item % layer.directions;
      try {
        Recurrence<Products>(layer, batch, direction, bounds[group], bounds[group + 1]).run();
      } catch (const std::bad_alloc&) {
        exhausted = true;
      }
    });
  } catch (const std::bad_alloc&) {
    exhausted = true;
  }
  return exhausted ? -1 : 0;
}

// -- a product for its own sake -----------------------------------------------------------------------

// y [rows, columns] = x [rows, depth] . matrix + bias, a row's bits independent of the others'.
template <class Products>
void linear(Index rows, Index depth, Index columns, const typename Products::Number* x,
            const char* packed, const float* bias, typename Products::Number* y) {
  using Operand = typename Products::Operand;
  static thread_local Buffer<Operand> inputs;
  static thread_local Buffer<float> block;
  const Index stride = round_up(depth, Products::kDepthUnit);
  Operand* a = inputs.reserve(Products::kBlock * stride);
  float* sums = block.reserve(Products::kBlock * kPanel);
  zero_padding(a, Products::kBlock, depth, stride);
  in_blocks<Products>(rows, [&](Index row, Index count) {
    for (Index own = 0; own < count; ++own)
      convert(x + (row + own) * depth, depth, a + own * stride);
    for (Index panel = 0; panel * kPanel < columns; ++panel) {
      Products::multiply(count, a, stride, panels_of<Products>(packed, panel, 1, depth),
                         {bias + panel * kPanel, 0, 0}, {sums, kPanel, 0});
      const Index wanted = std::min<Index>(kPanel, columns - panel * kPanel);
      for (Index own = 0; own < count; ++own)
        convert(sums + own * kPanel, wanted, y + (row + own) * columns + panel * kPanel);
    }
  });
  Products::release();
}

// Calls `call` with the products of the number's type.
template <class Call>
auto with_products(int number, const Call& call) {
  return number == 0 ? call(FloatProducts()) : call(Bfloat16Products());
}

}  // namespace
}  // namespace bilstm

// -- what cpu.py calls --------------------------------------------------------------------------------
//
// `number` is 0 for float32 and 1 for bfloat16. `gates` says whether a matrix [columns, depth] is
// that of the four gates, i, f, g and o one below the other.

#pragma GCC visibility push(default)
extern "C" {

using bilstm::Index;

// 0 if the operating system lets this process use the instructions that this was compiled for.
int bilstm_start() {
#if defined(__AMX_BF16__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return int(syscall(SYS_arch_prctl, kRequestPermission, kTileData));
#else
  return 0;
#endif
}

Index bilstm_packed_bytes(int number, Index columns, Index depth) {
  return bilstm::with_products(number, [&](auto products) {
    return bilstm::packed_bytes<decltype(products)>(columns, depth);
  });
}

// `packed` must be zeroed.
void bilstm_pack(int number, int gates, Index columns, Index depth, const void* matrix,
                 char* packed) {
  bilstm::with_products(number, [&](auto products) {
    using Products = decltype(products);
    const auto* weights = static_cast<const typename Products::Number*>(matrix);
    bilstm::pack<Products>(weights, columns, depth, gates != 0, packed);
  });
}

// 0, or -1 if there is not enough memory.
int bilstm_run(int number, const bilstm::Layer* layer, const bilstm::Batch* batch, int threads) {
  return bilstm::with_products(number, [&](auto products) {
    return bilstm::run<decltype(products)>(*layer, *batch, threads);
  });
}

// x [rows, depth] -> y [rows, columns]; matrix and bias packed, `gates` 0. Returns as bilstm_run.
int bilstm_linear(int number, Index rows, Index depth, Index columns, const void* x,
                  const char* packed, const float* bias, void* y) {
  return bilstm::with_products(number, [&](auto products) {
    using Products = decltype(products);
    using Number = typename Products::Number;
    try {
      bilstm::linear<Products>(rows, depth, columns, static_cast<const Number*>(x), packed, bias,
                               static_cast<Number*>(y));
    } catch (const std::bad_alloc&) {
      return -1;
    }
    return 0;
  });
}

}  // extern "C"
#pragma GCC visibility pop
