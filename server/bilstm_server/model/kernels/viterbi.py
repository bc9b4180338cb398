"""Viterbi's algorithm in plain torch, on any device: the best path through the tags of a CRF.

The CPU kernel's is judged by this one, and gives the same bits. A path's score is the sum of its
start score, the emissions of its tags, the transitions between them, and its end score. The best
score with which a path can be at tag j after step t is (Viterbi 1967):

    score_1[j] = start[j] + emission_1[j]
    score_t[j] = max over i of (score_(t-1)[i] + transition[i, j]) + emission_t[j]

Of equal scores the lowest tag counts, and a NaN counts as more than any number: so does torch.max.
Minus infinity forbids a transition; that a path has one shows in its score.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .interface import Backpointers, Paths, state_type
from .ragged import RaggedBatch


class ReferenceViterbi:
    """Advances all sequences together that have a step, S of them.

    It computes with the tensors that it is given, so that a gradient of a path's score reaches
    them.
    """

    def __init__(self, transitions: Tensor, start: Tensor, end: Tensor):
        dtype = state_type(transitions.dtype)
        self._transitions, self._start, self._end = (
            scores.to(dtype) for scores in (transitions, start, end)
        )

    def advance(
        self, emissions: Tensor, batch: RaggedBatch, scores: Tensor | None = None
    ) -> Backpointers:
        """See `Viterbi`."""
        steps = emissions.to(self._transitions.dtype).index_select(0, batch.forward_rows)
        own = None if scores is None else scores.index_select(0, batch.order)  # [S, C]
        ended: list[Tensor] = []  # scores of sequences that ended, shortest first
        origins: list[Tensor] = []
        for step in torch.split(steps, batch.batch_sizes):
            if own is None:
                own = self._start + step
                origins.append(torch.zeros_like(own, dtype=torch.int64))
                continue
            if len(step) < len(own):
                ended.append(own[len(step) :])
                own = own[: len(step)]
            best, origin = (own.unsqueeze(2) + self._transitions).max(dim=1)
            own = best + step
            origins.append(origin)
        assert own is not None
        last = torch.cat([own, *reversed(ended)]).index_select(0, batch.rank)
        backpointers = torch.empty_like(steps, dtype=torch.int16)
        backpointers.index_copy_(0, batch.forward_rows, torch.cat(origins).to(torch.int16))
        return Backpointers(backpointers, last)

    def trace(self, backpointers: Tensor, scores: Tensor, batch: RaggedBatch) -> Paths:
        """See `Viterbi`."""
        best, last = (scores + self._end).max(dim=1)
        last = last.index_select(0, batch.order)
        steps = torch.split(
            backpointers.index_select(0, batch.forward_rows).long(), batch.batch_sizes
        )
        tags = last[:0]  # [S]: of the sequences that have the step
        path: list[Tensor] = []
        for step in reversed(steps):
            tags = torch.cat([tags, last[len(tags) : len(step)]])
            path.append(tags)
            tags = step.gather(1, tags.unsqueeze(1)).squeeze(1)
        rows = torch.cat(path[::-1])
        return Paths(torch.empty_like(rows).index_copy_(0, batch.forward_rows, rows), best)
