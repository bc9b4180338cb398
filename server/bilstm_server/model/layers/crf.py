"""The best path through a linear-chain CRF's tags; the equations are in `kernels/viterbi`.

The matrix itself says what can't follow what: by minus infinity, or by what the model's owner put
there, such as -10000. A tag <START> or <STOP> of the matrix is a tag like the others, which its own
scores keep out of every path.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..kernels import (
    MOST_TAGS,
    Kernel,
    RaggedBatch,
    ReferenceViterbi,
    Viterbi,
    choose_kernel,
    rounded,
)
from .interface import WholeConfig, WholeLayer
from .packing import PackingLayer
from .values import Value, steps


class CrfConfig(WholeConfig):
    """The tags of the best path of each sequence, by Viterbi's algorithm; `crf.score` is the
    path's score. What it reads are the emissions, a column for each of C tags.

    Its parameters are `transitions` [C, C] (from, to), and `start_transitions` and
    `end_transitions` [C], as pytorch-crf has them.
    """

    type: Literal["crf"] = "crf"
    start: bool = Field(
        default=True, description="It has start_transitions: the score of each tag as the first."
    )
    end: bool = Field(
        default=True, description="It has end_transitions: the score of each tag as the last."
    )
    start_tag: int | None = Field(
        default=None, ge=0, description="The tag whose row of transitions has the start scores."
    )
    stop_tag: int | None = Field(
        default=None, ge=0, description="The tag whose column of transitions has the end scores."
    )

    forbidding: ClassVar = frozenset({"transitions", "start_transitions", "end_transitions"})

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.start and self.start_tag is not None:
            raise ValueError("start_tag needs start to be false")
        if self.end and self.stop_tag is not None:
            raise ValueError("stop_tag needs end to be false")
        return self

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[N, C] -> [N] of tags; `score` [B, 1]"""
        (x,) = map(steps, inputs)
        if x.width > MOST_TAGS:
            raise ValueError(f"reads a column for each of {MOST_TAGS} tags at most, got {x.width}")
        for name, tag in (("start_tag", self.start_tag), ("stop_tag", self.stop_tag)):
            if tag is not None and tag >= x.width:
                raise ValueError(f"{name}: {tag} is none of the tags 0 to {x.width - 1}")
        return {"": Value(1, ids=x.width, grid=x.grid), "score": x.per_sequence(1)}

    def build(self, *inputs: Value) -> Crf:
        return Crf(inputs[0].width, self)

    @property
    def not_live(self) -> str | None:
        return "the best path is known at the end of the sequence only"


class Crf(PackingLayer[Viterbi], WholeLayer):
    """See `CrfConfig`."""

    def __init__(self, tags: int, config: CrfConfig):
        super().__init__()
        self.config = config

        def scores(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).uniform_(-0.1, 0.1))

        self.transitions = scores(tags, tags)
        self.start_transitions = scores(tags) if config.start else None
        self.end_transitions = scores(tags) if config.end else None

    def scores(self) -> tuple[Tensor, Tensor, Tensor]:
        """The transitions [from, to], and the scores of the first and of the last tag [C]."""
        config, matrix = self.config, self.transitions
        none = matrix.new_zeros(len(matrix))
        start = none if config.start_tag is None else matrix[config.start_tag]
        end = none if config.stop_tag is None else matrix[:, config.stop_tag]
        return (
            matrix,
            start if self.start_transitions is None else self.start_transitions,
            end if self.end_transitions is None else self.end_transitions,
        )

    def pack(self, kernel: Kernel) -> Viterbi:
        return kernel.viterbi(*self.scores())

    def forward(self, emissions: Tensor, batch: RaggedBatch) -> tuple[Tensor, Tensor]:
        """[N, C] -> tags [N], and the path's score [B, 1]"""
        viterbi = self.packed or ReferenceViterbi(*self.scores())
        paths = viterbi.trace(*viterbi.advance(emissions, batch), batch)
        return paths.tags, rounded(paths.scores, emissions.dtype).unsqueeze(1)

    def sliced(self, steps: int, dtype: torch.dtype) -> _SlicedCrf:
        return _SlicedCrf(self, steps, dtype)


class _SlicedCrf:
    """Computes on the CPU, where slices are; any kernel has the same bits."""

    def __init__(self, crf: Crf, steps: int, dtype: torch.dtype):
        self._steps = steps
        self._dtype = dtype
        kernel = choose_kernel("auto", torch.device("cpu")).kernel
        self._viterbi = kernel.viterbi(*(scores.cpu() for scores in crf.scores()))
        self._backpointers = torch.empty(steps, len(crf.transitions), dtype=torch.int16)
        self._scores: Tensor | None = None

    def add(self, start: int, *rows: Tensor) -> None:
        (emissions,) = rows
        found = self._viterbi.advance(emissions, RaggedBatch([len(emissions)]), self._scores)
        self._backpointers[start : start + len(emissions)] = found.tags
        self._scores = found.scores

    def result(self) -> tuple[Tensor, Tensor]:
        assert self._scores is not None
        batch = RaggedBatch([self._steps])
        paths = self._viterbi.trace(self._backpointers, self._scores, batch)
        return paths.tags, rounded(paths.scores, self._dtype).unsqueeze(1)
