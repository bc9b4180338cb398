"""`Engine`: one model on one device, which computes batches, and slices of long sequences.

Runs in worker threads. It holds no queue and no state between batches, and knows nothing of who
asked. What goes in is copied by `staging`, what comes out is cut by `results`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ..errors import ModelError
from ..model.config import ModelConfig
from ..model.device import choose_device, device_errors
from ..model.graph import SequenceEncoder
from ..model.incremental.live import encode_blocks
from ..model.incremental.slices import SLICE_UNIT, SlicedRun, advance
from ..model.kernels import KernelUnavailable, choose_kernel
from ..model.storage.folder import load_model
from .results import split, split_blocks
from .sequences import Array, BlockInput, Input, SequenceInput, SequenceOutput
from .staging import Staged, StagedBatch, Staging
from .transfer import result_array, transfer_for

_WHOLE, _BLOCK = 0, 1  # the kinds of sequences in a batch


class Engine:
    """One model on one device."""

    def __init__(self, encoder: SequenceEncoder, kernel: str = "auto"):
        """Freeze `encoder` and pack its weights for the kernel of that name.

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
        encoder.freeze(choice.kernel)
        layer = encoder.lstms[0].layers()[0]  # as are the others
        if kernel not in ("auto", layer.kernel):
            raise ModelError(f"--kernel {kernel}: {layer.fallback_reason}")
        self.kernel = layer.kernel
        # Why it is not a faster one:
        self.fallback_reason = choice.fallback_reason or layer.fallback_reason
        self.instructions = choice.instructions  # that it was compiled for
        self._transfer = transfer_for(self.device)
        self._staging = Staging(encoder.config, self.device, self._dtype, self._transfer)

    @classmethod
    def load(cls, folder: Path, device: str, dtype: str, kernel: str) -> Self:
        """Load the model in `folder`. Raises `ModelError` if that can't be, and `OutOfMemory`."""
        with device_errors():
            encoder = load_model(folder, choose_device(device), getattr(torch, dtype))
            return cls(encoder, kernel)

    @property
    def config(self) -> ModelConfig:
        """The sizes of the model, and what it reads and gives."""
        return self._encoder.config

    @property
    def dtype(self) -> str:
        """The type that it computes in, as settings name it."""
        return str(self._dtype).removeprefix("torch.")

    @property
    def itemsize(self) -> int:
        """Bytes of one number of its type."""
        return self._dtype.itemsize

    def warm_up(self, batch_tokens: int = 0) -> None:
        """Compute a little in every way there is, so that the first request finds all of it loaded
        and compiled. On a GPU also compute a batch of `batch_tokens`, which must fit into its
        memory. Raises `OutOfMemory`.
        """
        config = self.config
        outputs = frozenset(config.output_names)
        zeros = self._staging.zeros
        least = config.min_steps
        long = SequenceInput(zeros(SLICE_UNIT + least), outputs)
        self.run([long, SequenceInput(zeros(least), outputs)])
        state = None
        if config.state is not None:
            rows, *widths, _ = config.state
            h_0, c_0 = (np.zeros((rows, width), np.float32) for width in widths)
            state = (h_0, c_0)
            self.run([SequenceInput(zeros(least), outputs, state)])
        if live := frozenset(name for name in config.outputs if config.not_live(name) is None):
            (first,) = self.run([BlockInput(zeros(least + 1), live, 1, None, state)])
            self.run([BlockInput(zeros(least + 1), live, 1, first.carried)])
        run = self.begin(long)
        while not run.done:
            self.advance([run], SLICE_UNIT)
        self.finish(run, long)
        if self.device.type != "cpu":
            some = SequenceInput(zeros(max(SLICE_UNIT, least)), outputs)
            self.run([some] * (batch_tokens // some.tokens or 1))

    def warm_thread(self) -> None:
        """Compute one step, so that what torch and its libraries keep for each thread is there for
        the calling one. Raises `OutOfMemory`.
        """
        outputs = frozenset(list(self.config.outputs)[:1])
        self.run([SequenceInput(self._staging.zeros(self.config.min_steps), outputs)])

    # -- a batch ---------------------------------------------------------------------------------

    def run(self, sequences: Sequence[Input]) -> list[SequenceOutput]:
        """`stage` and `compute` in one go."""
        return self.compute(self.stage(sequences))

    def stage(self, sequences: Sequence[Input]) -> StagedBatch:
        """Copy the sequences, once, from their request's bytes into one buffer, and send that to
        the device.

        Raises `OutOfMemory`.
        """
        with device_errors():
            return self._staging.stage(sequences)

    def compute(self, staged: StagedBatch) -> list[SequenceOutput]:
        """Encode the batch; one output per sequence, in order. Raises `OutOfMemory`."""
        with device_errors(), self._transfer.computing(), torch.inference_mode():
            whole = {} if staged.whole is None else self._encode(staged.whole)
            blocks, carried = (
                ({}, []) if staged.blocks is None else self._encode_blocks(staged.blocks)
            )
            tensors = {(_WHOLE, name): tensor for name, tensor in whole.items()}
            tensors |= {(_BLOCK, name): tensor for name, tensor in blocks.items()}
            arrays = self._transfer.download(tensors)
        own: tuple[dict[str, Array], dict[str, Array]] = ({}, {})
        for (kind, name), array in arrays.items():
            own[kind][name] = array
        config = self.config
        outputs = [] if staged.whole is None else split(own[0], staged.whole.sequences, config)
        if staged.blocks is None:
            return outputs
        ended = split_blocks(own[1], staged.blocks.sequences, carried, config)
        results = (iter(outputs), iter(ended))
        return [next(results[isinstance(s, BlockInput)]) for s in staged.sequences]

    def _encode(self, staged: Staged[SequenceInput]) -> dict[str, Tensor]:
        outputs = frozenset[str]().union(*(s.outputs for s in staged.sequences))
        staged.upload.make_stream_wait()
        encodings: dict[str, Tensor] = self._encoder(
            staged.inputs, staged.ragged, staged.hx, outputs
        )
        return encodings

    def _encode_blocks(self, staged: Staged[BlockInput]) -> tuple[dict[str, Tensor], list[Any]]:
        outputs = frozenset[str]().union(*(s.outputs for s in staged.sequences))
        staged.upload.make_stream_wait()
        return encode_blocks(
            self._encoder,
            staged.inputs,
            [block.tokens - block.context for block in staged.sequences],
            [block.context for block in staged.sequences],
            [block.carried for block in staged.sequences],
            staged.hx,
            outputs,
        )

    # -- a long sequence, slice by slice ---------------------------------------------------------

    def begin(self, sequence: SequenceInput) -> SlicedRun:
        """A run of the whole sequence that has computed nothing yet. Raises `OutOfMemory`."""

        def rows(start: int, stop: int) -> Sequence[Tensor]:
            return self._staging.send_steps(sequence.steps_between(start, stop))

        with device_errors(), self._transfer.computing(), torch.inference_mode():
            hx = self._staging.send_initial_state(sequence)
            return SlicedRun(self._encoder, rows, sequence.tokens, sequence.outputs, hx)

    def advance(self, runs: Sequence[SlicedRun], steps: int) -> None:
        """Compute a slice of each run, as `model.incremental.slices.advance` does. Raises
        `OutOfMemory`."""
        with device_errors(), self._transfer.computing(), torch.inference_mode():
            advance(runs, steps)

    def finish(self, run: SlicedRun, sequence: SequenceInput) -> SequenceOutput:
        """What the sequence asked for, of its run, which is done."""
        with device_errors(), self._transfer.computing(), torch.inference_mode():
            arrays = {name: result_array(t) for name, t in run.encodings().items()}
        return split(arrays, [sequence], self.config)[0]
