"""`Engine`: stage sequences into one buffer, compute them, split the result; or compute a long one
slice by slice.

Here request arrays and torch tensors meet. Runs in worker threads; holds no queue, no state
between batches, and knows nothing of who asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Generic, Self, TypeVar

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
from ..model.live import encode_blocks
from ..model.slices import SlicedRun, advance
from .sequence import Array, BlockInput, Input, SequenceInput, SequenceOutput

S = TypeVar("S", SequenceInput, BlockInput)


@dataclass(frozen=True, slots=True, eq=False)
class Staged(Generic[S]):
    """Sequences of one kind in one buffer on the device."""

    sequences: Sequence[S]
    x: Tensor  # [N, D], or token ids [N]
    ragged: RaggedBatch
    hx: tuple[Tensor, Tensor] | None


@dataclass(frozen=True, slots=True, eq=False)
class StagedBatch:
    """A batch, ready to compute: whole sequences, and blocks of live ones."""

    sequences: Sequence[Input]
    whole: Staged[SequenceInput] | None
    blocks: Staged[BlockInput] | None


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

    @property
    def itemsize(self) -> int:
        """Bytes of a number of its type."""
        return self._dtype.itemsize

    def warm_up(self) -> None:
        """Compute a small batch with every output, so that the first request finds it all done."""
        config = self.config
        outputs = frozenset(Output) - (frozenset() if config.head else {Output.LOGITS})
        steps = [
            np.zeros(n, np.int64) if config.embedding else np.zeros((n, config.input_size), "<f4")
            for n in (3, 1)
        ]
        self.run([SequenceInput(s, outputs) for s in steps])

    def run(self, sequences: Sequence[Input]) -> list[SequenceOutput]:
        """`stage` and `compute` in one go."""
        return self.compute(self.stage(sequences))

    def stage(self, sequences: Sequence[Input]) -> StagedBatch:
        """Copy the sequences, once, from their request's bytes into one buffer on the device.

        Raises `OutOfMemory`.
        """
        whole = [s for s in sequences if isinstance(s, SequenceInput)]
        blocks = [s for s in sequences if isinstance(s, BlockInput)]
        with _out_of_memory():
            return StagedBatch(
                sequences,
                self._stage(whole) if whole else None,
                self._stage(blocks) if blocks else None,
            )

    def _stage(self, sequences: Sequence[S]) -> Staged[S]:
        lengths = [s.tokens for s in sequences]
        x = self._steps_buffer(sum(lengths))
        rows = [s.rows(0, s.tokens) for s in sequences]
        np.concatenate(rows, out=_numpy(x), casting="unsafe")
        return Staged(
            sequences,
            self._to_device(x),
            RaggedBatch(lengths, self.device),
            self._initial_states(sequences),
        )

    def compute(self, staged: StagedBatch) -> list[SequenceOutput]:
        """Encode the batch; one output per sequence, in order. Raises `OutOfMemory`."""
        with _out_of_memory(), torch.inference_mode():
            whole = iter(self._compute_whole(staged.whole) if staged.whole else ())
            blocks = iter(self._compute_blocks(staged.blocks) if staged.blocks else ())
            return [
                next(whole if isinstance(sequence, SequenceInput) else blocks)
                for sequence in staged.sequences
            ]

    def _compute_whole(self, staged: Staged[SequenceInput]) -> list[SequenceOutput]:
        outputs = frozenset[Output]().union(*(s.outputs for s in staged.sequences))
        return _split(self._encoder(staged.x, staged.ragged, staged.hx, outputs), staged.sequences)

    def _compute_blocks(self, staged: Staged[BlockInput]) -> list[SequenceOutput]:
        own = [block.tokens - block.context for block in staged.sequences]
        states, carried = encode_blocks(
            self._encoder,
            staged.x,
            own,
            [block.context for block in staged.sequences],
            [block.carried for block in staged.sequences],
            staged.hx,
        )
        parts = np.split(_numpy(states.cpu()), list(accumulate(own))[:-1])
        return [
            SequenceOutput({Output.STATES: part}, carried=state)
            for part, state in zip(parts, carried, strict=True)
        ]

    # -- a long sequence, slice by slice ---------------------------------------------------------

    def begin(self, sequence: SequenceInput) -> SlicedRun:
        """Raises `OutOfMemory`."""

        def rows(start: int, stop: int) -> Tensor:
            x = self._steps_buffer(stop - start)
            np.copyto(_numpy(x), sequence.rows(start, stop), casting="unsafe")
            return self._to_device(x)

        with _out_of_memory(), torch.inference_mode():
            states = self._initial_states([sequence])
            hx = None if states is None else (states[0][:, 0], states[1][:, 0])
            return SlicedRun(self._encoder, rows, sequence.tokens, sequence.outputs, hx)

    def advance(self, runs: Sequence[SlicedRun], steps: int) -> None:
        """See `model.slices.advance`. Raises `OutOfMemory`."""
        with _out_of_memory(), torch.inference_mode():
            advance(runs, steps)

    def finish(self, run: SlicedRun, sequence: SequenceInput) -> SequenceOutput:
        """What became of a run that is done."""
        with _out_of_memory(), torch.inference_mode():
            return _split(run.encodings(), [sequence])[0]

    def _initial_states(self, sequences: Sequence[Input]) -> tuple[Tensor, Tensor] | None:
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

    def _steps_buffer(self, tokens: int) -> Tensor:
        if self.config.embedding:
            return self._buffer((tokens,), torch.int64)
        return self._buffer((tokens, self.config.input_size), self._dtype)

    def _buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, pin_memory=self.device.type == "cuda")

    def _to_device(self, buffer: Tensor) -> Tensor:
        return buffer.to(self.device, non_blocking=True)


def _split(encodings: Encodings, sequences: Sequence[SequenceInput]) -> list[SequenceOutput]:
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
    bounds = pairwise(accumulate((s.tokens for s in sequences), initial=0))
    for index, (sequence, (start, end)) in enumerate(zip(sequences, bounds, strict=True)):
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
