"""y_t = x_(T + 1 - t)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ..kernels import RaggedBatch
from .interface import WholeConfig, WholeLayer
from .values import Value


class ReverseStepsConfig(WholeConfig):
    """The rows of each sequence from its last step to its first one, as `x.flip` of it alone."""

    type: Literal["reverse_steps"] = "reverse_steps"

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[N, D] -> [N, D], or ids [N] -> [N]"""
        (x,) = inputs
        if not x.per_step:
            raise ValueError(f"reads a row for each step, got {x.describe()}")
        return {"": x}

    def build(self, *inputs: Value) -> ReverseSteps:
        return ReverseSteps()


class ReverseSteps(WholeLayer):
    """See `ReverseStepsConfig`."""

    def forward(self, x: Tensor, batch: RaggedBatch) -> tuple[Tensor]:
        """[N, D] -> [N, D], or ids [N] -> [N]"""
        return (x.index_select(0, batch.reversed_rows),)

    def sliced(self, steps: int, dtype: torch.dtype) -> _Sliced:
        return _Sliced()


class _Sliced:
    def __init__(self) -> None:
        self._slices: list[Tensor] = []

    def add(self, start: int, *rows: Tensor) -> None:
        (x,) = rows
        self._slices.append(x.flip(0))

    def result(self) -> tuple[Tensor, ...]:
        return (torch.cat(self._slices[::-1]),)
