"""How far a sequence's rows are from their mean, column by column.

variance:  y = Σ_t (x_t - mean)² / (T - correction)    std: √y
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..kernels import RaggedBatch, rounded, to_device
from .arithmetic import wide
from .interface import WholeConfig, WholeLayer
from .segments import Segments
from .values import Value, steps


class _MomentConfig(WholeConfig):
    correction: int = Field(default=1, ge=0, le=2**28)

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[N, D] -> [B, D]"""
        (x,) = map(steps, inputs)
        return {"": x.per_sequence(x.width)}


class VarianceConfig(_MomentConfig):
    """torch.var over the steps, with its `correction`: with 1, that of a single step is NaN."""

    type: Literal["variance"] = "variance"

    def build(self, *inputs: Value) -> Variance:
        return Variance(self.correction)


class StdConfig(_MomentConfig):
    """torch.std over the steps, with its `correction`: with 1, that of a single step is NaN."""

    type: Literal["std"] = "std"

    def build(self, *inputs: Value) -> Std:
        return Std(self.correction)


class Moments(NamedTuple):
    """The mean of each segment, and the sum of squares of what its rows differ from it."""

    means: Tensor  # [segments, D]
    squares: Tensor  # [segments, D]

    @classmethod
    def of(cls, x: Tensor, segments: Segments) -> Moments:
        """Reduce rows [N, D] to segments."""
        x = wide(x)
        steps = to_device(segments.steps, x.device)[:, None]
        means = segments.reduce("sum", x) / steps
        differences = x - segments.to_rows(means)
        return cls(means, segments.reduce("sum", differences * differences))

    def joined_squares(self, segments: Segments) -> Tensor:
        """The sum of squares of what all rows of a sequence differ from their mean: [B, D] of
        float64. (Chan, Golub and LeVeque, 1983)"""
        steps = to_device(segments.steps, self.means.device)[:, None]
        lengths = to_device(segments.lengths, self.means.device)[:, None]
        means = segments.join("sum", self.means.double() * steps) / lengths
        differences = self.means.double() - segments.to_segments(means)
        return segments.join("sum", self.squares.double() + differences * differences * steps)


class Variance(WholeLayer):
    """See `VarianceConfig`."""

    def __init__(self, correction: int):
        super().__init__()
        self._correction = correction

    def forward(self, x: Tensor, batch: RaggedBatch) -> tuple[Tensor]:
        """[N, D] -> [B, D]"""
        segments = Segments(batch.lengths)
        return (rounded(self.join(Moments.of(x, segments), segments), x.dtype),)

    def join(self, moments: Moments, segments: Segments) -> Tensor:
        """What `forward` gives, not rounded."""
        squares = moments.joined_squares(segments)
        count = np.maximum(segments.lengths - self._correction, 0)
        return squares / to_device(count, squares.device)[:, None]

    def sliced(self, steps: int, dtype: torch.dtype) -> _Sliced:
        return _Sliced(self, steps, dtype)


class Std(Variance):
    """See `StdConfig`."""

    def join(self, moments: Moments, segments: Segments) -> Tensor:
        """What `forward` gives, not rounded."""
        return super().join(moments, segments).sqrt()


class _Sliced:
    def __init__(self, layer: Variance, steps: int, dtype: torch.dtype):
        self._layer = layer
        self._segments = Segments(np.array([steps]))
        self._dtype = dtype
        self._slices: list[Moments] = []

    def add(self, start: int, *rows: Tensor) -> None:
        (x,) = rows
        self._slices.append(Moments.of(x, Segments(np.array([len(x)]))))

    def result(self) -> tuple[Tensor, ...]:
        moments = Moments(*map(torch.cat, zip(*self._slices, strict=True)))
        return (rounded(self._layer.join(moments, self._segments), self._dtype),)
