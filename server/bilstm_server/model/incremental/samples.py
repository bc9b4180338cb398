"""Sample sequences, read from files of numpy's."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import StartError
from ..config import InputConfig
from ..storage.files import open_regular, unpacked_bytes

Steps = NDArray[np.generic]

_MOST_BYTES = 2**32  # of a file of samples, unpacked


def read_sequences(files: Sequence[Path], config: InputConfig) -> list[Steps]:
    """Read the sequence of each .npy, and those of each .npz: [T, width] floats, or [T] token ids,
    as the input has them.

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


def _problem(steps: Steps, config: InputConfig) -> str | None:
    if config.ids is None:
        if steps.ndim != 2 or steps.shape[1] != config.width or steps.dtype.kind not in "fiu":
            return f"expected [T, {config.width}] numbers, got {_described(steps)}"
    elif steps.ndim != 1 or steps.dtype.kind not in "iu":
        return f"expected [T] token ids, got {_described(steps)}"
    if len(steps) == 0:
        return "has no steps"
    if config.ids is not None:
        if steps.min() < 0 or steps.max() >= config.ids:
            ids = f"0 to {config.ids - 1}, got {steps.min()} to {steps.max()}"
            return f"token ids must be {ids}"
        if config.padding_id is not None and (steps == config.padding_id).any():
            return f"token id {config.padding_id} is the model's padding: leave it out"
    return None


def _described(steps: Steps) -> str:
    return f"{list(steps.shape)} {steps.dtype}"
