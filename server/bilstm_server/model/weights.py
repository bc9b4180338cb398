"""Files of tensors: reading them, and whether the tensors are those that a model needs.

Knows shapes and files; knows no config and no prefix. Every problem is a one-line `ModelError`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ..errors import ModelError

# What torch.save writes: a zip archive, or before torch 1.6 a pickle (protocol 2).
_PT_STARTS = (b"PK", b"\x80\x02")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file, or of a state_dict saved with `torch.save`.

    Nothing in the file is executed: pickled objects other than tensors are refused.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    content = _read_pt(path)
    if not isinstance(content, Mapping) or not _is_state_dict(content):
        raise ModelError(f"{path}: {_instead_of_state_dict(content, path)}")
    for name, tensor in content.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise ModelError(f"{path}: {name} is sparse or without data; save it dense")
    return dict(content)


def check_tensors(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path
) -> None:
    """Raise `ModelError` unless the file's tensors are those expected: names, shapes, numbers."""
    for name, tensor in expected.items():
        shape = list(tensor.shape)
        if name not in tensors:
            raise ModelError(f"{path}: {name} is missing (expected {shape})")
        own = tensors[name]
        if own.shape != tensor.shape:
            raise ModelError(f"{path}: {name} is {list(own.shape)}, expected {shape}")
        if not own.is_floating_point():
            raise ModelError(f"{path}: {name} is {own.dtype}, expected floats")
        if not own.float().isfinite().all():
            raise ModelError(f"{path}: {name} holds NaN or infinity, in float32 at least")
    if unknown := [name for name in tensors if name not in expected]:
        raise ModelError(f"{path}: unexpected tensors: {some(unknown)}")


def some(names: Iterable[object], most: int = 6) -> str:
    """The first of the names, for an error message."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:most]) + (", …" if len(listed) > most else "")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:
        # Whatever a damaged file makes the reader raise, it is that file's fault.
        raise ModelError(
            f"{path}: not a readable .safetensors file of tensors ({_reason(error)})"
        ) from error


def _read_pt(path: Path) -> object:
    advice = "save with torch.save(model.state_dict(), …) or as safetensors"
    try:
        with path.open("rb") as file:
            if not file.read(2).startswith(_PT_STARTS):
                raise ModelError(f"{path}: is no .pt file; {advice}")
        with warnings.catch_warnings(action="ignore"):  # the error says what matters
            return torch.load(path, map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"{path}: not a readable .pt file of tensors ({_reason(error)}); {advice}"
        ) from error


def _reason(error: Exception) -> str:
    first_line = next(iter(str(error).splitlines()), "")
    return first_line.split(". ")[0] or type(error).__name__


def _is_state_dict(content: Mapping[object, object]) -> bool:
    return all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())


def _instead_of_state_dict(content: object, path: Path) -> str:
    """What the file holds, and how to save what is needed."""
    if not isinstance(content, Mapping):
        return (
            f"holds a {type(content).__name__} instead of a state_dict (names to tensors); "
            "save with torch.save(model.state_dict(), …)"
        )
    for key, value in content.items():
        if isinstance(value, Mapping) and value and _is_state_dict(value):
            return (
                f"holds a dict of tensors under {key!r}; save just that: "
                f"torch.save(torch.load({path.name!r})[{key!r}], 'weights.pt')"
            )
    return (
        f"holds {some(content)} instead of a state_dict (names to tensors); "
        "save with torch.save(model.state_dict(), …)"
    )
