"""One step of the recurrence, in Triton: the product of weights and states, and the equations."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def step(gates, cell, UNITS: tl.constexpr, ROWS: tl.constexpr):
    """The LSTM equations: gates [4 * UNITS, ROWS] in `gate_order` and cell [UNITS, ROWS] -> h and
    the next cell, all float32."""
    # [2, UNITS / 8, 2, 8, ROWS] -> [UNITS / 8, 8, ROWS, 2, 2]. As the tensor cores' results lie, a
    # thread has lines n and n + 8, two gates of a unit; with 64 units in 8 warps, all four.
    gates = tl.permute(tl.reshape(gates, (2, UNITS // 8, 2, 8, ROWS)), (1, 3, 4, 0, 2))
    i_g, f_o = tl.split(gates)
    i, g = tl.split(i_g)
    f, o = tl.split(f_o)
    i = _sigmoid(tl.reshape(i, (UNITS, ROWS)))
    f = _sigmoid(tl.reshape(f, (UNITS, ROWS)))
    g = _tanh(tl.reshape(g, (UNITS, ROWS)))
    o = _sigmoid(tl.reshape(o, (UNITS, ROWS)))
    cell = f * cell + i * g
    return o * _tanh(cell), cell


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _tanh(x):
    """Near 0, where the quotient's digits cancel, by the series."""
    e = tl.exp(-2 * tl.abs(x))
    far = (1 - e) / (1 + e)
    square = x * x
    series = -17 / 315 + square * (62 / 2835)
    near = x * (1 + square * (-1 / 3 + square * (2 / 15 + square * series)))
    return tl.where(tl.abs(x) < 0.3, near, tl.where(x < 0, -far, far))


@triton.jit
def product(
    gates,
    w_hh,
    held,
    h,
    active,
    HIDDEN: tl.constexpr,
    UNITS: tl.constexpr,
    DEPTH: tl.constexpr,
    BLOCK: tl.constexpr,
    HELD: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """gates + weights [4 * UNITS, DEPTH] times the states [ROWS, HIDDEN] at `h`, transposed."""
    if HELD:
        for block in tl.static_range(DEPTH // BLOCK):
            states = _states(h, active, block * BLOCK, HIDDEN, BLOCK)
            gates = tl.dot(held[block], tl.trans(states), gates, input_precision=PRECISION)
    else:
        for start in range(0, DEPTH, BLOCK):
            weights = load_weights(w_hh, start, UNITS, DEPTH, BLOCK)
            states = _states(h, active, start, HIDDEN, BLOCK)
            gates = tl.dot(weights, tl.trans(states), gates, input_precision=PRECISION)
    return gates


@triton.jit
def held_weights(
    w_hh, UNITS: tl.constexpr, DEPTH: tl.constexpr, BLOCK: tl.constexpr, HELD: tl.constexpr
):
    held = ()
    if HELD:
        for block in tl.static_range(DEPTH // BLOCK):
            held += (load_weights(w_hh, block * BLOCK, UNITS, DEPTH, BLOCK),)
    return held


@triton.jit
def load_weights(w_hh, start, UNITS: tl.constexpr, DEPTH: tl.constexpr, BLOCK: tl.constexpr):
    lines, columns = tl.arange(0, 4 * UNITS), start + tl.arange(0, BLOCK)
    return tl.load(w_hh + lines[:, None] * DEPTH + columns[None, :])


@triton.jit
def _states(h, active, start, HIDDEN: tl.constexpr, BLOCK: tl.constexpr):
    """[ROWS, BLOCK]. Past L1, which may have what lay there before another program wrote it."""
    columns = start + tl.arange(0, BLOCK)
    mask = active[:, None]
    if HIDDEN % BLOCK != 0:  # or Triton 3.9 would load number by number
        mask = mask & (columns < HIDDEN)[None, :]
    return tl.load(h[:, None] + columns[None, :], mask=mask, other=0.0, cache_modifier=".cg")
