"""How the outputs of a sequence's steps become one vector.

Sums and maxima are taken of blocks of steps first, counted from a sequence's first step: so they
have the same bits where the steps come a slice at a time. Knows tensors and lengths only.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from .config import Pooling
from .kernels import rounded, to_device

BLOCK_STEPS = 64

_REDUCTIONS = {Pooling.MEAN: "sum", Pooling.MAX: "max"}


def pool(pooling: Pooling, y: Tensor, h_n: Tensor, lengths: np.ndarray) -> Tensor:
    """Reduce each sequence's outputs to one vector: `y` [N, K*P] -> [B, K*P].

    `h_n` [K, B, P] are the top layer's final states, `lengths` [B] the sequences' steps.
    """
    if pooling is Pooling.FINAL:
        return _final(h_n)
    if pooling is Pooling.LAST:
        return y.index_select(0, to_device(lengths.cumsum() - 1, y.device))
    return rounded(_join_blocks(pooling, _reduce_blocks(pooling, y, lengths), lengths), y.dtype)


class SlicedPooling:
    """Pools one sequence of T steps, whose outputs come a slice and some columns at a time."""

    def __init__(self, poolings: Collection[Pooling], steps: int, width: int, dtype: torch.dtype):
        self._steps = steps
        wide = torch.promote_types(dtype, torch.float32)
        self._blocks = {
            pooling: torch.empty(-(-steps // BLOCK_STEPS), width, dtype=wide)
            for pooling in _REDUCTIONS
            if pooling in poolings
        }
        self._last = torch.empty(1, width, dtype=dtype)

    def add(self, y: Tensor, start: int, column: int) -> None:
        """Take the outputs `y` [n, columns] of the steps from `start` on, in the columns from
        `column` on. They are on the CPU, begin with a block of steps, and end with one or with the
        sequence.
        """
        columns = slice(column, column + y.shape[1])
        if start + len(y) == self._steps:
            self._last[:, columns] = y[-1]
        first = start // BLOCK_STEPS
        for pooling, blocks in self._blocks.items():
            reduced = _reduce_blocks(pooling, y, np.array([len(y)]))
            blocks[first : first + len(reduced), columns] = reduced

    def result(self, pooling: Pooling, h_n: Tensor) -> Tensor:
        """The vector [1, K*P] that `pool` gives for the whole sequence, once all was added."""
        if pooling is Pooling.FINAL:
            return _final(h_n)
        if pooling is Pooling.LAST:
            return self._last
        joined = _join_blocks(pooling, self._blocks[pooling], np.array([self._steps]))
        return rounded(joined, self._last.dtype)


def _final(h_n: Tensor) -> Tensor:
    return torch.cat(list(h_n), dim=1)  # forward's last step, backward's first


def _reduce_blocks(pooling: Pooling, y: Tensor, lengths: np.ndarray) -> Tensor:
    """Of MEAN and MAX: [N, width] -> each block's sum or maximum [blocks, width], one sequence's
    after the other, in float32 at least. A sum is taken in the order of steps.
    """
    wide = y.to(torch.promote_types(y.dtype, torch.float32))
    if lengths.max() <= BLOCK_STEPS:
        return _reduce(pooling, wide, lengths)
    counts = _block_counts(lengths)
    ends = counts.cumsum()
    steps = np.full(ends[-1], BLOCK_STEPS)
    steps[ends - 1] = lengths - (counts - 1) * BLOCK_STEPS
    return _reduce(pooling, wide, steps)


def _join_blocks(pooling: Pooling, blocks: Tensor, lengths: np.ndarray) -> Tensor:
    """What `_reduce_blocks` gave -> each sequence's mean, in float64, or maximum [B, width]."""
    if pooling is Pooling.MEAN:
        blocks = blocks.double()  # or the sum of thousands of blocks would lose the mean's digits
    has_one = len(blocks) == len(lengths)
    joined = blocks if has_one else _reduce(pooling, blocks, _block_counts(lengths))
    if pooling is Pooling.MAX:
        return joined
    return joined / to_device(lengths, joined.device)[:, None]


def _block_counts(lengths: np.ndarray) -> np.ndarray:
    return -(-lengths // BLOCK_STEPS)


def _reduce(pooling: Pooling, rows: Tensor, counts: np.ndarray) -> Tensor:
    """Each segment of so many rows -> one row, from its first row on. A sum of zeros is 0.0, also
    of a single -0.0."""
    lengths = to_device(counts, rows.device)
    return torch.segment_reduce(rows, _REDUCTIONS[pooling], lengths=lengths, unsafe=True)
