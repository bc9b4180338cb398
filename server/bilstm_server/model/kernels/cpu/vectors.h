// Vectors of floats, the conversions of numbers, and an LSTM's activations.
//
// BILSTM_LANES is the number of floats in a vector (build.py). The loops over lanes are single
// instructions when compiled.

#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#define UNROLL _Pragma("GCC unroll 16")

namespace bilstm {

using Index = std::int64_t;
using Bfloat16 = std::uint16_t;  // its bits

constexpr int kLanes = BILSTM_LANES;
constexpr int kGates = 4;
constexpr int kPanel = kGates * kLanes;  // columns

constexpr Index divide_up(Index a, Index b) { return (a + b - 1) / b; }
constexpr Index round_up(Index a, Index b) { return divide_up(a, b) * b; }

// -- vectors ------------------------------------------------------------------------------------

using Vector = float __attribute__((vector_size(4 * kLanes)));
using Bits = std::uint32_t __attribute__((vector_size(4 * kLanes)));
using Halves = std::uint16_t __attribute__((vector_size(2 * kLanes)));

template <class T, class Number>
inline T load(const Number* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <class T, class Number>
inline void store(Number* to, T value) {
  std::memcpy(to, &value, sizeof value);
}

inline Vector splat(float number) {
  Vector v;
  UNROLL for (int lane = 0; lane < kLanes; ++lane) v[lane] = number;
  return v;
}

inline Vector multiply_add(Vector a, Vector b, Vector c) {
  Vector v;
  UNROLL for (int lane = 0; lane < kLanes; ++lane)
    v[lane] = __builtin_fmaf(a[lane], b[lane], c[lane]);
  return v;
}

// Within [low, high]; a NaN stays one.
inline Vector clamp(Vector a, float low, float high) {
  const Vector bounded = a > splat(high) ? splat(high) : a;
  return bounded < splat(low) ? splat(low) : bounded;
}

// a / b for 1 <= b <= infinity.
inline Vector divide(Vector a, Vector b) {
#if defined(__AVX512F__)
  // An estimate of 14 bits and one Newton step; an infinite b must not enter the latter.
  const __m512 estimate = _mm512_rcp14_ps(b);
  const __m512 error = _mm512_fnmadd_ps(b, estimate, _mm512_set1_ps(1.0f));
  const __mmask16 finite = _mm512_cmp_ps_mask(
      b, _mm512_set1_ps(std::numeric_limits<float>::infinity()), _CMP_LT_OQ);
  return a * Vector(_mm512_mask3_fmadd_ps(estimate, error, estimate, finite));
#else
  return a / b;
#endif
}

inline Vector widen(Halves bits) { return Vector(__builtin_convertvector(bits, Bits) << 16); }

// To nearest, ties to even.
inline Halves narrow(Vector a) {
  const Bits bits = Bits(a);
  const Bits rounded = bits + 0x7fff + ((bits >> 16) & 1);
  const Bits quiet_nan = bits | 0x400000;  // rounding could carry a NaN's bits away
  return __builtin_convertvector((a == a ? rounded : quiet_nan) >> 16, Halves);
}

// -- the activations ----------------------------------------------------------------------------

// e^x = scale * (1 + m). |x| <= 89; with `Shift` 1, `scale` is half of what it says, so that e^89
// still overflows as it should.
struct Exponential {
  Vector scale;
  Vector m;
};

template <int Shift>
inline Exponential exponential(Vector x) {
  // x / ln 2 to the nearest integer, which is left in the low bits of `shifted` too. A NaN's bits
  // mean nothing there, and need not: f is a NaN as well.
  const Vector magic = splat(0x1.8p+23f);
  const Vector shifted = multiply_add(x, splat(0x1.715476p+0f), magic);
  const Vector n = shifted - magic;
  // ln 2 in two parts, the first short enough for exact products.
  Vector f = multiply_add(n, splat(-0x1.62e400p-1f), x);
  f = multiply_add(n, splat(-0x1.7f7d1cp-20f), f);
  // (e^f - 1 - f) / f^2 on |f| <= ln(2) / 2, a minimax polynomial: e^f - 1 within 1.4e-8 of itself.
  Vector q = splat(0x1.6bec06p-10f);
  q = multiply_add(q, f, splat(0x1.122776p-7f));
  q = multiply_add(q, f, splat(0x1.555674p-5f));
  q = multiply_add(q, f, splat(0x1.5554b0p-3f));
  q = multiply_add(q, f, splat(0x1.fffffep-2f));
  return {Vector((Bits(shifted) + (127 - Shift)) << 23), multiply_add(f * f, q, f)};
}

// 1 + e^-x, so that sigmoid(x) is its reciprocal: infinite where e^-x overflows.
inline Vector sigmoid_divisor(Vector x) {
  const Exponential e = exponential<1>(clamp(-x, -86.0f, 89.0f));
  return multiply_add(splat(2.0f), multiply_add(e.scale, e.m, e.scale), splat(1.0f));
}

// e^2x - 1, so that tanh(x) is this / (this + 2). From x = 20 on that is 1 anyway.
inline Vector tanh_dividend(Vector x) {
  const Exponential e = exponential<0>(clamp(x + x, -40.0f, 40.0f));
  return multiply_add(e.scale, e.m, e.scale - splat(1.0f));
}

// One step of some panels' units: sums [panels, rows, panel] of the gates, and the cells -> the new
// cells, and hidden = o * tanh(c). A row of `cells` and `hidden` begins `stride` after the other,
// and has the panels' units one after the other. Three divisions suffice: i * tanh(g) and
// o * tanh(c) need one each. Two passes, because one would wait for each cell's long chain.
inline void activate(Index panels, Index rows, const float* sums, float* cells, float* hidden,
                     Index stride) {
  const auto each = [&](const auto& function) {
    const float* gates = sums;
    for (Index panel = 0; panel < panels; ++panel)
      for (Index row = 0; row < rows; ++row, gates += kPanel)
        function(gates, row * stride + panel * kLanes);
  };
  each([&](const float* gates, Index unit) {
    const Vector i = sigmoid_divisor(load<Vector>(gates));
    const Vector f = sigmoid_divisor(load<Vector>(gates + kLanes));
    const Vector g = tanh_dividend(load<Vector>(gates + 2 * kLanes));
    const Vector kept = divide(load<Vector>(cells + unit), f);
    store(cells + unit, kept + divide(g, i * (g + splat(2.0f))));
  });
  each([&](const float* gates, Index unit) {
    const Vector o = sigmoid_divisor(load<Vector>(gates + 3 * kLanes));
    const Vector c = tanh_dividend(load<Vector>(cells + unit));
    store(hidden + unit, divide(c, o * (c + splat(2.0f))));
  });
}

// -- numbers of one type to another -------------------------------------------------------------

// A row is too short to be worth a call of memcpy.
inline void convert(const float* from, Index count, float* to) {
  Index k = 0;
  for (; k + kLanes <= count; k += kLanes) store(to + k, load<Vector>(from + k));
  for (; k < count; ++k) to[k] = from[k];
}

inline void convert(const Bfloat16* from, Index count, Bfloat16* to) {
  Index k = 0;
  for (; k + kLanes <= count; k += kLanes) store(to + k, load<Halves>(from + k));
  for (; k < count; ++k) to[k] = from[k];
}

inline void convert(const Bfloat16* from, Index count, float* to) {
  Index k = 0;
  for (; k + kLanes <= count; k += kLanes) store(to + k, widen(load<Halves>(from + k)));
  for (; k < count; ++k) {
    const std::uint32_t bits = std::uint32_t(from[k]) << 16;
    to[k] = load<float>(&bits);
  }
}

inline void convert(const float* from, Index count, Bfloat16* to) {
  Index k = 0;
  for (; k + kLanes <= count; k += kLanes) store(to + k, narrow(load<Vector>(from + k)));
  for (; k < count; ++k) to[k] = narrow(splat(from[k]))[0];
}

}  // namespace bilstm
