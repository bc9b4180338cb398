"""The files that Keras writes: `.keras`, an archive, and `.h5`.

Owns what is read of them and how much. Nothing in them is executed: a config is JSON, and
what it names is looked up in this folder's own tables.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import h5py

from ....errors import ModelError
from ..files import members, memory_bytes, open_regular, unpacked_bytes
from .settings import Settings

_CONFIG = "config.json"
_WEIGHTS = "model.weights.h5"
_MOST_CONFIG_BYTES = 2**26
_SAVE = "save it with Keras: model.save('model.keras')"


@contextmanager
def open_file(path: Path) -> Iterator[tuple[Settings | None, h5py.File]]:
    """Open a file: the model's config, None where it has weights alone, and the weights."""
    with open_regular(path, memory_bytes()) as file:
        if zipfile.is_zipfile(file):
            content, weights = _read_archive(file, path)
        else:
            content, weights = None, file
        file.seek(0)
        try:
            opened = h5py.File(weights, "r")
        except Exception as error:  # of many types, whatever the damage
            raise ModelError(f"{path}: is no file of Keras's; {_SAVE}") from error
        with opened as hdf5:
            try:
                content = hdf5.attrs.get("model_config") if content is None else content
            except Exception as error:
                raise ModelError(f"{path}: is a damaged file of Keras's; {_SAVE}") from error
            yield None if content is None else _parse(content, path), hdf5


def _read_archive(file: BinaryIO, path: Path) -> tuple[bytes, BinaryIO]:
    archive = members(file, path)
    sizes = {member.filename: member.file_size for member in archive}
    if missing := [name for name in (_CONFIG, _WEIGHTS) if name not in sizes]:
        raise ModelError(f"{path}: has no {missing[0]}, so it is no model of Keras's; {_SAVE}")
    size = os.fstat(file.fileno()).st_size
    if unpacked_bytes(archive) > size or sizes[_CONFIG] > _MOST_CONFIG_BYTES:
        raise ModelError(f"{path}: is compressed, or its config is too large; {_SAVE}")
    try:
        with zipfile.ZipFile(file) as opened:
            return opened.read(_CONFIG), io.BytesIO(opened.read(_WEIGHTS))
    except Exception as error:  # of many types, whatever the damage
        raise ModelError(f"{path}: is no readable archive ({error})") from error


def _parse(content: object, path: Path) -> Settings:
    try:
        if not isinstance(content, str | bytes):
            raise ValueError(f"a {type(content).__name__}")
        return Settings(json.loads(content))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: its config is no JSON of a model's ({error})") from error
