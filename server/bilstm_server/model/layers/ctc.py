"""What CTC's scores say, decoded greedily: the best class of each step, without repeats and blanks.

See Graves et al. 2006, 3.2. A step that says nothing has -1, which no caller is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ..kernels import RaggedBatch, to_device
from .interface import WholeConfig, WholeLayer
from .values import Value, steps

_LEFT_OUT = -1


class CtcConfig(WholeConfig):
    """The classes of each sequence in order: of each step the one with the highest score, once
    where several steps in a row have it, and without the blank ones. It has no parameters.
    """

    type: Literal["ctc"] = "ctc"
    blank: int = Field(default=0, ge=0, description="The class of a step that says nothing.")

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[N, C] -> [N] of classes"""
        (x,) = map(steps, inputs)
        if self.blank >= x.width:
            raise ValueError(f"blank: {self.blank} is none of the classes 0 to {x.width - 1}")
        return {"": Value(1, ids=x.width, grid=x.grid, sparse=True)}

    def build(self, *inputs: Value) -> Ctc:
        return Ctc(self.blank)


class Ctc(WholeLayer):
    """See `CtcConfig`."""

    def __init__(self, blank: int):
        super().__init__()
        self.blank = blank

    def forward(self, scores: Tensor, batch: RaggedBatch) -> tuple[Tensor]:
        """[N, C] -> classes [N]"""
        best = scores.argmax(dim=1)
        before = best.roll(1)
        first = to_device(batch.lengths.cumsum() - batch.lengths, scores.device)
        before[first] = self.blank
        return (self.drop(best, before),)

    def drop(self, best: Tensor, before: Tensor) -> Tensor:
        """Leave out what is blank, or the same as at the step before: [n], [n] -> [n]"""
        return best.masked_fill((best == self.blank) | (best == before), _LEFT_OUT)

    def sliced(self, steps: int, dtype: torch.dtype) -> _SlicedCtc:
        return _SlicedCtc(self, steps)


class _SlicedCtc:
    def __init__(self, ctc: Ctc, steps: int):
        self._ctc = ctc
        self._last = torch.tensor([ctc.blank])  # the best class of the last step
        self._classes = torch.empty(steps, dtype=torch.int64)

    def add(self, start: int, *rows: Tensor) -> None:
        best = rows[0].argmax(dim=1)
        before = torch.cat([self._last, best[:-1]])
        self._classes[start : start + len(best)] = self._ctc.drop(best, before)
        self._last = best[-1:]

    def result(self) -> tuple[Tensor]:
        return (self._classes,)
