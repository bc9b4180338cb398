"""Weights over the steps of each sequence, and sums of its rows by them.

    softmax_steps:  w_t = exp(s_t) / Σ_u exp(s_u)
    weighted_sum:   y = Σ_t w_t x_t
    attention:      y = Σ_t w_t x_t, its weights the softmax of scores over the steps

Scores and weights have a column for each head. Each head weights the whole row, and what they give
lies side by side; or with `split` its own part of the row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..kernels import RaggedBatch, rounded
from .arithmetic import wide
from .interface import LayerConfig, WholeLayer
from .segments import Segments
from .values import Value, parts_of, steps, together


class _WholeConfig(LayerConfig):
    @property
    def not_live(self) -> str | None:
        return "it reads the whole sequence"


class SoftmaxStepsConfig(_WholeConfig):
    """The softmax of each column over the steps of its sequence."""

    type: Literal["softmax_steps"] = "softmax_steps"

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[N, heads] -> [N, heads]"""
        (scores,) = map(steps, inputs)
        return {"": scores}

    def build(self, *inputs: Value) -> SoftmaxSteps:
        return SoftmaxSteps()


class _WeightingConfig(_WholeConfig):
    split: bool = False

    number_of_inputs = 2

    def weighted(self, x: Value, weights: Value) -> Value:
        """The form of the sums. Raises `ValueError` unless x can be weighted so."""
        together((steps(x), steps(weights)))
        if self.split:
            parts_of(x, weights.width)
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


class Softmax(NamedTuple):
    """The exponentials of scores against the largest one of their segment, and what joins them."""

    maxima: Tensor  # [segments, heads]
    sums: Tensor  # [segments, heads]
    exponentials: Tensor  # [N, heads]

    @classmethod
    def of(cls, scores: Tensor, segments: Segments) -> Softmax:
        """[N, heads], in float32 at least"""
        maxima = segments.maxima(scores)
        exponentials = torch.exp(scores - segments.to_rows(_finite(maxima)))
        return cls(maxima, segments.sums(exponentials), exponentials)

    def factors(self, segments: Segments) -> Tensor:
        """What the exponentials of each segment are to be multiplied with, so that those of a
        sequence have the sum 1: [segments, heads] of float64."""
        largest = _finite(segments.joined_maxima(self.maxima)).double()
        factors = torch.exp(self.maxima.double() - segments.to_segments(largest))
        return factors / segments.to_segments(segments.joined_sums(factors * self.sums))

    def weights(self, segments: Segments, dtype: torch.dtype) -> Tensor:
        """The softmax itself: [N, heads]"""
        factors = self.factors(segments).to(self.exponentials.dtype)
        return rounded(self.exponentials * segments.to_rows(factors), dtype)


class SoftmaxSteps(WholeLayer):
    """See `SoftmaxStepsConfig`."""

    def forward(self, scores: Tensor, batch: RaggedBatch) -> tuple[Tensor]:
        """[N, heads] -> [N, heads]"""
        segments = Segments(batch.lengths)
        return (Softmax.of(wide(scores), segments).weights(segments, scores.dtype),)

    def sliced(self, steps: int, dtype: torch.dtype) -> _SlicedSoftmax:
        return _SlicedSoftmax(steps, dtype)


class _SlicedSoftmax:
    def __init__(self, steps: int, dtype: torch.dtype):
        self._segments = Segments(np.array([steps]))
        self._dtype = dtype
        self._slices: list[Softmax] = []

    def add(self, start: int, *rows: Tensor) -> None:
        (scores,) = rows
        self._slices.append(Softmax.of(wide(scores), Segments(np.array([len(scores)]))))

    def result(self) -> tuple[Tensor, ...]:
        softmax = Softmax(*map(torch.cat, zip(*self._slices, strict=True)))
        return (softmax.weights(self._segments, self._dtype),)


class WeightedSum(WholeLayer):
    """See `WeightedSumConfig`."""

    def __init__(self, split: bool):
        super().__init__()
        self._split = split

    def forward(self, x: Tensor, weights: Tensor, batch: RaggedBatch) -> tuple[Tensor]:
        """[N, D], [N, heads] -> [B, heads * D], or with `split` [B, D]"""
        segments = Segments(batch.lengths)
        sums = self.segment_sums(x, weights, segments)
        return (rounded(segments.joined_sums(sums), x.dtype),)

    def segment_sums(self, x: Tensor, weights: Tensor, segments: Segments) -> Tensor:
        """[N, D], [N, heads] -> [segments, heads * D or D]"""
        return segments.sums(weighted(wide(x), wide(weights), self._split))

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
        return (rounded(self._segments.joined_sums(torch.cat(self._sums)), self._dtype),)


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
        softmax = Softmax.of(wide(scores), segments)
        return softmax, segments.sums(weighted(wide(x), softmax.exponentials, self._split))

    def join(
        self, softmax: Softmax, sums: Tensor, segments: Segments, dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        """What `forward` gives."""
        # The sums have each head's columns side by side, split or not.
        y = weighted(sums.double(), softmax.factors(segments), split=True)
        return rounded(segments.joined_sums(y), dtype), softmax.weights(segments, dtype)

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
        self._slices.append(self._layer.reduce(x, scores, Segments(np.array([len(x)]))))

    def result(self) -> tuple[Tensor, ...]:
        softmaxes, sums = zip(*self._slices, strict=True)
        softmax = Softmax(*map(torch.cat, zip(*softmaxes, strict=True)))
        return self._layer.join(softmax, torch.cat(sums), self._segments, self._dtype)


def weighted(x: Tensor, weights: Tensor, split: bool) -> Tensor:
    """Each head's weight times the row [rows, D] -> [rows, heads * D], or with `split` times its
    own part of the row: [rows, D] -> [rows, D]"""
    parts = x.reshape(len(x), weights.shape[1] if split else 1, -1)
    return (weights.unsqueeze(2) * parts).flatten(1)


def _finite(maxima: Tensor) -> Tensor:
    """The numbers, but 0 for -inf, whose exponentials are 0 against anything."""
    return maxima.masked_fill(maxima == -torch.inf, 0.0)
