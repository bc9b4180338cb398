"""Folders of `.safetensors` as hubs hand them out: one file, or several and an index."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from ....errors import ModelError
from ..files import read_whole
from ..weights import read_tensors

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
_MOST_INDEX_BYTES = 2**26


def read_hub_folder(folder: Path, most_bytes: int) -> dict[str, Tensor]:
    """Read the tensors of all files that the folder's index names, or of its only file of them."""
    files = _files(folder)
    tensors: dict[str, Tensor] = {}
    for name in files:
        for key, tensor in read_tensors(folder / name, most_bytes).items():
            if key in tensors:
                raise ModelError(f"{folder}: {key} is in two of its files")
            tensors[key] = tensor
            most_bytes -= tensor.numel() * tensor.itemsize
    return tensors


def _files(folder: Path) -> list[str]:
    if (folder / INDEX).exists():
        return _named_by_index(folder / INDEX)
    if (folder / WEIGHTS).exists():
        return [WEIGHTS]
    others = sorted(path.name for path in folder.iterdir() if path.suffix == ".safetensors")
    if len(others) == 1:
        return others
    have = f"; name one of its files: {', '.join(others[:6])}" if others else ""
    raise ModelError(f"{folder}: is a folder, not a file, and has no {WEIGHTS}{have}")


def _named_by_index(path: Path) -> list[str]:
    content, _ = read_whole(path, _MOST_INDEX_BYTES)
    try:
        names = set(json.loads(content)["weight_map"].values())
        if not all(Path(name).name == name for name in names):  # none in other folders
            raise ValueError("its files must be in the same folder")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path}: is no index of .safetensors files ({error})") from error
    return sorted(names)
