"""Runs of steps that are reduced first, so that a sequence has the same bits where its steps come
a slice at a time.

They are counted from a sequence's first step, and no slice divides one. What they are reduced to is
joined once all are there.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..kernels import to_device

SEGMENT_STEPS = 64

Function = Literal["sum", "max", "min"]


class Segments:
    """The segments of sequences of so many steps: `SEGMENT_STEPS` each, the last one the rest."""

    def __init__(self, lengths: np.ndarray):
        self.lengths = lengths  # [B]
        self.has_one_each = bool(lengths.max() <= SEGMENT_STEPS)
        self.steps = lengths if self.has_one_each else self._divided()  # [segments]

    @cached_property
    def counts(self) -> np.ndarray:
        """[B], the segments of each sequence."""
        counts: np.ndarray = -(-self.lengths // SEGMENT_STEPS)
        return counts

    def _divided(self) -> np.ndarray:
        ends = self.counts.cumsum()
        steps = np.full(ends[-1], SEGMENT_STEPS)
        steps[ends - 1] = self.lengths - (self.counts - 1) * SEGMENT_STEPS
        return steps

    def reduce(self, function: Function, rows: Tensor) -> Tensor:
        """Reduce the rows of each segment to one, in the order of steps: [N, width] -> [segments,
        width]"""
        return _reduce(function, rows, self.steps)

    def weighted_sums(self, rows: Tensor, weights: Tensor, split: bool) -> Tensor:
        """Add the rows of each segment, each times its weights, in the order of steps: [N, D], [N,
        heads] -> [segments, heads * D]; or with `split`, where each head weights its own part of
        the row, [segments, D]."""
        count, heads = weights.shape
        parts = rows.reshape(count * heads, -1) if split else rows
        index = torch.arange(count, device=rows.device)[None, :].expand(heads, -1)
        if split:
            index = index * heads + torch.arange(heads, device=rows.device)[:, None]
        steps = np.tile(self.steps, heads)
        sums = _add(parts, steps, index.reshape(-1), weights.t().reshape(-1))
        return sums.view(heads, len(self.steps), -1).transpose(0, 1).flatten(1)

    def join(self, function: Function, segments: Tensor) -> Tensor:
        """Reduce the rows of each sequence's segments to one: [segments, width] -> [B, width]. Sums
        are of float64, or thousands of them would lose digits."""
        rows = segments.double() if function == "sum" else segments
        return rows if self.has_one_each else _reduce(function, rows, self.counts)

    def to_segments(self, sequences: Tensor) -> Tensor:
        """Repeat a sequence's row for each of its segments: [B, width] -> [segments, width]"""
        return sequences if self.has_one_each else _repeat(sequences, self.counts)

    def to_rows(self, segments: Tensor) -> Tensor:
        """Repeat a segment's row for each of its steps: [segments, width] -> [N, width]"""
        return _repeat(segments, self.steps)


def _reduce(function: Function, rows: Tensor, counts: np.ndarray) -> Tensor:
    """Reduce runs of so many rows to one row each, from its first row on."""
    if function == "sum":
        return _add(rows, counts, torch.arange(len(rows), device=rows.device))
    lengths = to_device(counts, rows.device)
    return torch.segment_reduce(rows, function, lengths=lengths, unsafe=True)


def _add(rows: Tensor, counts: np.ndarray, index: Tensor, weights: Tensor | None = None) -> Tensor:
    """Add runs of so many of the rows that `index` names, each times its weight, from the first one
    on. A sum of zeros is 0.0, also of a single -0.0.

    It is the bits of `torch.segment_reduce`, many times faster.
    """
    starts = to_device(counts.cumsum() - counts, rows.device)
    return F.embedding_bag(index, rows, starts, mode="sum", per_sample_weights=weights)


def _repeat(rows: Tensor, counts: np.ndarray) -> Tensor:
    return rows.index_select(0, to_device(np.repeat(np.arange(len(rows)), counts), rows.device))
