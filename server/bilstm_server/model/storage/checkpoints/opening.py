"""Opens what people save: `.pt` with dictionaries in it, `.safetensors`, a hub's folder.

Every file that can't be opened raises a one-line `ModelError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ....errors import ModelError
from ....quoting import listed
from ..files import memory_bytes
from ..weights import read_tensors
from .folding import fold
from .hub import read_hub_folder
from .nested import SELF, Chosen, Wanted, has_recurrence
from .torch_file import read_torch_file


class Checkpoint(NamedTuple):
    """A checkpoint's tensors by name, and what to say of how they were read."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...]


def open_checkpoint(path: Path, key: str | None = None) -> Checkpoint:
    """Read a checkpoint's tensors into memory of their own, in the order of the file, with each
    weight that it has in pieces made whole. `key` names one of the dictionaries of a `.pt` file.
    """
    chosen = read_dictionary(path, key)
    notes = [*taken(chosen)]
    try:
        tensors, folded = fold(_computing(chosen.tensors))
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from error
    if folded:
        notes.append(
            f"made of their pieces (weight norm, spectral norm, pruning): {listed(folded)}"
        )
    return Checkpoint(tensors, tuple(notes))


def taken(chosen: Chosen) -> Iterator[str]:
    """Say which of a file's dictionaries was taken, if it is not the file itself."""
    if chosen.key != SELF:
        others = f"; not taken: {listed(chosen.others)}" if chosen.others else ""
        yield f"took the tensors under {chosen.key!r}{others}"


def read_dictionary(path: Path, key: str | None, wanted: Wanted = has_recurrence) -> Chosen:
    """Read one dictionary of a checkpoint's tensors as it is: the one under `key`, or the only one
    that is `wanted`."""
    most_bytes = memory_bytes()
    if path.is_dir():
        tensors = read_hub_folder(path, most_bytes)
    elif path.suffix == ".safetensors":
        tensors = read_tensors(path, most_bytes)
    else:
        return read_torch_file(path, most_bytes, key, wanted)
    if key is not None:
        raise ModelError(f"{path}: --key is for files of torch.save, and this has no dictionaries")
    return Chosen(dict(sorted(tensors.items(), key=_natural)), SELF, ())


def _natural(named: tuple[str, Tensor]) -> list[tuple[int, str]]:
    """Where a tensor stands in a list of all, as one would write it: 2 before 10."""
    words = re.split(r"([0-9]{1,9})", named[0])
    return [(int(word), "") if i % 2 else (-1, word) for i, word in enumerate(words)]


def _computing(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without counters (`num_batches_tracked`, `step`), which no result depends on."""
    return {
        key: tensor
        for key, tensor in tensors.items()
        if tensor.dim() > 0 or tensor.is_floating_point() or tensor.is_complex()
    }
