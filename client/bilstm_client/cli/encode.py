"""`bilstm encode` without a stream: files are read a batch at a time, each batch is a call."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..client import Client
from ..errors import InvalidInput
from ..types import Encoding
from .files import FileError, SequenceFile, input_in
from .report import Report, reporting
from .result_files import (
    RESULT_SUFFIX,
    ResultArchive,
    holds_results,
    without_results,
)
from .result_tables import ResultTable, has_rows
from .wanted import Wanted

_BATCH_SEQUENCES = 64  # a call at a time, so that the progress bar moves


def run(client: Client, parsed: argparse.Namespace) -> None:
    """Encode the files one after the other; what is wrong with one ends it."""
    paths = without_results(parsed.files)
    for path in paths:
        _check_is_no_folder(path)
    result_paths = {} if parsed.out else _result_paths(paths, parsed.out_dir)
    files = [SequenceFile.open(path) for path in paths]
    has_archives = any(set(file.steps) != {""} for file in files)
    wanted = Wanted.of(client, parsed, has_archives=has_archives)
    if wanted.inputs:
        files = [SequenceFile.open(path, wanted.inputs) for path in paths]
    with reporting(wanted.shown) as report:
        if parsed.skip_existing:
            files = list(_without_results(files, result_paths, parsed, report))
        total = sum(sum(file.steps.values()) for file in files)
        with tqdm(total=total, unit=" steps", unit_scale=True, disable=not _shows_bar()) as bar:
            job = _Job(client, wanted, report, bar)
            if parsed.out and files:
                job.write_table(files, wanted.table(client, parsed))
            else:
                for file in files:
                    job.write_results(file, result_paths[file.path])


def _shows_bar() -> bool:
    return sys.stderr.isatty()


class _Job:
    """The calls, and what becomes of their results."""

    def __init__(self, client: Client, wanted: Wanted, report: Report, bar: Any):
        self._client = client
        self._wanted = wanted
        self._report = report
        self._bar = bar

    def write_results(self, file: SequenceFile, path: Path) -> None:
        """Encode a file, and write what is wanted of all its sequences to an archive."""
        with ResultArchive(path) as archive:
            for name, encoding in self._encodings(file):
                archive.add(name, encoding, self._wanted.written)
        self._report.written(path)

    def write_table(self, files: Sequence[SequenceFile], table: ResultTable) -> None:
        """Encode the files, and write what is wanted of all their sequences to one table."""
        with table:
            for file in files:
                for name, encoding in self._encodings(file):
                    table.add(file.path, name, file.steps[name], encoding)
        self._report.written(table.path)

    def _encodings(self, file: SequenceFile) -> Iterator[tuple[str, Encoding]]:
        """Each of the file's sequences by its name, encoded; the bar and the report follow."""
        for batch in file.batches(_BATCH_SEQUENCES):
            encodings = self._encode(file, batch)
            for name, encoding in zip(batch, encodings, strict=True):
                yield name, encoding
                self._report.encoded(file.place(name), file.steps[name], encoding)
            self._bar.update(sum(file.steps[name] for name in batch))

    def _encode(self, file: SequenceFile, batch: Mapping[str, Any]) -> list[Encoding]:
        """One call; an error of one sequence names its file, and its array."""
        try:
            return self._client.encode_batch(batch.values(), **self._wanted.options)
        except InvalidInput as error:
            expected = error.expected.replace("encode_stream", "--stream")  # the method's flag
            if place := re.match(r"sequences\[(\d+)\]", error.field):
                name = list(batch)[int(place[1])] or input_in(error.field, file.inputs)
                raise FileError(f"{file.place(name)}: {expected}") from error
            if error.field == "sequences":
                raise FileError(f"{file.path}: {expected}") from error
            raise


def _check_is_no_folder(path: Path) -> None:
    if path.is_dir():
        raise FileError(
            f"{path}: is a folder; with --stream, the .npy and .npz files in it and below are "
            "encoded"
        )


def _result_paths(paths: Sequence[Path], out_dir: Path | None) -> dict[Path, Path]:
    """Where the results of each file go: no two to one."""
    sources: dict[Path, Path] = {}
    for path in paths:
        result = (out_dir or path.parent) / f"{path.stem}{RESULT_SUFFIX}"
        if result in sources:
            both = f"{sources[result]} and {path}"
            raise FileError(f"{both} would both be written to {result}; encode them apart")
        sources[result] = path
    return {path: result for result, path in sources.items()}


def _without_results(
    files: Sequence[SequenceFile],
    result_paths: Mapping[Path, Path],
    parsed: argparse.Namespace,
    report: Report,
) -> Iterator[SequenceFile]:
    """The files whose results are not there yet: in their archive, or all in one table."""
    if parsed.out:
        if has_rows(parsed.out, [(file.path, name) for file in files for name in file.steps]):
            report.skipped(parsed.out)
        else:
            yield from files
        return
    for file in files:
        if holds_results(result_paths[file.path], file.steps, parsed.outputs):
            report.skipped(result_paths[file.path])
        else:
            yield file
