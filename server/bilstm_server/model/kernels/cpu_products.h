// Rows times panels of weights, for each instruction set.
//
// BILSTM_BFLOAT16_DOT and BILSTM_BFLOAT16_TILES, if defined, say that bfloat16 products are
// computed by AVX512_BF16 or by AMX (cpu_build.py).

#pragma once

#include <type_traits>

#include "cpu_vectors.h"

#if defined(__AVX512BF16__) || defined(__AMX_BF16__)
#include <immintrin.h>
#elif defined(BILSTM_BFLOAT16_TILES)
#include "cpu_tiles_emulated.h"
#endif

namespace bilstm {

// -- products -----------------------------------------------------------------------------------
//
// How rows [rows, depth] are multiplied with a panel [depth, panel]:
//   Number, Operand   what the caller has, and what a product reads of a row
//   kRows             rows that the registers hold
//   kBlock            rows between two activations
//   kDepthUnit        what the depth of a row and of a panel is rounded up to, with zeros
//   panel_bytes, put  a panel's size, and where it has a weight
//   prepare(block)    before products of up to `block` rows each
//   multiply          out [rows, panel] = in + a . panel; `in` may have one row for all (stride 0).
//                     Up to a block's rows beyond `rows` may be read, and in `out` written.

// Rows in even shares: 4 in registers for 3 are 2 and 2.
template <int Most, class Share>
inline void share_out(Index rows, const Share& share) {
  Index shares = divide_up(rows, Most);
  for (Index row = 0; row < rows; --shares) {
    const Index own = divide_up(rows - row, shares);
    share(row, own);
    row += own;
  }
}

// Calls `call` with `rows` as a compile-time constant.
template <int Most, class Call>
inline void with_constant(Index rows, const Call& call) {
  if constexpr (Most > 1) {
    if (rows < Most) return with_constant<Most - 1>(rows, call);
  }
  call(std::integral_constant<int, Most>());
}

// Any product that keeps its sums in registers; `Traits` says how it reads a panel.
template <class Traits>
struct VectorProducts : Traits {
  static constexpr Index kBlock = 8 * Traits::kRows;
  using Operand = typename Traits::Operand;
  using Weight = typename Traits::Weight;

  static Index panel_bytes(Index depth) {
    return round_up(depth, Traits::kDepthUnit) * kPanel * Index(sizeof(typename Traits::Number));
  }

  static void prepare(Index) {}
  static void release() {}

  static void multiply(Index rows, const Operand* a, Index a_stride, const void* panel, Index depth,
                       const float* in, Index in_stride, float* out) {
    share_out<Traits::kRows>(rows, [&](Index row, Index own) {
      with_constant<Traits::kRows>(own, [&](auto constant) {
        share<decltype(constant)::value>(a + row * a_stride, a_stride,
                                         static_cast<const Weight*>(panel), depth,
                                         in + row * in_stride, in_stride, out + row * kPanel);
      });
    });
  }

  // Never inlined: the sums need every register.
  template <int Rows>
  __attribute__((noinline)) static void share(const Operand* a, Index a_stride, const Weight* panel, Index depth,
                    const float* in, Index in_stride, float* out) {
    Vector sums[Rows][kGates];
    UNROLL for (int row = 0; row < Rows; ++row)
      UNROLL for (int gate = 0; gate < kGates; ++gate)
        sums[row][gate] = load<Vector>(in + row * in_stride + gate * kLanes);
    Traits::template accumulate<Rows>(a, a_stride, panel, depth, sums);
    UNROLL for (int row = 0; row < Rows; ++row)
      UNROLL for (int gate = 0; gate < kGates; ++gate)
        store(out + row * kPanel + gate * kLanes, sums[row][gate]);
  }
};

constexpr int kRegisters = kLanes == 16 ? 32 : 16;

// float32: panel [depth][gate][lane].
struct FloatTraits {
  using Number = float;
  using Operand = float;
  using Weight = float;
  static constexpr int kRows = kRegisters == 32 ? 6 : 3;
  static constexpr Index kDepthUnit = 1;

  static void put(void* panel, Index depth, int gate, int lane, float weight) {
    static_cast<float*>(panel)[depth * kPanel + gate * kLanes + lane] = weight;
  }

  template <int Rows>
  static inline void accumulate(const float* a, Index a_stride, const float* panel, Index depth,
                                Vector (&sums)[Rows][kGates]) {
    for (Index k = 0; k < depth; ++k, panel += kPanel) {
      UNROLL for (int row = 0; row < Rows; ++row) {
        const Vector number = splat(a[row * a_stride + k]);
        UNROLL for (int gate = 0; gate < kGates; ++gate)
          sums[row][gate] =
              multiply_add(number, load<Vector>(panel + gate * kLanes), sums[row][gate]);
      }
    }
  }
};

// bfloat16 without instructions for it: the weights are widened in registers, which takes one
// operation a vector where two gates share a word. Panel [depth][i and f, g and o][lane][2].
struct WidenedTraits {
  using Number = Bfloat16;
  using Operand = float;
  using Weight = std::int32_t;
  static constexpr int kRows = kRegisters == 32 ? 6 : 2;
  static constexpr Index kDepthUnit = 1;

  static void put(void* panel, Index depth, int gate, int lane, Bfloat16 weight) {
    static_cast<Bfloat16*>(panel)[depth * kPanel + gate / 2 * 2 * kLanes + 2 * lane + gate % 2] =
        weight;
  }

  template <int Rows>
  static inline void accumulate(const float* a, Index a_stride, const std::int32_t* panel,
                                Index depth, Vector (&sums)[Rows][kGates]) {
    for (Index k = 0; k < depth; ++k, panel += 2 * kLanes) {
      Vector weights[kGates];
      UNROLL for (int pair = 0; pair < 2; ++pair) {
        const Words words = load<Words>(panel + pair * kLanes);
        weights[2 * pair] = Vector(words << 16);
        weights[2 * pair + 1] = Vector(words & std::int32_t(0xffff0000));
      }
      UNROLL for (int row = 0; row < Rows; ++row) {
        const Vector number = splat(a[row * a_stride + k]);
        UNROLL for (int gate = 0; gate < kGates; ++gate)
          sums[row][gate] = multiply_add(number, weights[gate], sums[row][gate]);
      }
    }
  }
};

#if defined(BILSTM_BFLOAT16_DOT)

// sums + a0 * b0 + a1 * b1, of the two halves of each word.
inline Vector dot_add(Vector sums, Words a, Words b) {
#if defined(__AVX512BF16__)
  return _mm512_dpbf16_ps(sums, (__m512bh)a, (__m512bh)b);
#else
  const Words high = Words{} + std::int32_t(0xffff0000);
  sums = multiply_add(Vector(a << 16), Vector(b << 16), sums);
  return multiply_add(Vector(a & high), Vector(b & high), sums);
#endif
}

// bfloat16 by AVX512_BF16: panel [depth / 2][gate][lane][2].
struct DotTraits {
  using Number = Bfloat16;
  using Operand = Bfloat16;
  using Weight = std::int32_t;
  static constexpr int kRows = 6;
  static constexpr Index kDepthUnit = 2;

  static void put(void* panel, Index depth, int gate, int lane, Bfloat16 weight) {
    static_cast<Bfloat16*>(panel)[depth / 2 * 2 * kPanel + gate * 2 * kLanes + 2 * lane +
                                  depth % 2] = weight;
  }

  template <int Rows>
  static inline void accumulate(const Bfloat16* a, Index a_stride, const std::int32_t* panel,
                                Index depth, Vector (&sums)[Rows][kGates]) {
    for (Index k = 0; k < depth; k += 2, panel += kPanel) {
      UNROLL for (int row = 0; row < Rows; ++row) {
        const Words pair = Words{} + load<std::int32_t>(a + row * a_stride + k);
        UNROLL for (int gate = 0; gate < kGates; ++gate)
          sums[row][gate] = dot_add(sums[row][gate], pair, load<Words>(panel + gate * kLanes));
      }
    }
  }
};

#endif

#if defined(BILSTM_BFLOAT16_TILES)

constexpr Index kTileRows = 16;
constexpr Index kTileBytes = 64;                               // of a row
constexpr Index kTileDepth = kTileBytes / sizeof(Bfloat16);
static_assert(kLanes * sizeof(float) == kTileBytes, "a tile's row is a vector");

struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};

#if !defined(__AMX_BF16__)
using namespace emulated;
#endif

// bfloat16 by AMX: panel [depth / 32][gate][depth % 32 / 2][lane][2], a gate's tile in one piece.
// Up to 16 rows are one tile and meet all four gates at once; more are two tiles and meet two
// gates at a time. Either way four tiles hold sums.
struct TileProducts {
  using Number = Bfloat16;
  using Operand = Bfloat16;
  static constexpr Index kBlock = 2 * kTileRows;
  static constexpr Index kDepthUnit = kTileDepth;
  static constexpr Index kTile = kTileRows * kTileDepth;  // numbers
  static inline thread_local Index tile_rows = 0;

  static Index panel_bytes(Index depth) {
    return round_up(depth, kTileDepth) * kPanel * Index(sizeof(Bfloat16));
  }

  static void put(void* panel, Index depth, int gate, int lane, Bfloat16 weight) {
    static_cast<Bfloat16*>(panel)[(depth / kTileDepth * kGates + gate) * kTile +
                                  depth % kTileDepth / 2 * kTileDepth + 2 * lane + depth % 2] =
        weight;
  }

  static void prepare(Index block) {
    const Index rows = block <= kTileRows ? block : divide_up(block, 2);
    if (rows == tile_rows) return;
    TileConfig config;
    for (int tile = 0; tile < 8; ++tile) {
      config.row_bytes[tile] = kTileBytes;
      config.rows[tile] = std::uint8_t(tile < 6 ? rows : kTileRows);  // 6 and 7 hold weights
    }
    _tile_loadconfig(&config);
    tile_rows = rows;
  }

  static void release() {
    _tile_release();
    tile_rows = 0;
  }

  static void multiply(Index rows, const Bfloat16* a, Index a_stride, const void* panel,
                       Index depth, const float* in, Index in_stride, float* out) {
    const auto* weights = static_cast<const Bfloat16*>(panel);
    const Index a_bytes = a_stride * Index(sizeof(Bfloat16));
    const Index in_bytes = in_stride * Index(sizeof(float));
    constexpr Index out_bytes = kPanel * sizeof(float);
    if (rows <= tile_rows) {
      _tile_loadd(0, in, in_bytes);
      _tile_loadd(1, in + kLanes, in_bytes);
      _tile_loadd(2, in + 2 * kLanes, in_bytes);
      _tile_loadd(3, in + 3 * kLanes, in_bytes);
      for (Index k = 0; k < depth; k += kTileDepth, weights += kGates * kTile) {
        _tile_loadd(4, a + k, a_bytes);
        _tile_loadd(6, weights, kTileBytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, weights + kTile, kTileBytes);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(6, weights + 2 * kTile, kTileBytes);
        _tile_dpbf16ps(2, 4, 6);
        _tile_loadd(7, weights + 3 * kTile, kTileBytes);
        _tile_dpbf16ps(3, 4, 7);
      }
      _tile_stored(0, out, out_bytes);
      _tile_stored(1, out + kLanes, out_bytes);
      _tile_stored(2, out + 2 * kLanes, out_bytes);
      _tile_stored(3, out + 3 * kLanes, out_bytes);
      return;
    }
    const Bfloat16* lower = a + tile_rows * a_stride;
    const float* lower_in = in + tile_rows * in_stride;
    float* lower_out = out + tile_rows * kPanel;
    for (int gate = 0; gate < kGates; gate += 2) {
      const Index column = gate * kLanes;
      const Bfloat16* own = weights + gate * kTile;
      _tile_loadd(0, in + column, in_bytes);
      _tile_loadd(1, in + column + kLanes, in_bytes);
      _tile_loadd(2, lower_in + column, in_bytes);
      _tile_loadd(3, lower_in + column + kLanes, in_bytes);
      for (Index k = 0; k < depth; k += kTileDepth, own += kGates * kTile) {
        _tile_loadd(4, a + k, a_bytes);
        _tile_loadd(6, own, kTileBytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, own + kTile, kTileBytes);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, lower + k, a_bytes);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
      _tile_stored(0, out + column, out_bytes);
      _tile_stored(1, out + column + kLanes, out_bytes);
      _tile_stored(2, lower_out + column, out_bytes);
      _tile_stored(3, lower_out + column + kLanes, out_bytes);
    }
  }
};

#endif

using FloatProducts = VectorProducts<FloatTraits>;
#if defined(BILSTM_BFLOAT16_TILES)
using Bfloat16Products = TileProducts;
#elif defined(BILSTM_BFLOAT16_DOT)
using Bfloat16Products = VectorProducts<DotTraits>;
#else
using Bfloat16Products = VectorProducts<WidenedTraits>;
#endif

// -- packing --------------------------------------------------------------------------------------

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

// [4 hidden] -> [panels, panel], as `pack` has the gates.
inline void pack_bias(const float* bias, Index hidden, float* packed) {
  for (Index unit = 0; unit < hidden; ++unit)
    for (int gate = 0; gate < kGates; ++gate)
      packed[unit / kLanes * kPanel + gate * kLanes + unit % kLanes] = bias[gate * hidden + unit];
}

}  // namespace bilstm
