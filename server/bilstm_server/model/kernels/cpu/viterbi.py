"""`CpuViterbi`: a CRF's scores laid out for the compiled library, and tensors handed to it."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

from ..interface import Backpointers, Paths, needs_operations, state_type
from ..ragged import RaggedBatch
from ..reference import ReferenceLayer
from .library import ChainStruct, Library, PathBatchStruct

_STRIDE_UNIT = 16  # numbers: whole vectors of any variant and type


class CpuViterbi:
    """The best paths through a CRF's tags by the compiled library, in float32 or float64."""

    def __init__(self, transitions: Tensor, start: Tensor, end: Tensor, library: Library):
        self._library = library
        self._dtype = state_type(transitions.dtype)
        self._tags = len(transitions)
        self._reference = ReferenceLayer.viterbi(transitions, start, end)
        stride = ceil(self._tags / _STRIDE_UNIT) * _STRIDE_UNIT
        padded = torch.zeros(self._tags, stride, dtype=self._dtype)
        padded[:, : self._tags] = transitions.detach()
        ends = (own.detach().to(self._dtype, copy=True).contiguous() for own in (start, end))
        self._scores = (padded, *ends)  # not to be freed before the chain
        self._chain = ChainStruct(self._tags, stride, *map(Tensor.data_ptr, self._scores))

    def advance(
        self, emissions: Tensor, batch: RaggedBatch, scores: Tensor | None = None
    ) -> Backpointers:
        """See `Viterbi`. Raises `MemoryError`.

        Where torch's own operations are needed the reference computes this; see `needs_operations`.
        """
        if needs_operations(emissions, *(() if scores is None else (scores,))):
            return self._reference.advance(emissions, batch, scores)
        emissions = emissions.to(self._dtype).contiguous()
        if scores is None:
            reached = emissions.new_empty(len(batch), self._tags)
        else:
            reached = scores.to(self._dtype, copy=True).contiguous()
        backpointers = torch.empty_like(emissions, dtype=torch.int16)
        passed = PathBatchStruct(
            *(len(batch), *batch.addresses, scores is None),
            *(tensor.data_ptr() for tensor in (emissions, reached, backpointers)),
        )
        self._library.advance_paths(self._wide, self._chain, passed)
        return Backpointers(backpointers, reached)

    def trace(self, backpointers: Tensor, scores: Tensor, batch: RaggedBatch) -> Paths:
        """See `Viterbi`. Raises `MemoryError`. The reference may run, as in `advance`."""
        if needs_operations(backpointers, scores):
            return self._reference.trace(backpointers, scores, batch)
        backpointers, scores = backpointers.contiguous(), scores.contiguous()
        tags = torch.empty(batch.steps, dtype=torch.int64)
        best = scores.new_empty(len(batch))
        passed = PathBatchStruct(
            *(len(batch), *batch.addresses, False, None),
            *(tensor.data_ptr() for tensor in (scores, backpointers, tags, best)),
        )
        self._library.trace_paths(self._wide, self._chain, passed)
        return Paths(tags, best)

    @property
    def _wide(self) -> bool:
        return self._dtype == torch.float64
