"""How far live states are from the exact ones, by the steps that the backward direction looks
ahead.

Runs sample sequences both ways on the model itself. Whatever can't be used raises a one-line
`StartError`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import ModelError, StartError
from ..config import ModelConfig
from ..device import choose_device
from ..encoder import Encodings, SequenceEncoder
from ..kernels import KernelUnavailable, RaggedBatch, choose_kernel
from ..storage.files import open_regular, unpacked_bytes
from ..storage.folder import load_model
from .live import LiveState, encode_blocks

Steps = NDArray[np.generic]

_MOST_BYTES = 2**32  # of a file of samples, unpacked


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


def load_encoder(folder: Path, device: str, dtype: str, kernel: str) -> SequenceEncoder:
    """Load the model in `folder`, ready to run.

    Raises `ModelError`, for a model of a single direction too, whose live states are exact.
    """
    encoder = load_model(folder, choose_device(device), getattr(torch, dtype))
    if not encoder.config.bidirectional:
        raise ModelError(f"{folder}: has one direction: its live states are exact, looking nowhere")
    try:
        return encoder.freeze(choose_kernel(kernel, encoder.device).kernel)
    except KernelUnavailable as error:
        raise ModelError(f"--kernel {kernel}: {error}") from error


def read_sequences(files: Sequence[Path], config: ModelConfig) -> list[Steps]:
    """Read the sequence of each .npy, and those of each .npz: [T, input_size] floats, or [T] token
    ids.

    Raises `StartError` if a file can't be read, or has something else.
    """
    named = [sequence for file in files for sequence in _read(file)]
    for name, steps in named:
        if problem := _problem(steps, config):
            raise StartError(f"{name}: {problem}")
    return [steps for _, steps in named]


def _read(file: Path) -> list[tuple[str, Steps]]:
    with open_regular(file, _MOST_BYTES) as opened:
        try:
            loaded = np.load(opened, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return [(str(file), loaded)]
            with loaded:
                _check_size(loaded.zip, file)
                return [(f"{file}: {name}", loaded[name]) for name in loaded.files]
        except StartError:
            raise
        except MemoryError as error:
            raise StartError(f"{file}: does not fit into memory") from error
        except OSError as error:
            raise StartError(f"{file}: {error.strerror or error}") from error
        except Exception as error:  # numpy's and zipfile's, of whatever damage there is
            raise StartError(f"{file}: is no .npy or .npz of numbers") from error


def _check_size(archive: zipfile.ZipFile, file: Path) -> None:
    unpacked = unpacked_bytes(archive.infolist())
    if unpacked > _MOST_BYTES:
        raise StartError(
            f"{file}: is too large: {unpacked:,} bytes unpacked, expected at most {_MOST_BYTES:,}"
        )


def _problem(steps: Steps, config: ModelConfig) -> str | None:
    if config.embedding is None:
        if steps.ndim != 2 or steps.shape[1] != config.input_size or steps.dtype.kind not in "fiu":
            return f"expected [T, {config.input_size}] numbers, got {_described(steps)}"
    elif steps.ndim != 1 or steps.dtype.kind not in "iu":
        return f"expected [T] token ids, got {_described(steps)}"
    if len(steps) == 0:
        return "has no steps"
    if config.embedding is not None:
        largest = config.embedding.num_embeddings - 1
        if steps.min() < 0 or steps.max() > largest:
            return f"token ids must be 0 to {largest}, got {steps.min()} to {steps.max()}"
    return None


def _described(steps: Steps) -> str:
    return f"{list(steps.shape)} {steps.dtype}"


def measure(
    encoder: SequenceEncoder, sequences: Sequence[Steps], block_steps: int, lookahead_steps: int
) -> tuple[Deviation, Deviation]:
    """Measure the deviation of the forward direction's columns, and of the backward one's."""
    deviations = (Deviation(), Deviation())
    for steps in sequences:
        x = torch.from_numpy(np.ascontiguousarray(steps)).to(encoder.device)
        x = x.long() if encoder.embedding is not None else x.to(encoder.dtype)
        differences = encode_live(encoder, x, block_steps, lookahead_steps) - _exact(encoder, x)
        for deviation, columns in zip(deviations, differences.chunk(2, dim=1), strict=True):
            deviation.add(columns)
    return deviations


def encode_live(
    encoder: SequenceEncoder, x: Tensor, block_steps: int, lookahead_steps: int
) -> Tensor:
    """Compute one sequence's states [T, K*P], block by block."""
    carried: LiveState | None = None
    found: list[Tensor] = []
    for start in range(0, len(x), block_steps):
        steps = x[start : start + block_steps + lookahead_steps]
        block = min(block_steps, len(steps))
        states, [carried] = encode_blocks(encoder, steps, [block], [len(steps) - block], [carried])
        found.append(states)
    return torch.cat(found)


@torch.inference_mode()
def _exact(encoder: SequenceEncoder, x: Tensor) -> Tensor:
    encodings: Encodings = encoder(x, RaggedBatch([len(x)], x.device))
    assert encodings.states is not None
    return encodings.states


def table(
    encoder: SequenceEncoder,
    sequences: Sequence[Steps],
    block_steps: int,
    lookaheads: Sequence[int],
) -> str:
    """Write a line for each look-ahead: the largest deviation and the root mean square, of the
    forward columns and of the backward ones.
    """
    kinds = ("largest", "rms")
    head = ("look-ahead", *(f"{k} {kind}" for k in ("forward", "backward") for kind in kinds))
    lines = ["  ".join(f"{word:>16}" for word in head)]
    for steps in lookaheads:
        found = measure(encoder, sequences, block_steps, steps)
        numbers = [n for d in found for n in (d.largest, d.root_mean_square)]
        lines.append("  ".join([f"{steps:>16}", *(f"{number:>16.3g}" for number in numbers)]))
    return "\n".join(lines)


def _nan_is_largest(number: float) -> tuple[bool, float]:
    return number != number, number
