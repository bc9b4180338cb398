"""The softmax of scores over the steps of each sequence, column by column.

softmax_steps:  w_t = exp(s_t) / Σ_u exp(s_u)
logsumexp:      y = log Σ_t exp(s_t)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..kernels import RaggedBatch, rounded
from .arithmetic import wide
from .interface import WholeConfig, WholeLayer
from .segments import Segments
from .values import Value, steps


class SoftmaxStepsConfig(WholeConfig):
    """The softmax of each column over the steps of its sequence, or its logarithm."""

    type: Literal["softmax_steps"] = "softmax_steps"
    log: bool = False

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[N, heads] -> [N, heads]"""
        (scores,) = map(steps, inputs)
        return {"": scores}

    def build(self, *inputs: Value) -> SoftmaxSteps:
        return LogSoftmaxSteps() if self.log else SoftmaxSteps()


class LogSumExpConfig(WholeConfig):
    """The logarithm of the sum of the exponentials of each column over the steps."""

    type: Literal["logsumexp"] = "logsumexp"

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[N, D] -> [B, D]"""
        (x,) = map(steps, inputs)
        return {"": x.per_sequence(x.width)}

    def build(self, *inputs: Value) -> LogSumExp:
        return LogSumExp()


class Softmax(NamedTuple):
    """The exponentials of scores against the largest one of their segment, and what joins them."""

    maxima: Tensor  # [segments, heads]
    sums: Tensor  # [segments, heads]
    exponentials: Tensor  # [N, heads]
    scores: Tensor  # [N, heads]

    @classmethod
    def of(cls, scores: Tensor, segments: Segments) -> Softmax:
        """Reduce scores [N, heads] to segments."""
        scores = wide(scores)
        maxima = segments.reduce("max", scores)
        exponentials = torch.exp(scores - segments.to_rows(_finite(maxima)))
        return cls(maxima, segments.reduce("sum", exponentials), exponentials, scores)

    def without(self, fields: Collection[str]) -> Softmax:
        """The same without those of its [N, heads] that nothing will read."""
        none = self.scores.new_empty(0, self.scores.shape[1])
        return self._replace(**dict.fromkeys(fields, none))

    @classmethod
    def joined(cls, slices: list[Softmax]) -> Softmax:
        """That of all steps of a sequence, of its slices."""
        return cls(*map(torch.cat, zip(*slices, strict=True)))

    def totals(self, segments: Segments) -> tuple[Tensor, Tensor, Tensor]:
        """For each segment what its exponentials are to be multiplied with, [segments, heads]; for
        each sequence their sum then, and the score that they are against, [B, heads]. All are of
        float64."""
        largest = _finite(segments.join("max", self.maxima)).double()
        factors = torch.exp(self.maxima.double() - segments.to_segments(largest))
        return factors, segments.join("sum", factors * self.sums), largest

    def factors(self, segments: Segments) -> Tensor:
        """What the exponentials of each segment are to be multiplied with, so that those of a
        sequence have the sum 1: [segments, heads] of float64."""
        factors, sums, _ = self.totals(segments)
        return factors / segments.to_segments(sums)

    def weights(self, segments: Segments, dtype: torch.dtype) -> Tensor:
        """The softmax itself: [N, heads]"""
        factors = self.factors(segments).to(self.exponentials.dtype)
        return rounded(self.exponentials * segments.to_rows(factors), dtype)

    def logsumexp(self, segments: Segments) -> Tensor:
        """The logarithm of the sum of the exponentials of the scores themselves: [B, heads] of
        float64"""
        _, sums, largest = self.totals(segments)
        return torch.log(sums) + largest


def _finite(maxima: Tensor) -> Tensor:
    """The numbers, but 0 for -inf, whose exponentials are 0 against anything."""
    return maxima.masked_fill(maxima == -torch.inf, 0.0)


class SoftmaxSteps(WholeLayer):
    """See `SoftmaxStepsConfig`."""

    unread: ClassVar[Collection[str]] = ("scores",)  # of `Softmax`, by `join`

    def forward(self, scores: Tensor, batch: RaggedBatch) -> tuple[Tensor]:
        """[N, heads] -> [N, heads]"""
        segments = Segments(batch.lengths)
        return (self.join(Softmax.of(scores, segments), segments, scores.dtype),)

    def join(self, softmax: Softmax, segments: Segments, dtype: torch.dtype) -> Tensor:
        """What `forward` gives."""
        return softmax.weights(segments, dtype)

    def sliced(self, steps: int, dtype: torch.dtype) -> _Sliced:
        return _Sliced(self, steps, dtype)


class LogSoftmaxSteps(SoftmaxSteps):
    """See `SoftmaxStepsConfig`."""

    unread = ("exponentials",)

    def join(self, softmax: Softmax, segments: Segments, dtype: torch.dtype) -> Tensor:
        """What `forward` gives: [N, heads]"""
        totals = softmax.logsumexp(segments).to(softmax.scores.dtype)
        return rounded(softmax.scores - segments.to_rows(segments.to_segments(totals)), dtype)


class LogSumExp(SoftmaxSteps):
    """See `LogSumExpConfig`."""

    unread = ("exponentials", "scores")

    def join(self, softmax: Softmax, segments: Segments, dtype: torch.dtype) -> Tensor:
        """What `forward` gives: [B, D]"""
        return rounded(softmax.logsumexp(segments), dtype)


class _Sliced:
    def __init__(self, layer: SoftmaxSteps, steps: int, dtype: torch.dtype):
        self._layer = layer
        self._segments = Segments(np.array([steps]))
        self._dtype = dtype
        self._slices: list[Softmax] = []

    def add(self, start: int, *rows: Tensor) -> None:
        (scores,) = rows
        softmax = Softmax.of(scores, Segments(np.array([len(scores)])))
        self._slices.append(softmax.without(self._layer.unread))

    def result(self) -> tuple[Tensor, ...]:
        return (self._layer.join(Softmax.joined(self._slices), self._segments, self._dtype),)
