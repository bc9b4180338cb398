"""`Staging`: sequences of a batch copied, once, from their requests' bytes to the device.

Knows one model's shapes and type, and the way to its device; computes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..model.config import ModelConfig
from ..model.kernels import RaggedBatch
from .sequences import Array, BlockInput, Input, SequenceInput
from .transfer import Item, Transfer, Upload

S = TypeVar("S", SequenceInput, BlockInput)


@dataclass(frozen=True, slots=True, eq=False)
class Staged(Generic[S]):
    """Sequences of one kind in one buffer, or on their way into it: see `Upload`."""

    sequences: Sequence[S]
    inputs: Sequence[Tensor]  # of the model's, in its order: [N, width] or ids [N]
    ragged: RaggedBatch
    hx: tuple[Tensor, Tensor] | None
    upload: Upload


@dataclass(frozen=True, slots=True, eq=False)
class StagedBatch:
    """A batch, ready to compute: whole sequences, and blocks of live ones."""

    sequences: Sequence[Input]
    whole: Staged[SequenceInput] | None
    blocks: Staged[BlockInput] | None


class Staging:
    """Copies sequences into buffers of the model's type, and sends those to its device."""

    def __init__(
        self, config: ModelConfig, device: torch.device, dtype: torch.dtype, transfer: Transfer
    ):
        # Of one step of each input, and its type.
        self._forms: list[tuple[tuple[int, ...], torch.dtype]] = [
            ((), torch.int64) if given.ids else ((given.value.width,), dtype)
            for given in config.inputs.values()
        ]
        self._state = config.state
        self._device = device
        self._dtype = dtype
        self._transfer = transfer

    def zeros(self, steps: int) -> tuple[Array, ...]:
        """Steps as a request may bring them: of each input zeros [steps, width], or ids [steps]."""
        return tuple(
            np.zeros((steps, *shape), np.float32 if shape else np.int64) for shape, _ in self._forms
        )

    def stage(self, sequences: Sequence[Input]) -> StagedBatch:
        """Copy the sequences of a batch, and send them off."""
        whole = [s for s in sequences if isinstance(s, SequenceInput)]
        blocks = [s for s in sequences if isinstance(s, BlockInput)]
        return StagedBatch(
            sequences,
            self._stage(whole) if whole else None,
            self._stage(blocks) if blocks else None,
        )

    def _stage(self, sequences: Sequence[S]) -> Staged[S]:
        ragged = RaggedBatch([s.tokens for s in sequences], self._device)
        items = self._steps([s.steps_between(0, s.tokens) for s in sequences])
        has_states = any(s.initial_state is not None for s in sequences)
        if has_states:
            items += self._initial_states(sequences)
        has_index = self._device.type != "cpu"  # where it is to be copied, with the rest
        if has_index:
            index = ragged.index_array
            items.append(Item(index.shape, torch.int32, partial(np.copyto, src=index)))
        upload = self._transfer.upload(items)
        tensors = list(upload.tensors)
        if has_index:
            ragged.index = tensors.pop()
        inputs, states = tensors[: len(self._forms)], tensors[len(self._forms) :]
        hx = (states[0], states[1]) if has_states else None
        return Staged(sequences, inputs, ragged, hx, upload)

    def send_steps(self, steps: tuple[Array, ...]) -> Sequence[Tensor]:
        """Send some steps of one sequence, which the current stream computes with at once."""
        return self._send(self._steps([steps]))

    def send_initial_state(self, sequence: SequenceInput) -> tuple[Tensor, Tensor] | None:
        """Send a sequence's initial state, [L*K, P] and [L*K, H], if it has one."""
        if sequence.initial_state is None:
            return None
        h_0, c_0 = self._send(self._initial_states([sequence]))
        return h_0[:, 0], c_0[:, 0]

    def _send(self, items: Sequence[Item]) -> Sequence[Tensor]:
        upload = self._transfer.upload(items)
        upload.make_stream_wait()
        return upload.tensors

    def _steps(self, sequences: Sequence[tuple[Array, ...]]) -> list[Item]:
        """Of each input [N, width] or ids [N], one sequence after the other."""
        steps = sum(len(inputs[0]) for inputs in sequences)
        return [
            Item((steps, *shape), dtype, partial(_concatenate, [own[k] for own in sequences]))
            for k, (shape, dtype) in enumerate(self._forms)
        ]

    def _initial_states(self, sequences: Sequence[Input]) -> list[Item]:
        """h_0 [L*K, B, P] and c_0 [L*K, B, H], zeros where a sequence has none."""

        def write(kind: int, states: Array) -> None:
            for column, sequence in enumerate(sequences):
                given = sequence.initial_state
                states[:, column] = 0 if given is None else given[kind]

        assert self._state is not None
        rows, *widths, _ = self._state
        return [
            Item((rows, len(sequences), width), self._dtype, partial(write, kind))
            for kind, width in enumerate(widths)
        ]


def _concatenate(parts: list[Array], x: Array) -> None:
    np.concatenate(parts, out=x, casting="unsafe")
