"""`bilstm encode --stream`: files and folders of any size through one stream."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

from ..client import Client
from ..errors import InvalidInput, NotAnArray, NotSaved, SequenceFailure
from ..types import Encoding, Progress
from .destinations import Destination, OneTable, ResultFiles
from .files import FileError, input_in
from .folders import (
    Place,
    SourceFile,
    check_apart,
    find_files,
    has_results,
    read_sequences,
    steps_of,
)
from .printing import printable
from .report import Report, reporting
from .result_files import unwritable, without_results
from .result_tables import has_rows
from .wanted import Wanted


class NotAllEncoded(Exception):
    """Some sequences could not be encoded: each was named with its reason, the rest is written."""


def run(client: Client, parsed: argparse.Namespace) -> None:
    """Encode all that `parsed` names; `NotAllEncoded` at the end, for what could not be."""
    files = find_files(without_results(parsed.files), parsed.out_dir)
    has_archives = any(file.path.suffix != ".npy" for file in files)
    wanted = Wanted.of(client, parsed, has_archives=has_archives)
    files = [replace(file, inputs=wanted.inputs) for file in files]
    if not parsed.out:
        check_apart(files, parsed.outputs)
    with reporting(wanted.shown) as report:
        if parsed.skip_existing:
            files = list(_without_results(files, parsed, report))
        failed = _encode(client, parsed, wanted, files, report) if files else 0
    if failed:
        s = "" if failed == 1 else "s"
        raise NotAllEncoded(f"{failed} file{s} or array{s} could not be encoded")


def _without_results(
    files: Sequence[SourceFile], parsed: argparse.Namespace, report: Report
) -> Iterator[SourceFile]:
    """The files whose results are not there yet: in files of their own, or all in one table."""
    if parsed.out:
        if _has_rows(parsed.out, files):
            report.skipped(parsed.out)
        else:
            yield from files
        return
    for file in files:
        if has_results(file, parsed.outputs):
            report.skipped(file.path)
        else:
            yield file


def _has_rows(table: Path, files: Sequence[SourceFile]) -> bool:
    try:
        sequences = [(file.path, name) for file in files for name in steps_of(file)]
    except FileError:  # it is said in its turn
        return False
    return has_rows(table, sequences)


def _encode(
    client: Client,
    parsed: argparse.Namespace,
    wanted: Wanted,
    files: Sequence[SourceFile],
    report: Report,
) -> int:
    """Encode the files; returns how many of them, or of their arrays, could not be."""
    failures = _Failures()
    with (
        _destination(client, parsed, wanted, report, failures) as destination,
        _StepsBar(files) as bar,
        _showing_waits(),
        closing(_results(client, parsed, wanted, files, bar.follow)) as results,
    ):
        for place, result in results:
            destination.begin(place.file)
            if isinstance(result, SequenceFailure):
                failures.add(place.error or _file_error(place, result))
            else:
                destination.add(place, result)
                report.encoded(str(place), place.steps, result)
        destination.end()
    return failures.count


@contextmanager
def _destination(
    client: Client,
    parsed: argparse.Namespace,
    wanted: Wanted,
    report: Report,
    failures: _Failures,
) -> Iterator[Destination]:
    if not parsed.out:
        files = ResultFiles(wanted.written, report, failures.add)
        try:
            yield files
        finally:
            files.discard()
        return
    with wanted.table(client, parsed) as table:
        yield OneTable(table)
    if not table.is_empty:
        report.written(parsed.out)


def _results(
    client: Client,
    parsed: argparse.Namespace,
    wanted: Wanted,
    files: Sequence[SourceFile],
    progress: Callable[[Progress], None] | None,
) -> Generator[tuple[Place, Encoding | SequenceFailure], None, None]:
    return client.encode_stream(
        # What can't be read is given as no array, which is refused: so it has its turn, too.
        (sequence for file in files for sequence in read_sequences(file)),
        in_flight=parsed.in_flight,
        on_error="return",
        save_states=_states_path if "states" in wanted.written else None,
        progress=progress,
        **wanted.options,
    )


def _states_path(place: Place) -> Path | None:
    """None: those of one of a file's sequences, which go into the archive of its results."""
    if place.name is not None:
        return None
    place.file.states.parent.mkdir(parents=True, exist_ok=True)
    return place.file.states


# -- what is said meanwhile -------------------------------------------------------------------


class _Failures:
    """What could not be encoded or written: each is said at once, on standard error."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, error: FileError) -> None:
        self.count += 1
        tqdm.write(f"bilstm: {printable(str(error))}", file=sys.stderr)


class _StepsBar:
    """On a terminal, a bar over the steps of all files, which are looked into before the first is
    sent. It counts steps whose results have come, and says how many were sent."""

    def __init__(self, files: Sequence[SourceFile]):
        is_shown = sys.stderr.isatty()
        self._bar: Any = tqdm(
            total=sum(map(_count_steps, files)) if is_shown else None,
            unit=" steps",
            unit_scale=True,
            miniters=1,  # a long sequence's results come in a burst, after a long silence
            disable=not is_shown,
        )
        self.follow: Callable[[Progress], None] | None = self._follow if is_shown else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _follow(self, progress: Progress) -> None:
        """Called by the stream's threads, one at a time."""
        s = "" if progress.sequences_done == 1 else "s"
        sent = tqdm.format_sizeof(progress.steps_sent)
        self._bar.set_postfix_str(f"{sent} sent, {progress.sequences_done:,} sequence{s}", False)
        self._bar.update(progress.steps_done - self._bar.n)


def _count_steps(file: SourceFile) -> int:
    try:
        return sum(steps_of(file).values())
    except FileError:  # it is said in its turn
        return 0


@contextmanager
def _showing_waits() -> Iterator[None]:
    """What the client logs is said on standard error: that a server is waited for."""
    handler = logging.Handler()
    handler.emit = lambda record: tqdm.write(  # type: ignore[method-assign]
        f"bilstm: {printable(record.getMessage())}", file=sys.stderr
    )
    logger = logging.getLogger("bilstm_client")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _file_error(place: Place, error: SequenceFailure) -> FileError:
    if isinstance(error, NotSaved):
        return unwritable(place.file.states, error)
    return FileError(f"{place}: {_reason(error, place.file.inputs)}")


def _reason(error: SequenceFailure, inputs: Collection[str]) -> str:
    """Without the place in the stream, which is not the caller's."""
    if isinstance(error, NotAnArray):
        return str(error).partition(": ")[2]
    if isinstance(error, InvalidInput) and error.field.startswith("sequences["):
        name = input_in(error.field, inputs)
        return f"{name}: {error.expected}" if name else error.expected
    return str(error)
