"""Scores of sequences: which class is best, and a table with a row for each sequence.

Knows no server. A score is what the model's head gives for a class: a logit.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import numpy as np

from ..types import Array
from .result_files import temporary_path, writing
from .tables import Table, Value, open_table, read_table


def class_names(labels: Sequence[str], classes: int) -> Sequence[str]:
    """A name for each class: the model's label, or a number where labels don't tell them apart."""
    tells_apart = len(set(labels)) == len(labels) == classes
    return labels if tells_apart else [str(number) for number in range(classes)]


def best_class(logits: Array, names: Sequence[str]) -> tuple[str | None, float]:
    """The name of the class with the highest score, and the score; (None, NaN) with a NaN."""
    best = int(np.argmax(logits))  # of a NaN, if there is one
    score = _number(logits[best])
    return None if math.isnan(score) else names[best], score


class ScoreTable:
    """A table of scores that rows are added to one at a time; whole, or not there.

    As a context it is put in its place at the end, and removed with an exception. Where it can't
    be written each method raises `FileError`.
    """

    def __init__(self, path: Path, labels: Callable[[], Sequence[str]]):
        """`labels` gives those of the model; it is asked when the first row comes."""
        self.path = path
        self._labels = labels
        self._names: Sequence[str] = ()
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
        """Whether no row was added: then no file is written."""
        return self._table is None

    def add(self, file: Path, array: str, steps: int, logits: Array) -> None:
        """Write a row: `array` is the sequence's name in an .npz file, "" in an .npy file."""
        if self._table is None:
            self._names = class_names(self._labels(), len(logits))
            with writing(self.path):
                self._table = self._open()
        label, score = best_class(logits, self._names)
        row: dict[str, Value] = {"file": _text(file), "array": array or None, "steps": steps}
        row |= {"label": label, "score": score}
        scores = zip(self._names, map(_number, logits), strict=True)
        with writing(self.path):
            self._table.add(row | {f"logits.{name}": score for name, score in scores})

    def _open(self) -> Table:
        columns: dict[str, type] = {"file": str, "array": str, "steps": int, "label": str}
        columns |= {"score": float} | {f"logits.{name}": float for name in self._names}
        return open_table(self._temporary, self.path.suffix, columns)

    def _discard(self) -> None:
        with suppress(OSError):  # what could not be written still can't be
            if self._table is not None:
                self._table.close()
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)


def has_scores(path: Path, sequences: Sequence[tuple[Path, str]]) -> bool:
    """Whether a table is there with a row for each of the sequences: (file, name of the array)."""
    try:
        rows = {(row["file"], row["array"] or "") for row in read_table(path)}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return rows.issuperset((_text(file), array) for file, array in sequences)


def _number(value: np.floating) -> float:
    """A float32 with as many digits as tell it from any other."""
    return float(str(value))


def _text(path: Path) -> str:
    """A path as text that every format can hold, whatever bytes its name has."""
    return os.fsencode(path).decode("utf-8", "replace")
