"""Arrays in the files that numpy and torch write: opened without running what is in them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..engine.sequences import Array
from ..errors import ModelError
from ..model.storage.files import memory_bytes, open_regular, unpacked_bytes


def read_arrays(path: Path) -> Array | dict[str, Array]:
    """The array of an `.npy`, or those of an `.npz` by name. Raises `ModelError` in one line."""
    with open_regular(path, memory_bytes()) as file:
        try:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            with loaded:
                if unpacked_bytes(loaded.zip.infolist()) > memory_bytes():
                    raise ModelError(f"{path}: is too large for this machine's memory")
                return {name: loaded[name] for name in loaded.files}
        except ModelError:
            raise
        except Exception as error:  # numpy's and zipfile's, of whatever damage there is
            raise ModelError(f"{path}: is no readable {path.suffix} of numbers") from error


def read_saved(path: Path) -> Any:
    """What `torch.save` wrote: tensors, alone or in dictionaries, lists and tuples. Other classes
    are refused. Raises `ModelError` in one line."""
    with open_regular(path, memory_bytes()) as file:
        try:
            with warnings.catch_warnings(action="ignore"):  # the error says what matters
                return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch's and pickle's
            raise ModelError(
                f"{path}: is no readable .pt of tensors; save with torch.save((x, lengths), …)"
            ) from error
