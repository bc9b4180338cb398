"""How far a live output is from the exact one, by the steps that blocks look ahead.

Runs sample sequences both ways on the model itself. Whatever can't be used raises a one-line
`StartError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import ModelError
from ...quoting import listed
from ..config import ModelConfig
from ..device import choose_device
from ..graph import SequenceEncoder
from ..kernels import KernelUnavailable, RaggedBatch, choose_kernel
from ..storage.folder import load_model
from .exactness import Exactness
from .live import Carried, encode_blocks
from .samples import Steps


@dataclass(slots=True)
class Deviation:
    """How far live states are from exact ones, over the steps and columns of all sequences."""

    largest: float = 0.0  # of the absolute ones; NaN if one is
    squares: float = 0.0
    count: int = 0

    @property
    def root_mean_square(self) -> float:
        return sqrt(self.squares / self.count)

    def add(self, differences: Tensor) -> None:
        wide = differences.double()
        self.largest = max(self.largest, float(wide.abs().max()), key=_nan_is_largest)
        self.squares += float(wide.square().sum())
        self.count += wide.numel()


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, and the output of it that is measured."""

    encoder: SequenceEncoder
    output: str

    @property
    def halves(self) -> tuple[str, ...]:
        """The names of the parts that its columns have: one for each direction of an LSTM."""
        reference = self.encoder.config.outputs[self.output]
        lstms = {lstm.name: lstm for lstm in self.encoder.config.lstms}
        is_both = reference in lstms and lstms[reference].bidirectional
        return ("forward", "backward") if is_both else ("",)


def load_subject(folder: Path, device: str, dtype: str, kernel: str) -> Subject:
    """Load the model in `folder`, ready to run. What is measured is `states`, or else the first
    output of floats that a live stream has.

    Raises `ModelError`, for a model of several inputs too, and for one whose live output is exact.
    """
    encoder = load_model(folder, choose_device(device), getattr(torch, dtype))
    config = encoder.config
    if len(config.inputs) > 1:
        raise ModelError(
            f"{folder}: reads {listed(config.inputs)}, and files have sequences for one input only"
        )
    names = sorted(config.outputs, key=lambda name: name != "states")
    live = [name for name in names if _is_live(config, name)]
    if not live:
        raise ModelError(f"{folder}: has no output of floats that a live stream has")
    if all(Exactness(config, live[:1], lookahead=0).of(first=False, reaches_end=False)):
        raise ModelError(
            f"{folder}: has one direction: its live {live[0]} are exact, looking nowhere"
        )
    try:
        encoder.freeze(choose_kernel(kernel, encoder.device).kernel)
    except KernelUnavailable as error:
        raise ModelError(f"--kernel {kernel}: {error}") from error
    return Subject(encoder, live[0])


def _is_live(config: ModelConfig, output: str) -> bool:
    return not config.output_values[output].ids and config.not_live(output) is None


def measure(
    subject: Subject, sequences: Sequence[Steps], block_steps: int, lookahead_steps: int
) -> list[Deviation]:
    """Measure the deviation of each of the subject's halves."""
    halves = len(subject.halves)
    deviations = [Deviation() for _ in range(halves)]
    for steps in sequences:
        x = torch.from_numpy(np.ascontiguousarray(steps)).to(subject.encoder.device)
        x = x.long() if x.dim() == 1 else x.to(subject.encoder.dtype)
        live = encode_live(subject, x, block_steps, lookahead_steps)
        differences = live - _exact(subject, x)
        for deviation, columns in zip(deviations, differences.chunk(halves, dim=1), strict=True):
            deviation.add(columns)
    return deviations


def encode_live(subject: Subject, x: Tensor, block_steps: int, lookahead_steps: int) -> Tensor:
    """Compute one sequence's output [T, width], block by block."""
    carried: Carried | None = None
    found: list[Tensor] = []
    for start in range(0, len(x), block_steps):
        steps = x[start : start + block_steps + lookahead_steps]
        block = min(block_steps, len(steps))
        context = len(steps) - block
        outputs, [carried] = encode_blocks(
            subject.encoder, [steps], [block], [context], [carried], outputs=[subject.output]
        )
        found.append(outputs[subject.output])
    return torch.cat(found)


@torch.inference_mode()
def _exact(subject: Subject, x: Tensor) -> Tensor:
    batch = RaggedBatch([len(x)], x.device)
    encodings: dict[str, Tensor] = subject.encoder(x, batch, outputs=[subject.output])
    return encodings[subject.output]


def table(
    subject: Subject, sequences: Sequence[Steps], block_steps: int, lookaheads: Sequence[int]
) -> str:
    """Write a line for each look-ahead: the largest deviation and the root mean square, of the
    forward columns and of the backward ones, or of all columns of an output that is not an
    LSTM's.
    """
    kinds = [f"{half} {kind}".strip() for half in subject.halves for kind in ("largest", "rms")]
    lines = ["  ".join(f"{word:>16}" for word in ("look-ahead", *kinds))]
    for steps in lookaheads:
        found = measure(subject, sequences, block_steps, steps)
        numbers = [n for d in found for n in (d.largest, d.root_mean_square)]
        lines.append("  ".join([f"{steps:>16}", *(f"{number:>16.3g}" for number in numbers)]))
    return "\n".join(lines)


def _nan_is_largest(number: float) -> tuple[bool, float]:
    return number != number, number
