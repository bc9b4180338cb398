"""Files and folders as the source of a stream, and its results as files, one sequence at a time.

Knows no server; whatever is wrong with a file is a `FileError` that names it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import numpy as np

from ..types import Array
from .files import (
    RESULT_SUFFIX,
    FileError,
    OpenArray,
    check_header,
    map_array,
    open_arrays,
    read_array,
)

STATES_SUFFIX = ".states.npy"
_SUFFIXES = (".npy", ".npz")


@dataclass(frozen=True, slots=True)
class Target:
    """A file of sequences, and where its results go."""

    path: Path
    states: Path  # of an .npy file
    encoded: Path
    error: FileError | None = None  # why it can't be looked into, as is found before it is opened


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


def find_targets(
    paths: Iterable[Path], out_dir: Path | None, outputs: Collection[str]
) -> list[Target]:
    """The files, and those in the folders, in their order; no two have one result."""
    sources: dict[Path, Target] = {}  # by what they may write, before any was looked into
    targets = []
    for path in paths:
        for file, place, error in _in_folder(path) if path.is_dir() else [(path, path.name, None)]:
            stem = (out_dir / place if out_dir else file).with_suffix("")
            states = stem.with_name(stem.name + STATES_SUFFIX)
            target = Target(file, states, stem.with_name(stem.name + RESULT_SUFFIX), error)
            targets.append(target)
            if error is None:
                other = sources.setdefault(target.encoded, target)
                if other is not target:
                    _check_apart(other, target, outputs)
    return targets


def _check_apart(one: Target, other: Target, outputs: Collection[str]) -> None:
    both = _results(one, outputs) & _results(other, outputs)
    if both:
        raise FileError(
            f"{one.path} and {other.path} would both be written to {min(both)}; encode them apart"
        )


def _results(target: Target, outputs: Collection[str]) -> set[Path]:
    """What will be written for a file: what it is, is in it, not in its name."""
    try:
        with open_arrays(target.path) as arrays:
            if set(arrays) != {""}:
                return {target.encoded}
    except FileError:
        return set()
    others = {target.encoded} if set(outputs) - {"states"} else set()
    return others | ({target.states} if "states" in outputs else set())


def _in_folder(folder: Path) -> Iterator[tuple[Path, Path, FileError | None]]:
    """Every file of arrays that is no result, and its place in the folder; also what can't be
    looked into, and may be or hold one."""
    found: list[tuple[Path, FileError | None]] = []

    def unreadable(error: OSError) -> None:
        found.append((Path(error.filename), _error(Path(error.filename), error)))

    for parent, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(parent, name) for name in files if not name.startswith("."))
        sequences = (path for path in paths if path.suffix in _SUFFIXES and not is_result(path))
        found += [(path, _no_file(path)) for path in sequences]
    if not found:
        raise FileError(f"{folder}: holds no .npy or .npz files of sequences")
    for path, error in sorted(found, key=lambda file: file[0]):
        yield path, path.relative_to(folder), error


def _no_file(path: Path) -> FileError | None:
    """Why it is none: the link leads nowhere, or it is something that to open would wait for."""
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        return _error(path, error)
    return None if is_file else FileError(f"{path}: not a file")


def _error(path: Path, error: OSError) -> FileError:
    return FileError(f"{path}: {error.strerror}")


def is_result(path: Path) -> bool:
    """Whether its name is that of a file that was written by this command."""
    return path.name.endswith((RESULT_SUFFIX, STATES_SUFFIX))


def read_sequences(target: Target) -> Iterator[tuple[Place, Array | None]]:
    """The file's sequences: that of an .npy file as a memory map, those of an .npz file read one
    at a time. In the place of what can't be read is None."""
    try:
        if target.error:
            raise target.error
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
        """Another array."""
        with self._archive.open(f"{name}.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array(file, array, allow_pickle=False)

    def close(self) -> None:
        """All is in it."""
        self._archive.close()
        self._temporary.replace(self.path)

    def discard(self) -> None:
        """It will not be needed."""
        with suppress(OSError):  # what could not be written still can't be
            self._archive.close()
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)
