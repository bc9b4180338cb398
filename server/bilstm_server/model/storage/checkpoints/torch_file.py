"""Files that `torch.save` wrote: read without running anything that is in them.

A file holds tensors, and dictionaries of them, beside numbers and strings; other classes are
refused and named. Every file that can't be read so raises a one-line `ModelError`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ....errors import ModelError
from ..files import members, open_regular, unpacked_bytes
from ..formats import (
    SAVE,
    TORCH_STARTS,
    ZIP_START,
    is_safetensors,
    other_archive,
    other_format,
    refused_class,
)
from ..weights import reason
from .nested import Chosen, Wanted, choose, has_recurrence

_START_BYTES = 64
_RENAME = "a .safetensors file; rename it"

# Tensors may share their numbers, as tied weights do; together they take so many times their
# file's bytes at the most, or so many bytes, which harm nobody.
_MOST_SHARED = 8
_FEW_BYTES = 2**28


def read_torch_file(
    path: Path, most_bytes: int, key: str | None, wanted: Wanted = has_recurrence
) -> Chosen:
    """Read one dictionary of tensors, the one under `key` or the only one that is wanted, into
    memory of its own. Nothing in the file is executed: pickled objects of other classes are
    refused.
    """
    with open_regular(path, most_bytes) as file:
        content = _load(file, path)
        try:
            chosen = choose(content, key, wanted)
        except ValueError as error:
            raise ModelError(f"{path}: {error}") from error
        _check_sizes(chosen.tensors, os.fstat(file.fileno()).st_size, path)
    return chosen


def _load(file: BinaryIO, path: Path) -> object:
    start = file.read(_START_BYTES)
    file.seek(0)
    if not start.startswith(TORCH_STARTS):
        found = _RENAME if is_safetensors(start) else other_format(start)
        raise ModelError(f"{path}: is no .pt file{f' but {found}' if found else f'; {SAVE}'}")
    if start.startswith(ZIP_START):
        _check_archive(file, path)
    try:
        with warnings.catch_warnings(action="ignore"):  # the error says what matters
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        if name := refused_class(error):
            raise ModelError(f"{path}: {_holds_class(name, path)}") from error
        raise ModelError(
            f"{path}: not a readable .pt file of tensors ({reason(error)}); {SAVE}"
        ) from error


def _check_archive(file: BinaryIO, path: Path) -> None:
    """Refuse what torch.save did not write. It does not compress: what takes more memory unpacked
    than the file has bytes is none of its.
    """
    archive = members(file, path)
    if found := other_archive([member.filename for member in archive], path):
        raise ModelError(f"{path}: is no .pt file of tensors but {found}")
    size, unpacked = os.fstat(file.fileno()).st_size, unpacked_bytes(archive)
    if unpacked > size:
        raise ModelError(
            f"{path}: is compressed: {size:,} bytes for {unpacked:,}; {SAVE}, which does not"
        )


def _check_sizes(tensors: Mapping[str, Tensor], size: int, path: Path) -> None:
    """Refuse tensors that have no memory, or more numbers than the file."""
    total = 0
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise ModelError(f"{path}: {name} is sparse or without data; save it dense")
        own = tensor.numel() * tensor.itemsize
        repeats = any(s == 0 and n > 1 for s, n in zip(tensor.stride(), tensor.shape, strict=True))
        if repeats or own > tensor.untyped_storage().nbytes():
            raise ModelError(
                f"{path}: {name} repeats the same numbers in memory, as expand() does; save "
                "its contiguous()"
            )
        total += own
    if total > max(_MOST_SHARED * size, _FEW_BYTES):
        raise ModelError(f"{path}: its tensors take {total:,} bytes, but the file only {size:,}")


def _holds_class(name: str, path: Path) -> str:
    return (
        f"holds a {name}, which is not loaded, since it could run any code; if you trust the "
        f"file, load it where its code is, with torch.load({path.name!r}, map_location='cpu', "
        "weights_only=False), and save the state_dict alone: torch.save(model.state_dict(), …)"
    )
