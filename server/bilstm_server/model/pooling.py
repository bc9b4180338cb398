"""How the outputs of a sequence's steps become one vector.

Sums and maxima are taken of segments of steps first, counted from a sequence's first step: so they
have the same bits where the steps come a slice at a time. Knows tensors and lengths only.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from .config import Pooling
from .kernels import rounded, to_device

SEGMENT_STEPS = 64

_REDUCTIONS = {Pooling.MEAN: "sum", Pooling.MAX: "max"}


def pool(pooling: Pooling, y: Tensor, h_n: Tensor, lengths: np.ndarray) -> Tensor:
    """Reduce each sequence's outputs to one vector: `y` [N, K*P] -> [B, K*P].

    `h_n` [K, B, P] are the top layer's final states, `lengths` [B] the sequences' steps.
    """
    if pooling is Pooling.FINAL:
        return _final(h_n)
    if pooling is Pooling.LAST:
        return y.index_select(0, to_device(lengths.cumsum() - 1, y.device))
    return rounded(_join_segments(pooling, _reduce_segments(pooling, y, lengths), lengths), y.dtype)


class SlicedPooling:
    """Pools one sequence of T steps, whose outputs come a slice and some columns at a time."""

    def __init__(self, poolings: Collection[Pooling], steps: int, width: int, dtype: torch.dtype):
        self._steps = steps
        wide = torch.promote_types(dtype, torch.float32)
        self._segments = {
            pooling: torch.empty(-(-steps // SEGMENT_STEPS), width, dtype=wide)
            for pooling in _REDUCTIONS
            if pooling in poolings
        }
        self._last = torch.empty(1, width, dtype=dtype)

    def add(self, y: Tensor, start: int, column: int) -> None:
        """Take the outputs `y` [n, columns] of the steps from `start` on, in the columns from
        `column` on. They are on the CPU, begin with a segment of steps, and end with one or with
        the sequence.
        """
        columns = slice(column, column + y.shape[1])
        if start + len(y) == self._steps:
            self._last[:, columns] = y[-1]
        first = start // SEGMENT_STEPS
        for pooling, segments in self._segments.items():
            reduced = _reduce_segments(pooling, y, np.array([len(y)]))
            segments[first : first + len(reduced), columns] = reduced

    def result(self, pooling: Pooling, h_n: Tensor) -> Tensor:
        """The vector [1, K*P] that `pool` gives for the whole sequence, once all was added."""
        if pooling is Pooling.FINAL:
            return _final(h_n)
        if pooling is Pooling.LAST:
            return self._last
        joined = _join_segments(pooling, self._segments[pooling], np.array([self._steps]))
        return rounded(joined, self._last.dtype)


def _final(h_n: Tensor) -> Tensor:
    return torch.cat(list(h_n), dim=1)  # forward's last step, backward's first


def _reduce_segments(pooling: Pooling, y: Tensor, lengths: np.ndarray) -> Tensor:
    """Reduce each segment to its sum (MEAN) or maximum (MAX): [N, width] -> [segments, width], one
    sequence's after the other, in float32 at least. A sum is taken in the order of steps.
    """
    wide = y.to(torch.promote_types(y.dtype, torch.float32))
    if lengths.max() <= SEGMENT_STEPS:
        return _reduce(pooling, wide, lengths)
    counts = _segment_counts(lengths)
    ends = counts.cumsum()
    steps = np.full(ends[-1], SEGMENT_STEPS)
    steps[ends - 1] = lengths - (counts - 1) * SEGMENT_STEPS
    return _reduce(pooling, wide, steps)


def _join_segments(pooling: Pooling, segments: Tensor, lengths: np.ndarray) -> Tensor:
    """Join segments [segments, width] to each sequence's mean (float64) or maximum [B, width]."""
    if pooling is Pooling.MEAN:
        segments = segments.double()  # or the sum of thousands would lose the mean's digits
    has_one = len(segments) == len(lengths)
    joined = segments if has_one else _reduce(pooling, segments, _segment_counts(lengths))
    if pooling is Pooling.MAX:
        return joined
    return joined / to_device(lengths, joined.device)[:, None]


def _segment_counts(lengths: np.ndarray) -> np.ndarray:
    return -(-lengths // SEGMENT_STEPS)


def _reduce(pooling: Pooling, rows: Tensor, counts: np.ndarray) -> Tensor:
    """Reduce runs of so many rows to one row each, from its first row on. A sum of zeros is 0.0,
    also of a single -0.0.
    """
    lengths = to_device(counts, rows.device)
    return torch.segment_reduce(rows, _REDUCTIONS[pooling], lengths=lengths, unsafe=True)
