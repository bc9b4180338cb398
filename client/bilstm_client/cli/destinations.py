"""Where the results of a stream go: into files beside each other, or into one table.

A file that can't be written does not stop a stream: it is one more that failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from ..types import Encoding
from .files import FileError
from .folders import Place, SourceFile
from .report import Report
from .result_files import ResultArchive
from .result_tables import ResultTable


class Destination(Protocol):
    """What takes the results of a stream, in the order of its source."""

    def begin(self, file: SourceFile) -> None:
        """The next results are of this file; it may be the one before."""

    def add(self, place: Place, encoding: Encoding) -> None:
        """Write the results of one of its sequences."""

    def end(self) -> None:
        """There are no more."""


class ResultFiles:
    """The results of each file in files of its own, whole or not there."""

    def __init__(self, outputs: Sequence[str], report: Report, failed: Callable[[FileError], None]):
        """`failed` is called with the error of each file that can't be written, once."""
        self._outputs = outputs
        self._report = report
        self._failed = failed
        self._file: SourceFile | None = None
        self._archive: ResultArchive | None = None  # of the file
        self._is_lost = False  # it can't be written

    def begin(self, file: SourceFile) -> None:
        if file is not self._file:
            self.end()
            self._file = file

    def add(self, place: Place, encoding: Encoding) -> None:
        outputs = self._outputs
        if place.name is None and "states" in outputs:
            self._report.written(place.file.states)  # by the client, as they arrived
            outputs = [output for output in outputs if output != "states"]
        with self._writing():
            if outputs and not self._is_lost:
                self._archive = self._archive or ResultArchive(place.file.encoded)
                self._archive.add(place.name or "", encoding, outputs)

    def end(self) -> None:
        with self._writing():
            if self._archive is not None:
                self._archive.close()
                self._report.written(self._archive.path)
        self._archive, self._is_lost = None, False

    def discard(self) -> None:
        """Remove what is half written, if `end` was not reached."""
        if self._archive is not None:
            self._archive.discard()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except FileError as error:
            if self._archive is not None:
                self._archive.discard()
            self._archive, self._is_lost = None, True
            self._failed(error)


class OneTable:
    """The scores or labels of all files in one table, which is written in the end."""

    def __init__(self, table: ResultTable):
        self._table = table

    def begin(self, file: SourceFile) -> None:
        pass

    def add(self, place: Place, encoding: Encoding) -> None:
        self._table.add(place.file.path, place.name or "", place.steps, encoding)

    def end(self) -> None:
        pass
