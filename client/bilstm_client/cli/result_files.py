"""Files of results: their names, written whole or not at all, and whether they hold what is asked.

Knows no server and no input.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self
from zipfile import BadZipFile, ZipFile

import numpy as np

from ..types import Array, Encoding
from .files import FileError

RESULT_SUFFIX = ".encoded.npz"
STATES_SUFFIX = ".states.npy"
_STATE_ARRAYS = ("state.hidden", "state.cell")


def is_result(path: Path) -> bool:
    """Whether its name is that of a file which this command writes."""
    return path.name.endswith((RESULT_SUFFIX, STATES_SUFFIX))


def without_results(paths: Sequence[Path]) -> list[Path]:
    """The paths, less those of results, each of which is named on standard error: a pattern such as
    `*.npy` matches them, too, once they lie beside their files. `FileError` if nothing is left."""
    results = [path for path in paths if is_result(path)]
    if len(results) == len(paths):
        raise FileError(f"{paths[0]}: holds results, not sequences")
    for path in results:
        print(f"bilstm: {path}: holds results, and is left out", file=sys.stderr)
    return [path for path in paths if not is_result(path)]


def arrays_of(encoding: Encoding, outputs: Collection[str]) -> Iterator[tuple[str, Array]]:
    """The arrays of these outputs by the names that they have in files."""
    for output in outputs:
        if output != "state":
            yield output, encoding[output]
        else:
            arrays = (encoding.state.hidden, encoding.state.cell)
            yield from zip(_STATE_ARRAYS, arrays, strict=True)


def temporary_path(path: Path) -> Path:
    """Where a file is written until it is whole: hidden beside it, one for each process."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def unwritable(path: Path, error: OSError) -> FileError:
    """The error for a result that can't be written to `path`."""
    return FileError(f"{path}: can't be written: {error.strerror or error}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around all that writes to `path`: an `OSError` becomes a `FileError` that names it."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


class ResultArchive:
    """An .npz file that arrays are added to one at a time; whole, or not there.

    As a context it is put in its place at the end, and removed with an exception. Where it can't
    be written each method raises `FileError`.
    """

    def __init__(self, path: Path):
        self.path = path
        self._temporary = temporary_path(path)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._archive = ZipFile(self._temporary, "w")
        self._named: set[str] = set()  # outputs whose labels' names are written

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            if error is None:
                self.close()
        finally:
            self.discard()

    def add(self, name: str, encoding: Encoding, outputs: Collection[str]) -> None:
        """Write these outputs of a sequence, and what their labels are called; `name` is empty for
        the only sequence of a file."""
        for array_name, array in arrays_of(encoding, outputs):
            self._write(_member(name, array_name), array)
        for output in outputs:
            if output not in self._named and (names := encoding.names_of(output)):
                self._named.add(output)
                self._write(_member("", f"{output}.names"), np.array(names))

    def _write(self, member: str, array: Array) -> None:
        with writing(self.path), self._archive.open(member, "w", force_zip64=True) as file:
            np.lib.format.write_array(file, array, allow_pickle=False)

    def close(self) -> None:
        """Put the file in its place: every array is in it."""
        with writing(self.path):
            self._archive.close()
            self._temporary.replace(self.path)

    def discard(self) -> None:
        """Remove what is half written; a file that was there before stays."""
        with suppress(OSError):  # what could not be written still can't be
            self._archive.close()
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)


def holds_results(path: Path, names: Collection[str], outputs: Collection[str]) -> bool:
    """Whether an .npz file is there that has all outputs of these sequences; an .npy file's
    sequence has the name "" and its outputs have no prefix."""
    arrays = [array for output in outputs for array in _array_names(output)]
    wanted = {_member(name, array) for name in names for array in arrays}
    try:
        with ZipFile(path) as archive:
            return wanted <= set(archive.namelist())
    except (OSError, BadZipFile):
        return False


def holds_states(path: Path, steps: int) -> bool:
    """Whether a whole .npy file of the states of so many steps is there."""
    try:
        return len(np.load(path, mmap_mode="r", allow_pickle=False)) == steps
    except (OSError, ValueError, EOFError, TypeError):
        return False


def _member(name: str, array: str) -> str:
    """What an array is called in the archive."""
    return f"{name}.{array}.npy" if name else f"{array}.npy"


def _array_names(output: str) -> Sequence[str]:
    return _STATE_ARRAYS if output == "state" else (output,)
