// Rows times panels of weights, for each instruction set.
//
// BILSTM_BFLOAT16_DOT and BILSTM_BFLOAT16_TILES, if defined, say that bfloat16 products are
// computed by AVX512_BF16 or by AMX (build.py).

#pragma once

#include <algorithm>
#include <type_traits>

#include "vectors.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace bilstm {

// How rows are multiplied with panels. Any class of products has:
//   Number, Operand   what the caller has, and what a product reads of a row
//   kAhead            rows whose input is multiplied together, if a step has fewer
//   kGroup            sequences that advance together, so that the cache holds what they need
//   kBlock            rows between two activations
//   kShare            rows that are best taken together: blocks are multiples of it
//   kDepthUnit        what a row's and a panel's depth are rounded up to, with zeros
//   panel_bytes, put  a panel's size, and where a weight lies in it
//   prepare(rows)     before products of up to so many rows each
//   multiply          the products; may read further rows of a block, and write theirs
//   release           when a thread is done

// Weights of `count` panels, one after the other.
struct Panels {
  const char* weights;
  Index count, depth, bytes;
};

// Sums of rows and panels, [kPanel] each; a stride of 0 repeats one for all.
template <class Float>
struct Sums {
  Float* first;
  Index row_stride, panel_stride;

  Float* at(Index panel, Index row) const {
    return first + panel * panel_stride + row * row_stride;
  }
};

// Calls share(row, count) for rows in even shares of at most `Most`: 4 by 3 are 2 and 2.
template <int Most, class Share>
inline void share_out(Index rows, const Share& share) {
  Index shares = divide_up(rows, Most);
  for (Index row = 0; row < rows; --shares) {
    const Index own = divide_up(rows - row, shares);
    share(row, own);
    row += own;
  }
}

// Calls `call` with `number`, at most `Most`, as a constant.
template <int Most, class Call>
inline void with_constant(Index number, const Call& call) {
  if constexpr (Most > 1) {
    if (number < Most) return with_constant<Most - 1>(number, call);
  }
  call(std::integral_constant<int, Most>());
}

// Products whose sums stay in registers. `Traits` reads a row's numbers and a panel's weights of
// kDepthUnit depths at a time, and adds their products.
template <class Traits>
struct VectorProducts : Traits {
  using Number = typename Traits::Number;
  using Operand = typename Traits::Operand;
  static constexpr Index kAhead = 128;
  static constexpr Index kGroup = 128;
  static constexpr Index kShare = Traits::kRows;
  static constexpr Index kBlock = 8 * kShare;

  static Index panel_bytes(Index depth) {
    return round_up(depth, Traits::kDepthUnit) * kPanel * Index(sizeof(Number));
  }

  static void prepare(Index) {}
  static void release() {}

  // out = in + a . panels, for every row [depth] of `a`.
  static void multiply(Index rows, const Operand* a, Index a_stride, const Panels& panels,
                       const Sums<const float>& in, const Sums<float>& out) {
    for (Index panel = 0; panel < panels.count; ++panel) {
      const char* weights = panels.weights + panel * panels.bytes;
      if (rows == 1 && panel + 1 < panels.count) {  // or else a sum would wait for the last one
        share<1, 2>(a, a_stride, weights, panels, in, out, panel++, 0);
        continue;
      }
      share_out<Traits::kRows>(rows, [&](Index row, Index own) {
        with_constant<Traits::kRows>(own, [&](auto constant) {
          share<decltype(constant)::value, 1>(a + row * a_stride, a_stride, weights, panels, in,
                                              out, panel, row);
        });
      });
    }
  }

 private:
  // Never inlined: the sums need every register.
  template <int Rows, int Count>
  __attribute__((noinline)) static void share(const Operand* a, Index a_stride,
                                              const char* weights, const Panels& panels,
                                              const Sums<const float>& in, const Sums<float>& out,
                                              Index panel, Index row) {
    Vector sums[Count][Rows][kGates];
    UNROLL for (int p = 0; p < Count; ++p)
      UNROLL for (int r = 0; r < Rows; ++r)
        UNROLL for (int gate = 0; gate < kGates; ++gate)
          sums[p][r][gate] = load<Vector>(in.at(panel + p, row + r) + gate * kLanes);
    const Index bytes = panels.bytes, depth = panels.depth;
    for (Index k = 0; k < depth; k += Traits::kDepthUnit, weights += Traits::kStepBytes) {
      UNROLL for (int p = 0; p < Count; ++p) {
        UNROLL for (int r = 0; r < Rows; ++r) {
          const auto number = Traits::number(a + r * a_stride + k);
          UNROLL for (int gate = 0; gate < kGates; ++gate)
            sums[p][r][gate] =
                Traits::add(sums[p][r][gate], number, Traits::weight(weights + p * bytes, gate));
        }
      }
    }
    UNROLL for (int p = 0; p < Count; ++p)
      UNROLL for (int r = 0; r < Rows; ++r)
        UNROLL for (int gate = 0; gate < kGates; ++gate)
          store(out.at(panel + p, row + r) + gate * kLanes, sums[p][r][gate]);
  }
};

constexpr bool kManyRegisters = kLanes == 16;  // 32 of them

// Rows of floats, one depth at a time.
struct FloatRows {
  using Operand = float;
  static constexpr Index kDepthUnit = 1;

  static Vector number(const float* a) { return splat(*a); }
  static Vector add(Vector sum, Vector a, Vector b) { return multiply_add(a, b, sum); }
};

// float32: panel [depth][gate][lane].
struct FloatTraits : FloatRows {
  using Number = float;
  static constexpr int kRows = kManyRegisters ? 6 : 3;
  static constexpr Index kStepBytes = kPanel * sizeof(float);

  static void put(char* panel, Index depth, int gate, int lane, float weight) {
    store(panel + depth * kStepBytes + (gate * kLanes + lane) * sizeof weight, weight);
  }

  static Vector weight(const char* step, int gate) {
    return load<Vector>(step + gate * sizeof(Vector));
  }
};

// bfloat16 without instructions for it: the weights are widened in registers, one operation each,
// as two gates share a word. Panel [depth][i and f, g and o][lane][2].
struct WidenedTraits : FloatRows {
  using Number = Bfloat16;
  static constexpr int kRows = kManyRegisters ? 6 : 2;
  static constexpr Index kStepBytes = kPanel * sizeof(Bfloat16);

  static void put(char* panel, Index depth, int gate, int lane, Bfloat16 weight) {
    const Index word = gate / 2 * kLanes + lane;
    store(panel + depth * kStepBytes + (2 * word + gate % 2) * sizeof weight, weight);
  }

  static Vector weight(const char* step, int gate) {
    const Bits words = load<Bits>(step + gate / 2 * sizeof(Bits));
    return Vector(gate % 2 == 0 ? words << 16 : words & 0xffff0000);
  }
};

#if defined(BILSTM_BFLOAT16_DOT)

// bfloat16 by AVX512_BF16, two depths at a time: panel [depth / 2][gate][lane][2].
struct DotTraits {
  using Number = Bfloat16;
  using Operand = Bfloat16;
  static constexpr int kRows = 6;
  static constexpr Index kDepthUnit = 2;
  static constexpr Index kStepBytes = 2 * kPanel * sizeof(Bfloat16);

  static void put(char* panel, Index depth, int gate, int lane, Bfloat16 weight) {
    const Index word = gate * kLanes + lane;
    store(panel + depth / 2 * kStepBytes + (2 * word + depth % 2) * sizeof weight, weight);
  }

  static Bits number(const Bfloat16* a) { return Bits{} + load<std::uint32_t>(a); }
  static Bits weight(const char* step, int gate) { return load<Bits>(step + gate * sizeof(Bits)); }
  static Vector add(Vector sum, Bits a, Bits b) {
#if defined(__AVX512BF16__)
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
#else
    const std::uint32_t high = 0xffff0000;
    sum = multiply_add(Vector(a << 16), Vector(b << 16), sum);
    return multiply_add(Vector(a & high), Vector(b & high), sum);
#endif
  }
};

#endif

}  // namespace bilstm

#if defined(BILSTM_BFLOAT16_TILES)
#include "tiles.h"
#endif

namespace bilstm {

using FloatProducts = VectorProducts<FloatTraits>;
#if defined(BILSTM_BFLOAT16_TILES)
using Bfloat16Products = TileProducts;
#elif defined(BILSTM_BFLOAT16_DOT)
using Bfloat16Products = VectorProducts<DotTraits>;
#else
using Bfloat16Products = VectorProducts<WidenedTraits>;
#endif

// Calls block(row, count) for rows in equal blocks of up to kBlock; the last may be smaller.
template <class Products, class Block>
void in_blocks(Index rows, const Block& block) {
  const Index blocks = divide_up(rows, Products::kBlock);
  const Index most = blocks == 1 ? rows : round_up(divide_up(rows, blocks), Products::kShare);
  Products::prepare(most);
  for (Index row = 0; row < rows; row += most) block(row, std::min(most, rows - row));
}

}  // namespace bilstm
