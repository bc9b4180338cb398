"""Where one number of a tensor comes from, as an integer: a value of the graph, a row and a column.

Every tensor of a recording that depends on an input has such an integer for each of its numbers.
What only moves numbers (views, transposes, concatenation, indexing, padding) moves these integers
alike, so that no bookkeeping of shapes is needed; what computes reads them, and sees what it is
given.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Elements = NDArray[np.int64]

CONSTANT = -1
"""A number that depends on no input: the tensor itself has it."""

_COLUMN_BITS = 22
_ROW_BITS = 22
_COLUMNS = (1 << _COLUMN_BITS) - 1
_ROWS = ((1 << _ROW_BITS) - 1) << _COLUMN_BITS


def make(slot: Any, row: Any, column: Any) -> Elements:
    """The elements at these rows and columns of a value; arrays broadcast."""
    slot, row, column = (np.asarray(part, np.int64) for part in (slot, row, column))
    made: Elements = (slot << (_ROW_BITS + _COLUMN_BITS)) | (row << _COLUMN_BITS) | column
    return made


def slot_of(elements: Elements) -> Elements:
    """The number of the value that each belongs to; -1 for constants."""
    return elements >> (_ROW_BITS + _COLUMN_BITS)


def row_of(elements: Elements) -> Elements:
    """The row of each: its step, or 0 where its value has one row for a sequence."""
    return (elements & _ROWS) >> _COLUMN_BITS


def column_of(elements: Elements) -> Elements:
    """The column of each."""
    return elements & _COLUMNS


def without_row(elements: Elements) -> Elements:
    """The elements of the same columns in row 0."""
    return np.where(elements == CONSTANT, CONSTANT, elements & ~_ROWS)


def slots_in(elements: Elements) -> list[int]:
    """The values that any of these belong to, in order."""
    return [int(slot) for slot in np.unique(slot_of(elements)) if slot >= 0]
