"""Files of tensors: reading them, and whether the tensors are those that a model needs.

Knows shapes and files; knows no config and no prefix. Every problem is a one-line `ModelError`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import safetensors.torch
import torch
from torch import Tensor

from ...errors import ModelError
from .files import members, memory_bytes, open_regular, read_whole, unpacked_bytes
from .formats import SAVE, is_safetensors, other_archive, other_format, refused_class

# What torch.save writes: a zip archive, or before torch 1.6 a pickle (protocol 2).
_ZIP = b"PK"
_PT_STARTS = (_ZIP, b"\x80\x02")
_START_BYTES = 64
_RENAME = "a .safetensors file; rename it"

# Tensors may share their numbers, as tied weights do; together they take so many times their
# file's bytes at the most, or so many bytes, which harm nobody.
_MOST_SHARED = 8
_FEW_BYTES = 2**28

_WEIGHT = "weight_ih_l0"  # every LSTM has one


def read_tensors(path: Path, most_bytes: int | None = None) -> dict[str, Tensor]:
    """Read the tensors of a `.safetensors` file, or of a state_dict saved with `torch.save`, into
    memory of their own. The file may have `most_bytes`, or if None what the machine has.

    Nothing in the file is executed: pickled objects other than tensors are refused.
    """
    most_bytes = memory_bytes() if most_bytes is None else most_bytes
    if path.suffix == ".safetensors":
        return _read_safetensors(path, most_bytes)
    with open_regular(path, most_bytes) as file:
        content = _read_pt(file, path)
        if not isinstance(content, Mapping) or not _is_state_dict(content):
            raise ModelError(f"{path}: {_instead_of_state_dict(content, path)}")
        _check_sizes(content, os.fstat(file.fileno()).st_size, path)
    return dict(content)


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


def _read_safetensors(path: Path, most_bytes: int) -> dict[str, Tensor]:
    content, _ = read_whole(path, most_bytes)
    start = content[:_START_BYTES]
    found = "a .pt file; rename it" if start.startswith(_PT_STARTS) else other_format(start, path)
    if found and not is_safetensors(start):
        raise ModelError(f"{path}: is no .safetensors file but {found}")
    try:
        return safetensors.torch.load(content)
    except Exception as error:
        # Whatever a damaged file makes the reader raise, it is that file's fault.
        raise ModelError(
            f"{path}: not a readable .safetensors file of tensors ({_reason(error)})"
        ) from error


def _read_pt(file: BinaryIO, path: Path) -> object:
    start = file.read(_START_BYTES)
    file.seek(0)
    if not start.startswith(_PT_STARTS):
        found = _RENAME if is_safetensors(start) else other_format(start, path)
        raise ModelError(f"{path}: is no .pt file{f' but {found}' if found else f'; {SAVE}'}")
    if start.startswith(_ZIP):
        _check_archive(file, path)
    try:
        with warnings.catch_warnings(action="ignore"):  # the error says what matters
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        if name := refused_class(error):
            raise ModelError(f"{path}: {_holds_class(name, path)}") from error
        raise ModelError(
            f"{path}: not a readable .pt file of tensors ({_reason(error)}); {SAVE}"
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


def _reason(error: Exception) -> str:
    first_line = next(iter(str(error).splitlines()), "")
    return first_line.split(". ")[0] or type(error).__name__


def _is_state_dict(content: Mapping[object, object]) -> bool:
    return all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())


def _holds_class(name: str, path: Path) -> str:
    return (
        f"holds a {name}, which is not loaded, since it could run any code; if you trust the "
        f"file, load it where its code is, with torch.load({path.name!r}, map_location='cpu', "
        "weights_only=False), and save the state_dict alone: torch.save(model.state_dict(), …)"
    )


def _instead_of_state_dict(content: object, path: Path) -> str:
    """What the file holds, and how to save what is needed."""
    advice = "save with torch.save(model.state_dict(), …)"
    if not isinstance(content, Mapping):
        kind = type(content).__name__
        return f"holds a {kind} instead of a state_dict (names to tensors); {advice}"
    if any(isinstance(t, Tensor) and str(k).endswith(_WEIGHT) for k, t in content.items()):
        return (
            "holds other things beside its tensors; save these alone: torch.save({k: t for k, t in "
            f"torch.load({path.name!r}, map_location='cpu').items() if isinstance(t, "
            "torch.Tensor)}, 'weights.pt')"
        )
    nested = list(_state_dicts(content))
    # An optimizer's or a schedule's tensors are in such dicts too.
    with_lstm = [keys for keys, names in nested if any(n.endswith(_WEIGHT) for n in names)]
    if len(with_lstm) > 1:
        return f"holds several dicts with an LSTM: {some(map(_indices, with_lstm))}; save just one"
    for keys in with_lstm or [keys for keys, _ in nested]:
        source = f"torch.load({path.name!r}, map_location='cpu'){_indices(keys)}"
        return (
            f"holds a dict of tensors under {' and '.join(map(repr, keys))}; save just that: "
            f"torch.save({source}, 'weights.pt')"
        )
    return f"holds {some(content)} instead of a state_dict (names to tensors); {advice}"


def _state_dicts(
    content: Mapping[object, object], keys: tuple[object, ...] = ()
) -> Iterator[tuple[tuple[object, ...], list[str]]]:
    """Every dict of tensors in the dicts of a file: where it is, and its names."""
    for key, value in content.items():
        if not isinstance(value, Mapping) or not value:
            continue
        if _is_state_dict(value):
            yield (*keys, key), list(value)
        elif len(keys) < 3:
            yield from _state_dicts(value, (*keys, key))


def _indices(keys: Iterable[object]) -> str:
    return "".join(f"[{key!r}]" for key in keys)
