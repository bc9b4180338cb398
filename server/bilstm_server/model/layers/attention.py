"""Sums of a sequence's rows by weights.

    weighted_sum:   y = Σ_t w_t x_t
    attention:      y = Σ_t w_t x_t, its weights the softmax of scores over the steps

Scores and weights have a column for each head. Each head weights the whole row, and what they give
lies side by side; or with `split` its own part of the row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..kernels import RaggedBatch, rounded
from .arithmetic import wide
from .interface import WholeConfig, WholeLayer
from .segments import Segments
from .softmax_steps import Softmax
from .values import Value, parts_of, steps, together


class _WeightingConfig(WholeConfig):
    split: bool = False

    number_of_inputs = 2

    def weighted(self, x: Value, weights: Value) -> Value:
        """The form of the sums. Raises `ValueError` unless x can be weighted so."""
        together((steps(x), steps(weights)))
        if self.split:
            parts_of(x, weights.width, "heads")
        return x.per_sequence(x.width * (1 if self.split else weights.width))


class WeightedSumConfig(_WeightingConfig):
    """The sum of a sequence's rows, each times its weights: `[values, weights]`."""

    type: Literal["weighted_sum"] = "weighted_sum"

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[N, D], [N, heads] -> [B, heads * D], or with `split` [B, D]"""
        x, weights = inputs
        return {"": self.weighted(x, weights)}

    def build(self, *inputs: Value) -> WeightedSum:
        return WeightedSum(self.split)


class AttentionConfig(_WeightingConfig):
    """The sum of a sequence's rows, weighted by the softmax of their scores over the steps:
    `[values, scores]`."""

    type: Literal["attention"] = "attention"

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[N, D], [N, heads] -> [B, heads * D], or with `split` [B, D]; `weights` [N, heads]"""
        x, scores = inputs
        return {"": self.weighted(x, scores), "weights": scores}

    def build(self, *inputs: Value) -> Attention:
        return Attention(self.split)


class WeightedSum(WholeLayer):
    """See `WeightedSumConfig`."""

    def __init__(self, split: bool):
        super().__init__()
        self._split = split

    def forward(self, x: Tensor, weights: Tensor, batch: RaggedBatch) -> tuple[Tensor]:
        """[N, D], [N, heads] -> [B, heads * D], or with `split` [B, D]"""
        segments = Segments(batch.lengths)
        sums = self.segment_sums(x, weights, segments)
        return (rounded(segments.join("sum", sums), x.dtype),)

    def segment_sums(self, x: Tensor, weights: Tensor, segments: Segments) -> Tensor:
        """[N, D], [N, heads] -> [segments, heads * D or D]"""
        return segments.weighted_sums(wide(x), wide(weights), self._split)

    def sliced(self, steps: int, dtype: torch.dtype) -> _SlicedSum:
        return _SlicedSum(self, steps, dtype)


class _SlicedSum:
    def __init__(self, layer: WeightedSum, steps: int, dtype: torch.dtype):
        self._layer = layer
        self._segments = Segments(np.array([steps]))
        self._dtype = dtype
        self._sums: list[Tensor] = []

    def add(self, start: int, *rows: Tensor) -> None:
        x, weights = rows
        self._sums.append(self._layer.segment_sums(x, weights, Segments(np.array([len(x)]))))

    def result(self) -> tuple[Tensor, ...]:
        return (rounded(self._segments.join("sum", torch.cat(self._sums)), self._dtype),)


class Attention(WholeLayer):
    """See `AttentionConfig`."""

    def __init__(self, split: bool):
        super().__init__()
        self._split = split

    def forward(self, x: Tensor, scores: Tensor, batch: RaggedBatch) -> tuple[Tensor, ...]:
        """[N, D], [N, heads] -> [B, heads * D], or with `split` [B, D]; weights [N, heads]"""
        segments = Segments(batch.lengths)
        return self.join(*self.reduce(x, scores, segments), segments, x.dtype)

    def reduce(self, x: Tensor, scores: Tensor, segments: Segments) -> tuple[Softmax, Tensor]:
        """The softmax, and the sums by its exponentials [segments, heads * D or D]."""
        softmax = Softmax.of(scores, segments)
        return softmax, segments.weighted_sums(wide(x), softmax.exponentials, self._split)

    def join(
        self, softmax: Softmax, sums: Tensor, segments: Segments, dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        """What `forward` gives."""
        factors = softmax.factors(segments)
        by_head = sums.view(*factors.shape, -1)  # whether they are split or not
        y = segments.join("sum", (by_head * factors.unsqueeze(2)).flatten(1))
        return rounded(y, dtype), softmax.weights(segments, dtype)

    def sliced(self, steps: int, dtype: torch.dtype) -> _SlicedAttention:
        return _SlicedAttention(self, steps, dtype)


class _SlicedAttention:
    def __init__(self, layer: Attention, steps: int, dtype: torch.dtype):
        self._layer = layer
        self._segments = Segments(np.array([steps]))
        self._dtype = dtype
        self._slices: list[tuple[Softmax, Tensor]] = []

    def add(self, start: int, *rows: Tensor) -> None:
        x, scores = rows
        softmax, sums = self._layer.reduce(x, scores, Segments(np.array([len(x)])))
        self._slices.append((softmax.without(["scores"]), sums))

    def result(self) -> tuple[Tensor, ...]:
        softmaxes, sums = zip(*self._slices, strict=True)
        softmax = Softmax.joined(list(softmaxes))
        return self._layer.join(softmax, torch.cat(sums), self._segments, self._dtype)
