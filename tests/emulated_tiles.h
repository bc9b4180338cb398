// AMX's instructions under the compiler's names, as Intel's manual describes them: what is built on
// them can so be tested on a CPU that has none.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace bilstm::emulated {

constexpr int kTiles = 8;

struct Tile {
  int rows, row_bytes;
  char bytes[16][64];
};

inline thread_local Tile tiles[kTiles];

inline void _tile_loadconfig(const void* config) {
  const auto* bytes = static_cast<const std::uint8_t*>(config);
  if (bytes[0] != 1) std::abort();
  for (int t = 0; t < kTiles; ++t)
    tiles[t] = Tile{bytes[48 + t], bytes[16 + 2 * t] | bytes[17 + 2 * t] << 8, {}};
}

inline void _tile_release() { std::memset(tiles, 0, sizeof tiles); }

inline void _tile_loadd(int to, const void* base, std::int64_t stride) {
  Tile& tile = tiles[to];
  for (int row = 0; row < tile.rows; ++row)
    std::memcpy(tile.bytes[row], static_cast<const char*>(base) + row * stride, tile.row_bytes);
}

inline void _tile_stored(int from, void* base, std::int64_t stride) {
  const Tile& tile = tiles[from];
  for (int row = 0; row < tile.rows; ++row)
    std::memcpy(static_cast<char*>(base) + row * stride, tile.bytes[row], tile.row_bytes);
}

inline float bfloat16_at(const char* from) {
  std::uint16_t half;
  std::memcpy(&half, from, sizeof half);
  const std::uint32_t word = std::uint32_t(half) << 16;
  float number;
  std::memcpy(&number, &word, sizeof number);
  return number;
}

// c [rows, n] += a [rows, 2 k] . b [k, n, 2]: the even depths and the odd ones add up apart, from
// zero, and their sum is added to c. (Denormals, which the instruction takes for zeros, are kept.)
inline void _tile_dpbf16ps(int to, int left, int right) {
  Tile& c = tiles[to];
  const Tile &a = tiles[left], &b = tiles[right];
  if (c.rows != a.rows || c.row_bytes != b.row_bytes || a.row_bytes != 4 * b.rows) std::abort();
  for (int row = 0; row < c.rows; ++row) {
    float sums[2][16] = {};
    for (int half = 0; half < 2 * b.rows; ++half) {
      const float number = bfloat16_at(a.bytes[row] + 2 * half);
      const char* weights = b.bytes[half / 2] + half % 2 * 2;
      for (int column = 0; column < c.row_bytes / 4; ++column)
        sums[half % 2][column] =
            __builtin_fmaf(number, bfloat16_at(weights + 4 * column), sums[half % 2][column]);
    }
    for (int column = 0; column < c.row_bytes / 4; ++column) {
      float sum;
      std::memcpy(&sum, c.bytes[row] + 4 * column, sizeof sum);
      sum += sums[0][column] + sums[1][column];
      std::memcpy(c.bytes[row] + 4 * column, &sum, sizeof sum);
    }
  }
}

}  // namespace bilstm::emulated

namespace bilstm {
using namespace emulated;
}
