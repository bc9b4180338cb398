"""`Engine`: stage sequences into one buffer, compute them, split the result.

Here request arrays and torch tensors meet. Runs in worker threads; holds no queue, no state
between batches, and knows nothing of who asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Self

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from ..errors import ModelError, OutOfMemory
from ..model.checkpoint import load_model
from ..model.config import ModelConfig, Output
from ..model.device import choose_device
from ..model.encoder import Encodings, SequenceEncoder
from ..model.kernels import KernelUnavailable, RaggedBatch, choose_kernel
from .sequence import Array, SequenceInput, SequenceOutput


@dataclass(frozen=True, slots=True, eq=False)
class StagedBatch:
    """A batch in one buffer on the device, ready to compute."""

    sequences: Sequence[SequenceInput]
    x: Tensor  # [N, D], or token ids [N]
    ragged: RaggedBatch
    hx: tuple[Tensor, Tensor] | None


class Engine:
    """One model on one device."""

    def __init__(self, encoder: SequenceEncoder, kernel: str = "auto"):
        """Freezes `encoder` and packs its weights for the kernel of that name.

        Raises `ModelError` if the kernel can't run here.
        """
        self._encoder = encoder
        parameter = next(encoder.parameters())
        self.device = parameter.device
        self._dtype = parameter.dtype
        try:
            choice = choose_kernel(kernel, self.device)
        except KernelUnavailable as error:
            raise ModelError(f"--kernel {kernel}: {error}") from error
        self.kernel = choice.name
        self.missed_kernel = choice.missed  # why it is not a faster one, if there is one
        self.instructions = choice.instructions  # that it was compiled for
        encoder.freeze(choice.kernel)

    @classmethod
    def load(cls, folder: Path, device: str, dtype: str, kernel: str) -> Self:
        """The model in `folder`. Raises `ModelError` if it can't be used."""
        encoder = load_model(folder, choose_device(device), getattr(torch, dtype))
        return cls(encoder, kernel)

    @property
    def config(self) -> ModelConfig:
        return self._encoder.config

    @property
    def threads(self) -> int:
        """That compute on the CPU."""
        return torch.get_num_threads()

    @property
    def dtype(self) -> str:
        return str(self._dtype).removeprefix("torch.")

    def warm_up(self) -> None:
        """Compute a small batch with every output, so that the first request finds it all done."""
        config = self.config
        outputs = frozenset(Output) - (frozenset() if config.head else {Output.LOGITS})
        steps = [
            np.zeros(n, np.int64) if config.embedding else np.zeros((n, config.input_size), "<f4")
            for n in (3, 1)
        ]
        self.run([SequenceInput(s, outputs) for s in steps])

    def run(self, sequences: Sequence[SequenceInput]) -> list[SequenceOutput]:
        """`stage` and `compute` in one go."""
        return self.compute(self.stage(sequences))

    def stage(self, sequences: Sequence[SequenceInput]) -> StagedBatch:
        """Copy the sequences, once, from their request's bytes into one buffer on the device.

        Raises `OutOfMemory`.
        """
        with _out_of_memory():
            lengths = [s.tokens for s in sequences]
            if self.config.embedding:
                x = self._buffer((sum(lengths),), torch.int64)
            else:
                x = self._buffer((sum(lengths), self.config.input_size), self._dtype)
            np.concatenate([s.steps for s in sequences], out=_numpy(x), casting="unsafe")
            return StagedBatch(
                sequences,
                self._to_device(x),
                RaggedBatch(lengths, self.device),
                self._initial_states(sequences),
            )

    def compute(self, staged: StagedBatch) -> list[SequenceOutput]:
        """Encode the batch; one output per sequence, in order. Raises `OutOfMemory`."""
        outputs = frozenset[Output]().union(*(s.outputs for s in staged.sequences))
        with _out_of_memory(), torch.inference_mode():
            encodings = self._encoder(staged.x, staged.ragged, staged.hx, outputs)
            return _split(encodings, staged)

    def _initial_states(self, sequences: Sequence[SequenceInput]) -> tuple[Tensor, Tensor] | None:
        if all(s.initial_state is None for s in sequences):
            return None
        config = self.config
        shapes = [
            (config.state_rows, len(sequences), width)
            for width in (config.state_size, config.hidden_size)
        ]
        h_0, c_0 = (self._buffer(shape, self._dtype).zero_() for shape in shapes)
        for column, sequence in enumerate(sequences):
            if sequence.initial_state is not None:
                _numpy(h_0)[:, column], _numpy(c_0)[:, column] = sequence.initial_state
        return self._to_device(h_0), self._to_device(c_0)

    def _buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, pin_memory=self.device.type == "cuda")

    def _to_device(self, buffer: Tensor) -> Tensor:
        return buffer.to(self.device, non_blocking=True)


def _split(encodings: Encodings, staged: StagedBatch) -> list[SequenceOutput]:
    """One copy from the device for each output, then views."""
    by_sequence = {
        Output.FINAL: encodings.final,
        Output.MEAN: encodings.mean,
        Output.MAX: encodings.max,
        Output.LOGITS: encodings.logits,
    }
    rows = {output: _numpy(t.cpu()) for output, t in by_sequence.items() if t is not None}
    states = None if encodings.states is None else _numpy(encodings.states.cpu())
    state = None if encodings.state is None else [_numpy(t.cpu()) for t in encodings.state]
    results = []
    bounds = pairwise(accumulate((s.tokens for s in staged.sequences), initial=0))
    for index, (sequence, (start, end)) in enumerate(zip(staged.sequences, bounds, strict=True)):
        arrays = {o: rows[o][index] for o in sequence.outputs if o in rows}
        if states is not None and Output.STATES in sequence.outputs:
            arrays[Output.STATES] = states[start:end]
        own_state = None
        if state is not None and Output.STATE in sequence.outputs:
            own_state = (state[0][:, index], state[1][:, index])
        results.append(SequenceOutput(arrays, own_state))
    return results


def _numpy(tensor: Tensor) -> Array:
    """An array over the same memory, also for bfloat16."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


@contextmanager
def _out_of_memory() -> Iterator[None]:
    """Turn the ways in which torch and numpy run out of memory into `OutOfMemory`."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory("out of memory") from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" in str(error):  # torch has no type of its own for the CPU
            raise OutOfMemory("out of memory") from error
        raise
