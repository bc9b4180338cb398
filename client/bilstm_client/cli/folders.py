"""Files and folders as the source of a stream, one sequence at a time, and where results go.

Knows no server; whatever is wrong with a file is a `FileError` that names it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from .files import (
    FileError,
    OpenSequence,
    Sequence,
    SequenceFile,
    map_array,
    open_sequences,
)
from .result_files import RESULT_SUFFIX, STATES_SUFFIX, holds_results, holds_states, is_result

_SUFFIXES = (".npy", ".npz")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of sequences, and where its results go."""

    path: Path
    states: Path  # of a file that is one sequence
    encoded: Path
    error: FileError | None = None  # why it can't be looked into, as is found before it is opened
    inputs: Collection[str] = ()  # of the model, if it has several


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sequence is: a whole file, or an array of an .npz file."""

    file: SourceFile
    name: str | None  # of the array
    steps: int = 0
    error: FileError | None = None  # why it can't be read

    def __str__(self) -> str:
        return f"{self.file.path}: {self.name}" if self.name else f"{self.file.path}"


def find_files(paths: Iterable[Path], out_dir: Path | None) -> list[SourceFile]:
    """The files, and those in the folders, in their order."""
    files = []
    for path in paths:
        for found, place, error in _in_folder(path) if path.is_dir() else [(path, path.name, None)]:
            stem = (out_dir / place if out_dir else found).with_suffix("")
            states = stem.with_name(stem.name + STATES_SUFFIX)
            encoded = stem.with_name(stem.name + RESULT_SUFFIX)
            files.append(SourceFile(found, states, encoded, error))
    return files


def check_apart(files: Iterable[SourceFile], outputs: Collection[str]) -> None:
    """Refuse two files whose results would be written to one; only such are looked into."""
    alike: dict[Path, list[SourceFile]] = {}  # by what they may write
    for file in files:
        if not file.error:
            alike.setdefault(file.encoded, []).append(file)
    for others in alike.values():
        for one, other in combinations(others, 2):
            if both := _results(one, outputs) & _results(other, outputs):
                raise FileError(
                    f"{one.path} and {other.path} would both be written to {min(both)}; "
                    "encode them apart"
                )


def _results(file: SourceFile, outputs: Collection[str]) -> set[Path]:
    """What will be written for a file: what it is, is in it, not in its name."""
    try:
        with open_sequences(file.path, file.inputs) as sequences:
            if set(sequences) != {""}:
                return {file.encoded}
    except FileError:
        return set()
    others = {file.encoded} if set(outputs) - {"states"} else set()
    return others | ({file.states} if "states" in outputs else set())


def has_results(file: SourceFile, outputs: Collection[str]) -> bool:
    """Whether all that is asked for was written before: of each of the file's sequences."""
    try:
        steps = steps_of(file)
    except FileError:  # it is said in its turn
        return False
    if set(steps) != {""}:
        return holds_results(file.encoded, steps, outputs)
    others = [output for output in outputs if output != "states"]
    return (len(others) == len(outputs) or holds_states(file.states, steps[""])) and (
        not others or holds_results(file.encoded, steps, others)
    )


def steps_of(file: SourceFile) -> Mapping[str, int]:
    """The steps of each sequence by its name, which is empty for the one of an .npy file."""
    if file.error:
        raise file.error
    return SequenceFile.open(file.path, file.inputs).steps


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


def read_sequences(file: SourceFile) -> Iterator[tuple[Place, Sequence | None]]:
    """The file's sequences: that of an .npy file as a memory map, those of an .npz file read one
    at a time. In the place of what can't be read is None."""
    try:
        if file.error:
            raise file.error
        with open_sequences(file.path, file.inputs) as sequences:
            for sequence in sequences.values():
                yield _read(file, sequence)
    except FileError as error:
        yield Place(file, None, error=error), None


def _read(file: SourceFile, sequence: OpenSequence) -> tuple[Place, Sequence | None]:
    name = sequence.name or None
    try:
        steps = sequence.read_steps()
        is_npy = name is None and "" in sequence.arrays
        return Place(file, name, steps), map_array(file.path) if is_npy else sequence.read()
    except FileError as error:
        return Place(file, name, error=error), None
