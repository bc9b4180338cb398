"""Files of arrays: .npy and .npz, read as sequences a batch at a time.

Knows no server; whatever is wrong with a file is a `FileError` that names it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Self
from zipfile import BadZipFile, ZipFile

import numpy as np

from .._calls.arrays import to_array
from ..types import Array

_NPY_MAGIC = b"\x93NUMPY"
_ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")  # the second: without any member
OpenArray = Callable[[], IO[bytes]]
Header = tuple[tuple[int, ...], bool, np.dtype[Any]]  # shape, whether Fortran's order, dtype
_HEADERS: dict[tuple[int, int], Callable[[IO[bytes]], Header]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class FileError(Exception):
    """A file can't be read as sequences, or written: one line."""


@dataclass(frozen=True, slots=True)
class SequenceFile:
    """An .npy file, one sequence with the name ""; or an .npz file, each array a sequence."""

    path: Path
    steps: Mapping[str, int]  # of each sequence, by its name

    @classmethod
    def open(cls, path: Path) -> Self:
        """Look into the file, and read of each array no more than its header."""
        with open_arrays(path) as arrays:
            steps = {name: read_steps(path, name, array) for name, array in arrays.items()}
        if not steps:
            raise FileError(f"{path}: holds no arrays")
        return cls(path, steps)

    def batches(self, size: int) -> Iterator[dict[str, Array]]:
        """The sequences by name, in order, no more than `size` of them in memory at a time."""
        with open_arrays(self.path) as arrays:
            every = list(self.steps)
            for start in range(0, len(every), size):
                names = every[start : start + size]
                yield {name: read_array(self.path, name, arrays[name]) for name in names}

    def place(self, name: str) -> str:
        """Where a sequence is, as messages say it."""
        return _place(self.path, name)


@contextmanager
def open_arrays(path: Path) -> Iterator[dict[str, OpenArray]]:
    """The file's arrays by name, each to be opened."""
    with _named(path), path.open("rb") as file:
        magic = file.read(len(_NPY_MAGIC))
        if magic == _NPY_MAGIC:
            yield {"": lambda: path.open("rb")}
        elif magic.startswith(_ZIP_MAGICS):
            with ZipFile(file) as archive:
                members = archive.namelist()
                yield {m.removesuffix(".npy"): partial(archive.open, m) for m in members}
        else:
            raise FileError(f"{path}: not an .npy or .npz file")


def read_steps(path: Path, name: str, open_array: OpenArray) -> int:
    """The array's steps, by its header and no more; what is no array of numbers is refused."""
    with _named(path, name), open_array() as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"unknown format version {version}")
        shape, _, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise FileError(f"{_place(path, name)}: holds Python objects, not numbers")
    return shape[0] if shape else 0


def read_array(path: Path, name: str, open_array: OpenArray) -> Array:
    """One of the file's arrays, as the wire can carry it."""
    with _named(path, name), open_array() as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
    try:
        return to_array(array, _place(path, name))
    except TypeError as error:
        raise FileError(str(error)) from error


def map_array(path: Path) -> Array:
    """An .npy file's array, as a memory map."""
    with _named(path):
        array: Array = np.load(path, mmap_mode="r")
    return array


@contextmanager
def _named(path: Path, name: str = "") -> Iterator[None]:
    """Whatever is wrong with an array, as an error that names it and its file."""
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from error
    # What numpy and zipfile raise for damage; RuntimeError: encrypted, or a foreign compression.
    except (ValueError, EOFError, BadZipFile, zlib.error, RuntimeError, MemoryError) as error:
        raise FileError(f"{_place(path, name)}: can't be read: {error}") from error


def _place(path: Path, name: str) -> str:
    return f"{path}: {name}" if name else f"{path}"
