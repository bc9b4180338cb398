"""Where the sequences of a chunk lie, and their steps, in Triton."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_chunk(lengths, first_rows, positions, chunk, groups, size, ROWS: tl.constexpr):
    """Load the length, first row and position of a chunk's sequences, [ROWS] each."""
    local = chunk * ROWS + tl.arange(0, ROWS)
    ranks = local * groups
    there = local < size
    length = tl.load(lengths + ranks, mask=there, other=0)
    first_row = tl.load(first_rows + ranks, mask=there, other=0)
    position = tl.load(positions + ranks, mask=there, other=0)
    return length, first_row, position


@triton.jit
def longest_of(lengths, chunk, groups, size, ROWS: tl.constexpr):
    """The length of a chunk's first sequence, its longest."""
    return tl.load(lengths + chunk * ROWS * groups, mask=size > 0, other=0)


@triton.jit
def drop_ended(chunks, until, t, lengths, groups, size, ROWS: tl.constexpr):
    """Drop the chunks that have no sequence with step t: how many are left, and the steps that the
    last of them has."""
    while (until <= t) & (chunks > 1):
        chunks -= 1
        until = longest_of(lengths, chunks - 1, groups, size, ROWS)
    return chunks, until


@triton.jit
def row_of(first_row, length, t, direction):
    """The row of a sequence's step t, counted in its direction's order."""
    return tl.where(direction == 0, first_row + t, first_row + length - 1 - t).to(tl.int64)


@triton.jit
def load_projected(inputs, row, active, stride, lines):
    """Load W_ih x of a step of some sequences, [4 * UNITS, ROWS]."""
    rows = inputs + row * stride
    return tl.load(rows[None, :] + lines[:, None], mask=active[None, :], other=0.0)
