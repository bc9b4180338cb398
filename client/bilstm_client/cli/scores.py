"""Scores of sequences: which class is best, and a row for each sequence in a table.

Knows no server. A score is what the model's head gives for a class: a logit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ..types import Array, Encoding
from .files import FileError
from .result_tables import ResultTable
from .tables import Columns, Value


def class_names(labels: Sequence[str], classes: int) -> Sequence[str]:
    """A name for each class: the model's label, or a number where labels don't tell them apart."""
    tells_apart = len(set(labels)) == len(labels) == classes
    return labels if tells_apart else [str(number) for number in range(classes)]


def best_class(logits: Array, names: Sequence[str]) -> tuple[str | None, float]:
    """The name of the class with the highest score, and the score; (None, NaN) with a NaN."""
    best = int(np.argmax(logits))  # of a NaN, if there is one
    score = _number(logits[best])
    return None if math.isnan(score) else names[best], score


class ScoreTable(ResultTable):
    """A table of scores: a row for each sequence."""

    def __init__(self, path: Path, labels: Callable[[], Sequence[str]]):
        """`labels` gives those of the model; it is asked when the first row comes."""
        super().__init__(path)
        self._labels = labels
        self._names: Sequence[str] = ()

    def _columns(self, encoding: Encoding) -> Columns:
        if encoding.logits.ndim != 1:
            raise FileError(
                f"{self.path}: takes scores of sequences, and the model has them for each step; "
                "with --outputs labels, the labels of all steps are written"
            )
        self._names = class_names(self._labels(), len(encoding.logits))
        columns: dict[str, type] = {"steps": int, "label": str, "score": float}
        return columns | {f"logits.{name}": float for name in self._names}

    def _rows(self, steps: int, encoding: Encoding) -> Iterator[dict[str, Value]]:
        label, score = best_class(encoding.logits, self._names)
        row: dict[str, Value] = {"steps": steps, "label": label, "score": score}
        scores = zip(self._names, map(_number, encoding.logits), strict=True)
        yield row | {f"logits.{name}": score for name, score in scores}


def _number(value: np.floating) -> float:
    """A float32 with as many digits as tell it from any other."""
    return float(str(value))
