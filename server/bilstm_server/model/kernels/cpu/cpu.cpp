// One LSTM layer, all its directions, over ragged batches: the kernel behind kernel.py. And what a
// model has around it: products, and the best paths of a CRF.
//
// Each direction's sequences, longest first, are split into groups; a work item is one direction of
// one group. It walks its own steps, without padding and without a barrier: the sequences that have
// a step are a prefix of the group that shrinks, and the backward direction reads each sequence from
// its own end. The input's products with W_ih are computed for the rows of several steps
// together, just ahead of the steps, so that they stay in the cache.
//
// Every number is the result of the same operations in the same order, wherever its row lies in a
// batch: a sequence has the same bits alone and in company. That is why the compiler may not
// contract expressions (build.py) and every fused multiply-add is written out.

#include <algorithm>
#include <atomic>
#include <new>
#include <numeric>
#include <vector>

#if defined(__AMX_BF16__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "layer.h"
#include "packing.h"
#include "pool.h"
#include "products.h"
#include "recurrence.h"
#include "viterbi.h"
#include "workspace.h"

namespace bilstm {
namespace {

// Calls work(item) for every item below `items`, on up to `threads` threads. Returns 0, or -1 if
// there is not enough memory.
template <class Work>
int share_work(int threads, int items, const Work& work) {
  std::atomic<bool> exhausted{false};
  try {
    Pool::instance().run(threads, items, [&](int item) {
      try {
        work(item);
      } catch (const std::bad_alloc&) {
        exhausted = true;
      }
    });
  } catch (const std::bad_alloc&) {
    exhausted = true;
  }
  return exhausted ? -1 : 0;
}

// -- a whole layer ----------------------------------------------------------------------------------

// A group of sequences in one direction.
struct Item {
  Index direction, first, last, steps;
};

template <class Batch>
Index steps_of(const Batch& batch) {
  return std::accumulate(batch.lengths, batch.lengths + batch.sequences, Index(0));
}

// Splits a direction's sequences, of so many `steps`, into groups of up to `most` with about as
// many steps each, at least `wanted` of them.
void split(const Batch& batch, Index direction, Index steps, Index most, Index wanted,
           std::vector<Item>& items) {
  Index groups = std::max(wanted, divide_up(batch.sequences, most));
  for (Index row = 0; row < batch.sequences;) {
    const Index share = divide_up(steps, std::max<Index>(groups--, 1));
    Item item{direction, row, row, 0};
    for (; row < batch.sequences && row - item.first < most && item.steps < share; ++row)
      item.steps += batch.lengths[row];
    item.last = row;
    steps -= item.steps;
    items.push_back(item);
  }
}

// Operations a direction below which a second thread costs more than it saves.
constexpr double kThreadedWork = 1e6;

template <class Products>
int run(const Layer& layer, const Batch* batches, int threads) {
  Index steps[2] = {0, 0};
  for (Index k = 0; k < layer.directions; ++k) steps[k] = steps_of(batches[k]);
  const Index all = steps[0] + steps[1];
  const double work = double(all) * 2 * kGates * double(layer.hidden) *
                      double(layer.input + layer.output) / double(layer.directions);
  if (work < kThreadedWork) threads = 1;
  try {
    std::vector<Item> items;
    for (Index k = 0; k < layer.directions; ++k) {
      if (steps[k] > 0)
        split(batches[k], k, steps[k], Products::kGroup, divide_up(threads * steps[k], all), items);
    }
    // The longest first, so that the threads end together.
    std::stable_sort(items.begin(), items.end(),
                     [](const Item& one, const Item& other) { return one.steps > other.steps; });
    return share_work(threads, int(items.size()), [&](int index) {
      const Item& item = items[index];
      Recurrence<Products>(layer, batches[item.direction], item.direction, item.first, item.last)
          .run();
    });
  } catch (const std::bad_alloc&) {
    return -1;
  }
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

// Shares of the rows for each thread, so that one that wakes late has less to do.
constexpr Index kShares = 4;

// As `linear`, with threads that share the rows. Returns as share_work.
template <class Products>
int share_linear(Index rows, Index depth, Index columns, const typename Products::Number* x,
                 const char* packed, const float* bias, typename Products::Number* y,
                 int threads) {
  if (2 * double(rows) * double(depth) * double(columns) < kThreadedWork) threads = 1;
  const Index shares = threads < 2 ? 1 : kShares * threads;
  const Index most = std::max(round_up(divide_up(rows, shares), Products::kBlock), Index(1));
  return share_work(threads, int(divide_up(rows, most)), [&](int share) {
    const Index row = share * most;
    linear<Products>(std::min(most, rows - row), depth, columns, x + row * depth, packed, bias,
                     y + row * columns);
  });
}

// Calls `call` with the products of the number's type.
template <class Call>
auto with_products(int number, const Call& call) {
  return number == 0 ? call(FloatProducts()) : call(Bfloat16Products());
}

// -- the best paths -----------------------------------------------------------------------------------

// Calls each(viterbi, rank) for every sequence. `wide` says whether scores are doubles, and not
// floats.
template <class Each>
int each_path(bool wide, const Chain& chain, const PathBatch& batch, int threads,
              const Each& each) {
  const double work = 4 * double(steps_of(batch)) * double(chain.tags) * double(chain.stride);
  if (work < kThreadedWork) threads = 1;
  const auto run = [&](const auto& viterbi) {
    return share_work(threads, int(batch.sequences), [&](int rank) { each(viterbi, rank); });
  };
  return wide ? run(Viterbi<double>(chain, batch)) : run(Viterbi<float>(chain, batch));
}

}  // namespace
}  // namespace bilstm

// -- what library.py calls --------------------------------------------------------------------------------
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

// `batches` has one for each direction. 0, or -1 if there is not enough memory.
int bilstm_run(int number, const bilstm::Layer* layer, const bilstm::Batch* batches, int threads) {
  return bilstm::with_products(number, [&](auto products) {
    return bilstm::run<decltype(products)>(*layer, batches, threads);
  });
}

// x [rows, depth] -> y [rows, columns]; matrix and bias packed, `gates` 0. Returns as bilstm_run.
int bilstm_linear(int number, Index rows, Index depth, Index columns, const void* x,
                  const char* packed, const float* bias, void* y, int threads) {
  return bilstm::with_products(number, [&](auto products) {
    using Products = decltype(products);
    using Number = typename Products::Number;
    return bilstm::share_linear<Products>(rows, depth, columns, static_cast<const Number*>(x),
                                          packed, bias, static_cast<Number*>(y), threads);
  });
}

// The next steps of every sequence: emissions and scores -> backpointers and scores. Returns as
// bilstm_run.
int bilstm_viterbi_advance(int wide, const bilstm::Chain* chain, const bilstm::PathBatch* batch,
                           int threads) {
  return bilstm::each_path(
      wide != 0, *chain, *batch, threads,
      [](const auto& viterbi, Index rank) { viterbi.advance(rank); });
}

// All steps of every sequence: backpointers and the last scores -> path and best. Returns as
// bilstm_run.
int bilstm_viterbi_trace(int wide, const bilstm::Chain* chain, const bilstm::PathBatch* batch,
                         int threads) {
  return bilstm::each_path(wide != 0, *chain, *batch, threads,
                           [](const auto& viterbi, Index rank) { viterbi.trace(rank); });
}

}  // extern "C"
#pragma GCC visibility pop
