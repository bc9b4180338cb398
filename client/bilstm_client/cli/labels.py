"""Labels of sequences and their steps by name, and a row for each in a table. Knows no server."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from ..types import Encoding
from .files import FileError
from .result_tables import ResultTable
from .tables import Columns, Value

_SHOWN = 8  # of a sequence's labels, in one line


def names_in(encoding: Encoding, output: str) -> Iterator[str]:
    """The names of the labels that an output has, in order; their numbers where they have none."""
    names = encoding.names_of(output)
    for label in encoding[output].reshape(-1).tolist():
        yield names[label] if 0 <= label < len(names) else str(label)


def shown_labels(encoding: Encoding, output: str) -> str:
    """The first labels of an output, in one line."""
    first = list(islice(names_in(encoding, output), _SHOWN + 1))
    return " ".join([*first[:_SHOWN], *(["…"] if len(first) > _SHOWN else [])])


class LabelTable(ResultTable):
    """A table of labels: a row for each row of the output, and its place among them where a
    sequence may have several."""

    def __init__(self, path: Path, output: str):
        super().__init__(path)
        self._output = output

    def _columns(self, encoding: Encoding) -> Columns:
        labels = encoding[self._output]
        if labels.dtype.kind != "i":
            raise FileError(f"{self.path}: takes labels, and {self._output} are none")
        return {"row": int, "label": str} if labels.ndim else {"steps": int, "label": str}

    def _rows(self, steps: int, encoding: Encoding) -> Iterator[dict[str, Value]]:
        names = names_in(encoding, self._output)
        if not encoding[self._output].ndim:
            yield {"steps": steps, "label": next(names)}
            return
        for row, name in enumerate(names):
            yield {"row": row, "label": name}
