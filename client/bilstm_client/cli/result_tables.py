"""`ResultTable`: the results of all sequences in one table of plain values; whole, or not there."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from ..types import Encoding
from .result_files import temporary_path, writing
from .tables import Columns, Table, Value, open_table, read_table


class ResultTable(ABC):
    """A table that the rows of sequences are added to, one sequence at a time.

    As a context it is put in its place at the end, and removed with an exception. Where it can't
    be written each method raises `FileError`.
    """

    def __init__(self, path: Path):
        self.path = path
        self._table: Table | None = None
        self._temporary = temporary_path(path)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._temporary.touch()  # what can't be written is known before anything is encoded

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            if error is None and self._table is not None:
                with writing(self.path):
                    self._table.close()
                    self._temporary.replace(self.path)
        finally:
            self._discard()

    @property
    def is_empty(self) -> bool:
        """Whether no sequence was added: then no file is written."""
        return self._table is None

    def add(self, file: Path, array: str, steps: int, encoding: Encoding) -> None:
        """Write the rows of a sequence: `array` is its name in an .npz file, "" in an .npy file."""
        if self._table is None:
            columns = {"file": str, "array": str, **self._columns(encoding)}
            with writing(self.path):
                self._table = open_table(self._temporary, self.path.suffix, columns)
        place: dict[str, Value] = {"file": _text(file), "array": array or None}
        with writing(self.path):
            for row in self._rows(steps, encoding):
                self._table.add(place | row)

    @abstractmethod
    def _columns(self, encoding: Encoding) -> Columns:
        """What each row has beside its place, by the first sequence. Raises `FileError`."""

    @abstractmethod
    def _rows(self, steps: int, encoding: Encoding) -> Iterator[dict[str, Value]]:
        """The rows of a sequence of so many steps."""

    def _discard(self) -> None:
        with suppress(OSError):  # what could not be written still can't be
            if self._table is not None:
                self._table.close()
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)


def has_rows(path: Path, sequences: Sequence[tuple[Path, str]]) -> bool:
    """Whether a table is there with a row of each sequence: (file, name of the array)."""
    try:
        rows = {(row["file"], row["array"] or "") for row in read_table(path)}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return rows.issuperset((_text(file), array) for file, array in sequences)


def _text(path: Path) -> str:
    """A path as text that every format can hold, whatever bytes its name has."""
    return os.fsencode(path).decode("utf-8", "replace")
