"""What `bilstm encode` says on standard output: the files it wrote, or on a terminal a short table.

In a pipe each file that is written is a line, as soon as it is there, and nothing else is said.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from tqdm import tqdm

from ..types import Encoding, Model
from .labels import shown_labels
from .printing import printable
from .scores import best_class, class_names

_MOST_LINES = 20  # of sequences, and of files


@dataclass(frozen=True, slots=True)
class Shown:
    """What is shown of each sequence: its best class, its labels, or nothing."""

    output: str = ""  # "logits" of the classes, an output of labels, or empty
    classes: Sequence[str] = ()  # their names

    @classmethod
    def of(cls, model: Model | None) -> Self:
        """What a person wants to see of the model's results."""
        infos = {info.name: info for info in model.output_infos} if model else {}
        if model and "logits" in infos and not infos["logits"].per_step:
            return cls("logits", class_names(model.labels, model.num_classes))
        return cls("labels" if "labels" in infos and infos["labels"].ids else "")

    @property
    def head(self) -> tuple[str, ...]:
        """The names of the columns."""
        return {"": (), "logits": ("label", "score")}.get(self.output, (self.output,))

    def cells(self, encoding: Encoding) -> tuple[str, ...]:
        """What the columns have for one sequence."""
        if not self.output:
            return ()
        if self.output != "logits":
            return (shown_labels(encoding, self.output),)
        names = class_names(self.classes, len(encoding.logits))
        label, score = best_class(encoding.logits, names)
        return label or "-", f"{score:.3f}"


class Report(Protocol):
    """What is said of the results."""

    def encoded(self, place: str, steps: int, encoding: Encoding) -> None:
        """A sequence has its results."""

    def written(self, path: Path) -> None:
        """A file is whole."""

    def skipped(self, path: Path) -> None:
        """A file has its results from before."""


class WrittenFiles:
    """The report in a pipe: a line for each file that is written."""

    def encoded(self, place: str, steps: int, encoding: Encoding) -> None:
        pass

    def written(self, path: Path) -> None:
        if sys.stdout is not None:  # closed
            tqdm.write(str(path), file=sys.stdout)

    def skipped(self, path: Path) -> None:
        pass


class Summary:
    """The report on a terminal, printed at the end: the first sequences, with the best class or the
    labels where the model has some, and the first files."""

    def __init__(self, shown: Shown):
        self._shown = shown
        self._rows: list[tuple[str, ...]] = [("sequence", "steps", *shown.head)]
        self._written: list[Path] = []
        self._more_rows = self._more_written = self._skipped = 0

    def encoded(self, place: str, steps: int, encoding: Encoding) -> None:
        if len(self._rows) > _MOST_LINES:
            self._more_rows += 1
            return
        cells = (place, f"{steps:,}", *self._shown.cells(encoding))
        self._rows.append(tuple(map(printable, cells)))

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
            print(f"wrote {printable(str(path))}")
        if self._more_written:
            print(f"and {self._more_written:,} more")
        if self._skipped:
            s = "" if self._skipped == 1 else "s"
            print(f"skipped {self._skipped:,} file{s}: the results are there")


@contextmanager
def reporting(shown: Shown) -> Iterator[Report]:
    """The report that fits where standard output goes, also of what is done when an error ends
    it."""
    if not is_on_terminal():
        yield WrittenFiles()
        return
    summary = Summary(shown)
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
