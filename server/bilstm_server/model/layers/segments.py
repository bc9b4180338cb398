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

from ..kernels import to_device

SEGMENT_STEPS = 64


class Segments:
    """The segments of sequences of so many steps: `SEGMENT_STEPS` each, the last one the rest."""

    def __init__(self, lengths: np.ndarray):
        self.lengths = lengths  # [B]
        self.counts = -(-lengths // SEGMENT_STEPS)  # [B], the segments of each sequence
        ends = self.counts.cumsum()
        self.steps = np.full(ends[-1], SEGMENT_STEPS)  # [segments]
        self.steps[ends - 1] = lengths - (self.counts - 1) * SEGMENT_STEPS

    @cached_property
    def has_one_each(self) -> bool:
        """Whether no sequence has several."""
        return len(self.steps) == len(self.lengths)

    def sums(self, rows: Tensor) -> Tensor:
        """Add the rows of each segment in the order of steps: [N, width] -> [segments, width]"""
        return _reduce(rows, "sum", self.steps)

    def maxima(self, rows: Tensor) -> Tensor:
        """The largest number of each column in each segment: [N, width] -> [segments, width]"""
        return _reduce(rows, "max", self.steps)

    def joined_sums(self, segments: Tensor) -> Tensor:
        """Add each sequence's segments, in float64, or thousands of them would lose digits:
        [segments, width] -> [B, width]"""
        wide = segments.double()
        return wide if self.has_one_each else _reduce(wide, "sum", self.counts)

    def joined_maxima(self, segments: Tensor) -> Tensor:
        """The largest number of each column in a sequence's segments: [segments, width] -> [B,
        width]"""
        return segments if self.has_one_each else _reduce(segments, "max", self.counts)

    def to_segments(self, sequences: Tensor) -> Tensor:
        """Repeat a sequence's row for each of its segments: [B, width] -> [segments, width]"""
        return sequences if self.has_one_each else _repeat(sequences, self.counts)

    def to_rows(self, segments: Tensor) -> Tensor:
        """Repeat a segment's row for each of its steps: [segments, width] -> [N, width]"""
        return _repeat(segments, self.steps)


def _reduce(rows: Tensor, function: Literal["sum", "max"], counts: np.ndarray) -> Tensor:
    """Reduce runs of so many rows to one row each, from its first row on. A sum of zeros is 0.0,
    also of a single -0.0.
    """
    lengths = to_device(counts, rows.device)
    return torch.segment_reduce(rows, function, lengths=lengths, unsafe=True)


def _repeat(rows: Tensor, counts: np.ndarray) -> Tensor:
    return rows.index_select(0, to_device(np.repeat(np.arange(len(rows)), counts), rows.device))
