// Products of bfloat16 by AMX: see products.h, which includes this.

#pragma once

#if defined(__AMX_BF16__)
#include <immintrin.h>
#else
#include "emulated_tiles.h"  // the tests' own, who check all but the instructions on any CPU
#endif

namespace bilstm {

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

// Has all stores done. The compilers' intrinsics do not tell them that tiles are read from memory.
inline void finish_stores(const void* memory) { __asm__ volatile("" : : "r"(memory) : "memory"); }

// bfloat16 by AMX: panel [depth / 32][gate][depth % 32 / 2][lane][2], a gate's tile in one piece.
// Tiles 0 to 3 hold sums, 4 and 5 rows, 6 and 7 weights.
struct TileProducts {
  using Number = Bfloat16;
  using Operand = Bfloat16;
  static constexpr Index kAhead = 4 * kTileRows;
  static constexpr Index kGroup = 2 * kTileRows;
  static constexpr Index kBlock = 2 * kTileRows;
  static constexpr Index kShare = 2;
  static constexpr Index kDepthUnit = kTileDepth;
  static constexpr Index kWeightTile = kTileRows * kTileBytes;
  static constexpr Index kStepBytes = kGates * kWeightTile;
  static inline thread_local Index tile_rows = 0;

  static Index panel_bytes(Index depth) { return divide_up(depth, kTileDepth) * kStepBytes; }

  static void put(char* panel, Index depth, int gate, int lane, Bfloat16 weight) {
    const Index within = depth % kTileDepth;
    store(panel + depth / kTileDepth * kStepBytes + gate * kWeightTile + within / 2 * kTileBytes +
              (2 * lane + within % 2) * sizeof weight,
          weight);
  }

  // A tile's number of rows is part of its configuration: one tile of so many, or two of half.
  static void prepare(Index rows) {
    const Index wanted = rows <= kTileRows ? rows : divide_up(rows, 2);
    if (wanted == tile_rows) return;
    TileConfig config;
    for (int tile = 0; tile < 8; ++tile) {
      config.row_bytes[tile] = kTileBytes;
      config.rows[tile] = std::uint8_t(tile < 6 ? wanted : kTileRows);
    }
    finish_stores(&config);
    _tile_loadconfig(&config);
    tile_rows = wanted;
  }

  static void release() {
    _tile_release();
    tile_rows = 0;
  }

  static void multiply(Index rows, const Bfloat16* a, Index a_stride, const Panels& panels,
                       const Sums<const float>& in, const Sums<float>& out) {
    finish_stores(a);
    for (Index panel = 0; panel < panels.count; ++panel) {
      const char* weights = panels.weights + panel * panels.bytes;
      if (rows <= tile_rows) {
        multiply_tile(a, a_stride, weights, panels.depth, in, out, panel);
      } else {
        multiply_two(a, a_stride, weights, panels.depth, in, out, panel, 0);
        multiply_two(a, a_stride, weights, panels.depth, in, out, panel, 2);
      }
    }
  }

 private:
  // One tile of rows with the four gates.
  static void multiply_tile(const Bfloat16* a, Index a_stride, const char* weights, Index depth,
                            const Sums<const float>& in, const Sums<float>& out, Index panel) {
    const Index a_bytes = a_stride * sizeof *a, in_bytes = in.row_stride * sizeof(float),
                out_bytes = out.row_stride * sizeof(float);
    const float* from = in.at(panel, 0);
    _tile_loadd(0, from, in_bytes);
    _tile_loadd(1, from + kLanes, in_bytes);
    _tile_loadd(2, from + 2 * kLanes, in_bytes);
    _tile_loadd(3, from + 3 * kLanes, in_bytes);
    for (Index k = 0; k < depth; k += kTileDepth, weights += kStepBytes) {
      _tile_loadd(4, a + k, a_bytes);
      _tile_loadd(6, weights, kTileBytes);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, weights + kWeightTile, kTileBytes);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(6, weights + 2 * kWeightTile, kTileBytes);
      _tile_dpbf16ps(2, 4, 6);
      _tile_loadd(7, weights + 3 * kWeightTile, kTileBytes);
      _tile_dpbf16ps(3, 4, 7);
    }
    float* to = out.at(panel, 0);
    _tile_stored(0, to, out_bytes);
    _tile_stored(1, to + kLanes, out_bytes);
    _tile_stored(2, to + 2 * kLanes, out_bytes);
    _tile_stored(3, to + 3 * kLanes, out_bytes);
  }

  // Two tiles of rows with `gate` and the one after it.
  static void multiply_two(const Bfloat16* a, Index a_stride, const char* weights, Index depth,
                           const Sums<const float>& in, const Sums<float>& out, Index panel,
                           int gate) {
    const Index a_bytes = a_stride * sizeof *a, in_bytes = in.row_stride * sizeof(float),
                out_bytes = out.row_stride * sizeof(float);
    const Bfloat16* lower = a + tile_rows * a_stride;
    const float* from = in.at(panel, 0) + gate * kLanes;
    const float* lower_from = in.at(panel, tile_rows) + gate * kLanes;
    _tile_loadd(0, from, in_bytes);
    _tile_loadd(1, from + kLanes, in_bytes);
    _tile_loadd(2, lower_from, in_bytes);
    _tile_loadd(3, lower_from + kLanes, in_bytes);
    weights += gate * kWeightTile;
    for (Index k = 0; k < depth; k += kTileDepth, weights += kStepBytes) {
      _tile_loadd(4, a + k, a_bytes);
      _tile_loadd(6, weights, kTileBytes);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, weights + kWeightTile, kTileBytes);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, lower + k, a_bytes);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    float* to = out.at(panel, 0) + gate * kLanes;
    float* lower_to = out.at(panel, tile_rows) + gate * kLanes;
    _tile_stored(0, to, out_bytes);
    _tile_stored(1, to + kLanes, out_bytes);
    _tile_stored(2, lower_to, out_bytes);
    _tile_stored(3, lower_to + kLanes, out_bytes);
  }
};

}  // namespace bilstm
