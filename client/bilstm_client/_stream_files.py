"""Files and folders as the source of a stream, and its results as files, one sequence at a time.

Knows no server; whatever is wrong with a file is a `FileError` that names it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import numpy as np

from ._files import (
    RESULT_SUFFIX,
    FileError,
    OpenArray,
    check_header,
    map_array,
    open_arrays,
    read_array,
)
from .types import Array

STATES_SUFFIX = ".states.npy"
_SUFFIXES = (".npy", ".npz")


@dataclass(frozen=True, slots=True)
class Target:
    """A file of sequences, and where its results go."""

    path: Path
    states: Path  # of an .npy file
    encoded: Path


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sequence is: in an .npy file, or an array of an .npz file."""

    target: Target
    name: str | None  # of the array
    steps: int = 0
    size: int = 0  # bytes
    error: FileError | None = None  # why it can't be read

    def __str__(self) -> str:
        return f"{self.target.path}: {self.name}" if self.name else f"{self.target.path}"


def find_targets(paths: Iterable[Path], out_dir: Path | None) -> list[Target]:
    """The files, and those in the folders, in their order; no two have one result."""
    sources: dict[Path, Path] = {}
    targets = []
    for path in paths:
        for file, place in _in_folder(path) if path.is_dir() else [(path, Path(path.name))]:
            stem = (out_dir / place if out_dir else file).with_suffix("")
            encoded = stem.with_name(stem.name + RESULT_SUFFIX)
            if encoded in sources:
                raise FileError(
                    f"{sources[encoded]} and {file} would both be written to {encoded}; "
                    "encode them apart"
                )
            sources[encoded] = file
            targets.append(Target(file, stem.with_name(stem.name + STATES_SUFFIX), encoded))
    return targets


def _in_folder(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Every file of arrays that is no result, and its place in the folder."""
    found = False
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix in _SUFFIXES and not hidden and not is_result(path) and path.is_file():
            found = True
            yield path, path.relative_to(folder)
    if not found:
        raise FileError(f"{folder}: holds no .npy or .npz files of sequences")


def is_result(path: Path) -> bool:
    return path.name.endswith((RESULT_SUFFIX, STATES_SUFFIX))


def read_sequences(target: Target) -> Iterator[tuple[Place, Array | None]]:
    """The file's sequences: that of an .npy file as a memory map, those of an .npz file read one
    at a time. In the place of what can't be read is None."""
    try:
        with open_arrays(target.path) as arrays:
            for name, open_array in arrays.items():
                yield _read(target, name or None, open_array)
            if not arrays:
                raise FileError(f"{target.path}: holds no arrays")
    except FileError as error:
        yield Place(target, None, error=error), None


def _read(target: Target, name: str | None, open_array: OpenArray) -> tuple[Place, Array | None]:
    try:
        check_header(target.path, name or "", open_array)
        if name is None:
            array = map_array(target.path)
        else:
            array = read_array(target.path, name, open_array)
    except FileError as error:
        return Place(target, name, error=error), None
    return Place(target, name, len(array) if array.ndim else 0, array.nbytes), array


class ResultArchive:
    """An .npz file that arrays are added to one at a time; whole, or not there."""

    def __init__(self, path: Path):
        self.path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._archive = ZipFile(self._temporary, "w")

    def add(self, name: str, array: Array) -> None:
        with self._archive.open(f"{name}.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array(file, array, allow_pickle=False)

    def close(self) -> None:
        """All is in it."""
        self._archive.close()
        self._temporary.replace(self.path)

    def discard(self) -> None:
        self._archive.close()
        self._temporary.unlink(missing_ok=True)
