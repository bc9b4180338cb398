"""Tensors of a `.safetensors` file, and whether tensors are those that a model needs.

Knows shapes and files; knows no config and no prefix. Every problem is a one-line `ModelError`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ...errors import ModelError
from .files import memory_bytes, read_whole
from .formats import TORCH_STARTS, is_safetensors, other_format

_START_BYTES = 64


def read_tensors(path: Path, most_bytes: int | None = None) -> dict[str, Tensor]:
    """Read the tensors of a `.safetensors` file into memory of their own. The file may have
    `most_bytes`, or if None what the machine has.
    """
    content, _ = read_whole(path, memory_bytes() if most_bytes is None else most_bytes)
    start = content[:_START_BYTES]
    found = "a .pt file; rename it" if start.startswith(TORCH_STARTS) else other_format(start)
    if found and not is_safetensors(start):
        raise ModelError(f"{path}: is no .safetensors file but {found}")
    try:
        return safetensors.torch.load(content)
    except Exception as error:
        # Whatever a damaged file makes the reader raise, it is that file's fault.
        raise ModelError(
            f"{path}: not a readable .safetensors file of tensors ({reason(error)})"
        ) from error


def check_tensors(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    path: Path,
    forbidding: Collection[str] = (),
) -> None:
    """Raise `ModelError` unless the file's tensors are those expected: names, shapes, numbers.
    Those named in `forbidding` may hold minus infinity.
    """
    for name, tensor in expected.items():
        shape = list(tensor.shape)
        if name not in tensors:
            raise ModelError(f"{path}: {name} is missing (expected {shape})")
        own = tensors[name]
        if own.shape != tensor.shape:
            raise ModelError(f"{path}: {name} is {list(own.shape)}, expected {shape}")
        if not own.is_floating_point():
            raise ModelError(f"{path}: {name} is {own.dtype}, expected floats")
        numbers = own.float()
        if name in forbidding:
            numbers = numbers.masked_fill(numbers == -torch.inf, 0.0)
        if not numbers.isfinite().all():
            raise ModelError(f"{path}: {name} holds NaN or infinity, in float32 at least")
    if unknown := [name for name in tensors if name not in expected]:
        raise ModelError(f"{path}: unexpected tensors: {some(unknown)}")


def some(names: Iterable[object], most: int = 6) -> str:
    """List the first `most` of the names, for an error message."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:most]) + (", …" if len(listed) > most else "")


def reason(error: Exception) -> str:
    """The first sentence of what a library raised."""
    first_line = next(iter(str(error).splitlines()), "")
    return first_line.split(". ")[0] or type(error).__name__
