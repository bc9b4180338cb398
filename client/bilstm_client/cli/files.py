"""Files of arrays: .npy and .npz, read as sequences a batch at a time.

Knows no server; whatever is wrong with a file is a `FileError` that names it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
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
Sequence = Array | Mapping[str, Array]  # an array, or the model's inputs by name
Header = tuple[tuple[int, ...], bool, np.dtype[Any]]  # shape, whether Fortran's order, dtype
_HEADERS: dict[tuple[int, int], Callable[[IO[bytes]], Header]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class FileError(Exception):
    """A file can't be read as sequences, or written: one line."""


@dataclass(frozen=True, slots=True)
class OpenSequence:
    """A sequence of an open file: one array, or for a model of several inputs each by its name."""

    path: Path
    name: str  # of the array, in an .npz file where each is a sequence
    arrays: Mapping[str, OpenArray]  # by input: "" for one array

    def read_steps(self) -> int:
        """Its steps, by the arrays' headers and no more."""
        steps = [read_steps(self.path, name or self.name, a) for name, a in self.arrays.items()]
        return max(steps)

    def read(self) -> Sequence:
        """All of it, as the wire can carry it."""
        read = {n: read_array(self.path, n or self.name, a) for n, a in self.arrays.items()}
        return read.get("", read)


@dataclass(frozen=True, slots=True)
class SequenceFile:
    """An .npy file, one sequence with the name ""; or an .npz file, each array a sequence, or if
    the model has several inputs each array one of them, and all one sequence."""

    path: Path
    steps: Mapping[str, int]  # of each sequence, by its name
    inputs: Collection[str] = ()  # of the model, if it has several

    @classmethod
    def open(cls, path: Path, inputs: Collection[str] = ()) -> Self:
        """Look into the file, and read of each array no more than its header."""
        with open_sequences(path, inputs) as sequences:
            steps = {name: sequence.read_steps() for name, sequence in sequences.items()}
        return cls(path, steps, inputs)

    def batches(self, size: int) -> Iterator[dict[str, Sequence]]:
        """The sequences by name, in order, no more than `size` of them in memory at a time."""
        with open_sequences(self.path, self.inputs) as sequences:
            every = list(sequences.values())
            for start in range(0, len(every), size):
                yield {sequence.name: sequence.read() for sequence in every[start : start + size]}

    def place(self, name: str) -> str:
        """Where a sequence is, as messages say it."""
        return _place(self.path, name)


def input_in(field: str, inputs: Collection[str]) -> str:
    """Which of the model's inputs a field such as `sequences[3].features.shape` is of; "" if none
    of these."""
    parts = field.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in inputs else ""


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


@contextmanager
def open_sequences(path: Path, inputs: Collection[str] = ()) -> Iterator[dict[str, OpenSequence]]:
    """The file's sequences by name. `inputs` are the model's, if it has several."""
    with open_arrays(path) as arrays:
        if not arrays:
            raise FileError(f"{path}: holds no arrays")
        if not inputs or "" in arrays:
            yield {name: OpenSequence(path, name, {"": array}) for name, array in arrays.items()}
            return
        own = {name: array for name, array in arrays.items() if name in inputs}
        if not own:
            raise FileError(f"{path}: holds none of the model's inputs: {', '.join(inputs)}")
        yield {"": OpenSequence(path, "", own)}


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
