"""`Engine`: stage sequences into one buffer, compute them, split the result; or compute a long one
slice by slice.

Here request arrays and torch tensors meet. Runs in worker threads; holds no queue, no state
between batches, and knows nothing of who asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Generic, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import ModelError
from ..model.config import ModelConfig, Output
from ..model.device import choose_device, device_errors
from ..model.encoder import Encodings, SequenceEncoder
from ..model.incremental.live import LiveState, encode_blocks
from ..model.incremental.slices import SLICE_UNIT, SlicedRun, advance
from ..model.kernels import KernelUnavailable, RaggedBatch, choose_kernel
from ..model.storage.folder import load_model
from .sequences import Array, BlockInput, Input, SequenceInput, SequenceOutput
from .transfer import Item, Upload, as_array, transfer_for

# Outputs of one vector for each sequence.
_VECTORS = (Output.FINAL, Output.MEAN, Output.MAX, Output.LOGITS)

S = TypeVar("S", SequenceInput, BlockInput)


@dataclass(frozen=True, slots=True, eq=False)
class Staged(Generic[S]):
    """Sequences of one kind in one buffer, on the device once `upload` is waited for."""

    sequences: Sequence[S]
    upload: Upload
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
        is_embedded = encoder.config.embedding is not None
        self._step_shape = () if is_embedded else (encoder.config.input_size,)
        self._step_dtype = torch.int64 if is_embedded else self._dtype
        try:
            choice = choose_kernel(kernel, self.device)
        except KernelUnavailable as error:
            raise ModelError(f"--kernel {kernel}: {error}") from error
        encoder.freeze(choice.kernel)
        layer = encoder.layers()[0]  # as are the others
        if kernel not in ("auto", layer.kernel):
            raise ModelError(f"--kernel {kernel}: {layer.fallback_reason}")
        self.kernel = layer.kernel
        # Why it is not a faster one:
        self.missed_kernel = choice.fallback_reason or layer.fallback_reason
        self.instructions = choice.instructions  # that it was compiled for
        self._transfer = transfer_for(self.device)

    @classmethod
    def load(cls, folder: Path, device: str, dtype: str, kernel: str) -> Self:
        """The model in `folder`. Raises `ModelError` if it can't be used, and `OutOfMemory`."""
        with device_errors():
            encoder = load_model(folder, choose_device(device), getattr(torch, dtype))
            return cls(encoder, kernel)

    @property
    def config(self) -> ModelConfig:
        return self._encoder.config

    @property
    def dtype(self) -> str:
        return str(self._dtype).removeprefix("torch.")

    @property
    def itemsize(self) -> int:
        """Bytes of a number of its type."""
        return self._dtype.itemsize

    def warm_up(self, most_tokens: int = 0) -> None:
        """Compute a little in every way there is, so that the first request finds all of it loaded
        and compiled; on a GPU also a batch of so many tokens, which it must have room for. Raises
        `OutOfMemory`.
        """
        config = self.config
        outputs = frozenset(Output) - (frozenset() if config.head else {Output.LOGITS})

        def steps(count: int) -> Array:
            return np.zeros((count, *self._step_shape), np.int64 if config.embedding else "<f4")

        widths = (config.state_size, config.hidden_size)
        h_0, c_0 = (np.zeros((config.state_rows, width), np.float32) for width in widths)
        long = SequenceInput(steps(SLICE_UNIT + 1), outputs)
        self.run([long, SequenceInput(steps(1), outputs)])
        self.run([SequenceInput(steps(1), outputs, (h_0, c_0))])
        (first,) = self.run([BlockInput(steps(2), 1, None, (h_0, c_0))])
        self.run([BlockInput(steps(2), 1, first.carried)])
        run = self.begin(long)
        while not run.done:
            self.advance([run], SLICE_UNIT)
        self.finish(run, long)
        if self.device.type != "cpu":
            some = SequenceInput(steps(SLICE_UNIT), outputs)
            self.run([some] * (most_tokens // SLICE_UNIT or 1))

    def warm_thread(self) -> None:
        """Compute one step, so that what torch and its libraries keep for each thread is there for
        the calling one. Raises `OutOfMemory`.
        """
        step = np.zeros((1, *self._step_shape), np.int64 if self.config.embedding else "<f4")
        self.run([SequenceInput(step, frozenset({Output.FINAL}))])

    def run(self, sequences: Sequence[Input]) -> list[SequenceOutput]:
        """`stage` and `compute` in one go."""
        return self.compute(self.stage(sequences))

    def stage(self, sequences: Sequence[Input]) -> StagedBatch:
        """Copy the sequences, once, from their request's bytes into one buffer, and send that to
        the device.

        Raises `OutOfMemory`.
        """
        whole = [s for s in sequences if isinstance(s, SequenceInput)]
        blocks = [s for s in sequences if isinstance(s, BlockInput)]
        with device_errors():
            return StagedBatch(
                sequences,
                self._stage(whole) if whole else None,
                self._stage(blocks) if blocks else None,
            )

    def _stage(self, sequences: Sequence[S]) -> Staged[S]:
        ragged = RaggedBatch([s.tokens for s in sequences], self.device)
        items = [self._steps([s.rows(0, s.tokens) for s in sequences])]
        has_states = any(s.initial_state is not None for s in sequences)
        if has_states:
            items += self._initial_states(sequences)
        has_index = self.device.type != "cpu"  # where it is to be copied, with the rest
        if has_index:
            index = ragged.index_array
            items.append(Item(index.shape, torch.int32, partial(np.copyto, src=index)))
        upload = self._transfer.upload(items)
        x, *others = upload.tensors
        if has_index:
            ragged.index = others.pop()
        return Staged(sequences, upload, x, ragged, (others[0], others[1]) if has_states else None)

    def compute(self, staged: StagedBatch) -> list[SequenceOutput]:
        """Encode the batch; one output per sequence, in order. Raises `OutOfMemory`."""
        tensors: dict[str, Tensor] = {}
        carried: list[LiveState] = []
        with device_errors(), self._transfer.computing(), torch.inference_mode():
            if staged.whole is not None:
                tensors |= _tensors(self._encode(staged.whole))
            if staged.blocks is not None:
                tensors["blocks"], carried = self._encode_blocks(staged.blocks)
            arrays = self._transfer.download(tensors)
        whole = _split(arrays, staged.whole.sequences) if staged.whole is not None else []
        if staged.blocks is None:
            return whole
        results = (
            iter(whole),
            iter(_split_blocks(arrays["blocks"], staged.blocks.sequences, carried)),
        )
        return [next(results[isinstance(s, BlockInput)]) for s in staged.sequences]

    def _encode(self, staged: Staged[SequenceInput]) -> Encodings:
        outputs = frozenset[Output]().union(*(s.outputs for s in staged.sequences))
        staged.upload.wait()
        encodings: Encodings = self._encoder(staged.x, staged.ragged, staged.hx, outputs)
        return encodings

    def _encode_blocks(self, staged: Staged[BlockInput]) -> tuple[Tensor, list[LiveState]]:
        staged.upload.wait()
        return encode_blocks(
            self._encoder,
            staged.x,
            [block.tokens - block.context for block in staged.sequences],
            [block.context for block in staged.sequences],
            [block.carried for block in staged.sequences],
            staged.hx,
        )

    # -- a long sequence, slice by slice ---------------------------------------------------------

    def begin(self, sequence: SequenceInput) -> SlicedRun:
        """Raises `OutOfMemory`."""

        def rows(start: int, stop: int) -> Tensor:
            return self._send([self._steps([sequence.rows(start, stop)])])[0]

        with device_errors(), self._transfer.computing(), torch.inference_mode():
            hx = None
            if sequence.initial_state is not None:
                h_0, c_0 = self._send(self._initial_states([sequence]))
                hx = (h_0[:, 0], c_0[:, 0])
            return SlicedRun(self._encoder, rows, sequence.tokens, sequence.outputs, hx)

    def advance(self, runs: Sequence[SlicedRun], steps: int) -> None:
        """See `model.incremental.slices.advance`. Raises `OutOfMemory`."""
        with device_errors(), self._transfer.computing(), torch.inference_mode():
            advance(runs, steps)

    def finish(self, run: SlicedRun, sequence: SequenceInput) -> SequenceOutput:
        """What became of a run that is done."""
        with device_errors(), self._transfer.computing(), torch.inference_mode():
            tensors = _tensors(run.encodings())  # in host memory
        arrays = {name: as_array(tensor) for name, tensor in tensors.items()}
        return _split(arrays, [sequence])[0]

    def _send(self, items: Sequence[Item]) -> Sequence[Tensor]:
        """What is to be computed with at once."""
        upload = self._transfer.upload(items)
        upload.wait()
        return upload.tensors

    # -- what goes to the device -----------------------------------------------------------------

    def _steps(self, rows: Sequence[Array]) -> Item:
        """[N, D] or token ids [N], one sequence after the other."""
        return Item(
            (sum(map(len, rows)), *self._step_shape),
            self._step_dtype,
            lambda x: np.concatenate(rows, out=x, casting="unsafe"),
        )

    def _initial_states(self, sequences: Sequence[Input]) -> list[Item]:
        """h_0 [layers*K, B, P] and c_0 [layers*K, B, H], zeros where a sequence has none."""

        def write(kind: int, states: Array) -> None:
            for column, sequence in enumerate(sequences):
                given = sequence.initial_state
                states[:, column] = 0 if given is None else given[kind]

        config = self.config
        return [
            Item((config.state_rows, len(sequences), width), self._dtype, partial(write, kind))
            for kind, width in enumerate((config.state_size, config.hidden_size))
        ]


def _tensors(encodings: Encodings) -> dict[str, Tensor]:
    """The outputs that there are, by name; a state is two, `hidden` and `cell`."""
    tensors: dict[str, Tensor] = {
        output: tensor for output in _VECTORS if (tensor := getattr(encodings, output)) is not None
    }
    if encodings.states is not None:
        tensors["states"] = encodings.states
    if encodings.state is not None:
        tensors["hidden"], tensors["cell"] = encodings.state
    return tensors


def _split(arrays: Mapping[str, Array], sequences: Sequence[SequenceInput]) -> list[SequenceOutput]:
    """Of each sequence what it asked for: views."""
    rows = {output: arrays[output] for output in _VECTORS if output in arrays}
    states = arrays.get("states")
    results = []
    bounds = pairwise(accumulate((s.tokens for s in sequences), initial=0))
    for index, (sequence, (start, end)) in enumerate(zip(sequences, bounds, strict=True)):
        own = {output: rows[output][index] for output in sequence.outputs if output in rows}
        if states is not None and Output.STATES in sequence.outputs:
            own[Output.STATES] = states[start:end]
        state = None
        if Output.STATE in sequence.outputs:
            state = (arrays["hidden"][:, index], arrays["cell"][:, index])
        results.append(SequenceOutput(own, state))
    return results


def _split_blocks(
    states: Array, blocks: Sequence[BlockInput], carried: Sequence[LiveState]
) -> list[SequenceOutput]:
    """Of each block its states, views, and what its sequence carries on."""
    ends = list(accumulate(block.tokens - block.context for block in blocks))
    return [
        SequenceOutput({Output.STATES: own}, carried=state)
        for own, state in zip(np.split(states, ends[:-1]), carried, strict=True)
    ]
