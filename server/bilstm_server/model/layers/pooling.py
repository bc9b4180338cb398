"""One vector of a sequence's rows: at one end, or over all steps.

    last: y_T    first: y_1    final: [y_T of the first half of the columns, y_1 of the second]
    sum: y_1 + … + y_T    mean: sum / T    max, min: the largest, the smallest, column by column

Those over all steps are taken of segments of steps first, counted from a sequence's first step: so
they have the same bits where the steps come a slice at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..kernels import RaggedBatch, rounded, to_device
from .arithmetic import wide
from .interface import WholeConfig, WholeLayer
from .segments import SEGMENT_STEPS, Function, Segments
from .values import Value, steps


class PoolingConfig(WholeConfig):
    """What makes a `Pooling`."""

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[N, D] -> [B, D]"""
        (x,) = map(steps, inputs)
        return {"": x.per_sequence(x.width)}


class LastConfig(PoolingConfig):
    """The row of the last step: `out[:, -1]` of a sequence without padding."""

    type: Literal["last"] = "last"

    def build(self, *inputs: Value) -> Ends:
        return Ends(inputs[0].width, inputs[0].width)


class FirstConfig(PoolingConfig):
    """The row of the first step."""

    type: Literal["first"] = "first"

    def build(self, *inputs: Value) -> Ends:
        return Ends(inputs[0].width, 0)


class FinalConfig(PoolingConfig):
    """What each of two directions ends with: the first half of the columns at the last step, and
    the second half at the first one, as `torch.cat((h_n[-2], h_n[-1]), 1)`."""

    type: Literal["final"] = "final"

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[N, 2 * P] -> [B, 2 * P]"""
        (x,) = inputs
        if x.width % 2:
            raise ValueError(f"reads two directions side by side, got {x.describe()}")
        return super().gives(x)

    def build(self, *inputs: Value) -> Ends:
        return Ends(inputs[0].width, inputs[0].width // 2)


class MeanConfig(PoolingConfig):
    """The mean over the steps."""

    type: Literal["mean"] = "mean"

    def build(self, *inputs: Value) -> Reduced:
        return Reduced(inputs[0].width, "mean")


class SumConfig(PoolingConfig):
    """The sum over the steps."""

    type: Literal["sum"] = "sum"

    def build(self, *inputs: Value) -> Reduced:
        return Reduced(inputs[0].width, "sum")


class MaxConfig(PoolingConfig):
    """The maximum over the steps."""

    type: Literal["max"] = "max"

    def build(self, *inputs: Value) -> Reduced:
        return Reduced(inputs[0].width, "max")


class MinConfig(PoolingConfig):
    """The minimum over the steps."""

    type: Literal["min"] = "min"

    def build(self, *inputs: Value) -> Reduced:
        return Reduced(inputs[0].width, "min")


class Pooling(WholeLayer):
    """Each column is pooled by itself, so that they may come one direction's after the other's."""

    @abstractmethod
    def sliced(self, steps: int, dtype: torch.dtype) -> ColumnAccumulator:
        """See `WholeLayer`."""


class ColumnAccumulator(ABC):
    """An `Accumulator` that also takes some of the columns at a time."""

    @abstractmethod
    def add(self, start: int, rows: Tensor, column: int = 0) -> None:
        """Take the rows [n, columns] of the steps from `start` on, in the columns from `column` on.
        These may come in any order. See `Accumulator`."""

    @abstractmethod
    def result(self) -> tuple[Tensor]:
        """See `Accumulator`."""


class Ends(Pooling):
    """Some columns of the last row, then the others of the first one."""

    def __init__(self, width: int, from_last: int):
        super().__init__()
        self.width = width
        self.from_last = from_last  # columns

    def forward(self, y: Tensor, batch: RaggedBatch) -> tuple[Tensor]:
        """[N, D] -> [B, D]"""
        ends = batch.lengths.cumsum()
        first, last = (
            y.index_select(0, to_device(rows, y.device)) if columns else y.new_empty(len(batch), 0)
            for rows, columns in (
                (ends - batch.lengths, self.width - self.from_last),
                (ends - 1, self.from_last),
            )
        )
        return (torch.cat([last[:, : self.from_last], first[:, self.from_last :]], dim=1),)

    def sliced(self, steps: int, dtype: torch.dtype) -> ColumnAccumulator:
        return _SlicedEnds(self, steps, dtype)


class _SlicedEnds(ColumnAccumulator):
    def __init__(self, ends: Ends, steps: int, dtype: torch.dtype):
        self._from_last = ends.from_last
        self._steps = steps
        self._row = torch.empty(1, ends.width, dtype=dtype)

    def add(self, start: int, rows: Tensor, column: int = 0) -> None:
        split = min(max(self._from_last - column, 0), rows.shape[1])
        if start + len(rows) == self._steps:
            self._row[0, column : column + split] = rows[-1, :split]
        if start == 0:
            self._row[0, column + split : column + rows.shape[1]] = rows[0, split:]

    def result(self) -> tuple[Tensor]:
        return (self._row,)


class Reduced(Pooling):
    """The sum, mean, maximum or minimum over the steps."""

    def __init__(self, width: int, function: Literal["sum", "mean", "max", "min"]):
        super().__init__()
        self.width = width
        self.function = function
        self._in_segments: Function = "sum" if function == "mean" else function

    def forward(self, y: Tensor, batch: RaggedBatch) -> tuple[Tensor]:
        """[N, D] -> [B, D]"""
        segments = Segments(batch.lengths)
        return (rounded(self.join(self.reduce(y, segments), segments), y.dtype),)

    def sliced(self, steps: int, dtype: torch.dtype) -> ColumnAccumulator:
        return _SlicedReduction(self, steps, dtype)

    def reduce(self, y: Tensor, segments: Segments) -> Tensor:
        """Reduce each segment to its sum, maximum or minimum: [N, width] -> [segments, width], one
        sequence's after the other, in float32 at least. A sum is taken in the order of steps.
        """
        return segments.reduce(self._in_segments, wide(y))

    def join(self, reduced: Tensor, segments: Segments) -> Tensor:
        """Join segments [segments, width] to each sequence's sum or mean (float64), maximum or
        minimum: [B, width]."""
        joined = segments.join(self._in_segments, reduced)
        if self.function != "mean":
            return joined
        return joined / to_device(segments.lengths, joined.device)[:, None]


class _SlicedReduction(ColumnAccumulator):
    def __init__(self, reduced: Reduced, steps: int, dtype: torch.dtype):
        self._reduced = reduced
        self._dtype = dtype
        self._segments = Segments(np.array([steps]))
        count = len(self._segments.steps)
        self._rows = wide(torch.empty(count, reduced.width, dtype=dtype))

    def add(self, start: int, rows: Tensor, column: int = 0) -> None:
        reduced = self._reduced.reduce(rows, Segments(np.array([len(rows)])))
        first = start // SEGMENT_STEPS
        columns = slice(column, column + rows.shape[1])
        self._rows[first : first + len(reduced), columns] = reduced

    def result(self) -> tuple[Tensor]:
        return (rounded(self._reduced.join(self._rows, self._segments), self._dtype),)
