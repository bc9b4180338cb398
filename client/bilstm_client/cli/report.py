"""What `bilstm encode` says on standard output: the files it wrote, or on a terminal a short table.

In a pipe each file that is written is a line, as soon as it is there, and nothing else is said.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from ..types import Array
from .scores import best_class, class_names

_MOST_LINES = 20  # of sequences, and of files


class Report(Protocol):
    """What is said of the results."""

    def encoded(self, place: str, steps: int, logits: Array | None) -> None:
        """A sequence has its results."""

    def written(self, path: Path) -> None:
        """A file is whole."""

    def skipped(self, path: Path) -> None:
        """A file has its results from before."""


class WrittenFiles:
    """The report in a pipe: a line for each file that is written."""

    def encoded(self, place: str, steps: int, logits: Array | None) -> None:
        pass

    def written(self, path: Path) -> None:
        if sys.stdout is not None:  # closed
            tqdm.write(str(path), file=sys.stdout)

    def skipped(self, path: Path) -> None:
        pass


class Summary:
    """The report on a terminal, printed at the end: the first sequences, with the best class where
    the model has some, and the first files."""

    def __init__(self, classes: Sequence[str]):
        self._classes = classes
        head = ("sequence", "steps", "label", "score")
        self._rows: list[tuple[str, ...]] = [head if classes else head[:2]]
        self._written: list[Path] = []
        self._more_rows = self._more_written = self._skipped = 0

    def encoded(self, place: str, steps: int, logits: Array | None) -> None:
        if len(self._rows) > _MOST_LINES:
            self._more_rows += 1
            return
        row: tuple[str, ...] = (_printable(place), f"{steps:,}")
        if self._classes and logits is not None:
            label, score = best_class(logits, class_names(self._classes, len(logits)))
            row += (_printable(label or "-"), f"{score:.3f}")
        self._rows.append(row)

    def written(self, path: Path) -> None:
        if len(self._written) < _MOST_LINES:
            self._written.append(path)
        else:
            self._more_written += 1

    def skipped(self, path: Path) -> None:
        self._skipped += 1

    def print(self) -> None:
        """Say it all."""
        if len(self._rows) > 1:
            print(*_aligned(self._rows), sep="\n")
        if self._more_rows:
            print(f"and {self._more_rows:,} more")
        for path in self._written:
            print(f"wrote {_printable(str(path))}")
        if self._more_written:
            print(f"and {self._more_written:,} more")
        if self._skipped:
            s = "" if self._skipped == 1 else "s"
            print(f"skipped {self._skipped:,} file{s}: the results are there")


@contextmanager
def reporting(classes: Sequence[str]) -> Iterator[Report]:
    """The report that fits where standard output goes, with the model's classes by these names;
    also of what is done when an error ends it."""
    if not is_on_terminal():
        yield WrittenFiles()
        return
    summary = Summary(classes)
    try:
        yield summary
    finally:
        summary.print()


def is_on_terminal() -> bool:
    """Whether standard output is read by a person."""
    return sys.stdout is not None and sys.stdout.isatty()


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows in columns: of names to the left, of numbers (every second one) to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.rjust(width) if index % 2 else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def _printable(text: str) -> str:
    """Names come from files and servers: what would move a terminal's cursor is shown as ?."""
    return "".join(character if character.isprintable() else "?" for character in text)
