"""Reads operands as rows: which of an operation's fibres belong to which step.

An operation computes each of its results from some numbers of its operands: a fibre. All fibres of
one step, [groups, size], are the same columns at every step, and become one value of the graph.
Row layers are always computed for whole values, although an operation may need some steps only: so
a loop over steps becomes one layer, and what nothing reads is left out in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from . import elements
from .elements import CONSTANT, Elements
from .graph import Graph
from .refusals import Place, Refusal
from .splicing import windows_of
from .steps import end, is_stepwise, one_grid


@dataclass(frozen=True)
class Aligned:
    """Fibres [F, size] by rows: the columns of one row, and where each fibre is."""

    columns: Elements  # [groups, size]
    keys: Elements  # [groups]
    rows: Elements  # [F]
    groups: Elements  # [F]

    @property
    def number(self) -> int:
        """How many fibres a row has."""
        return len(self.columns)

    def of(self, slot: int, size: int = 1) -> Elements:
        """The results [F, size] in a value [rows, groups * size]."""
        columns = self.groups[:, None] * size + np.arange(size)
        return elements.make(slot, self.rows[:, None], columns)


Emit = Callable[[Aligned], int]


def row_wise(
    graph: Graph, fibres: Elements, place: Place, emit: Emit, keys: Elements | None = None
) -> Elements:
    """The results [F, size] of a function of fibres [F, K] each by itself.

    `emit` makes the value [rows, groups * size] of the columns that it gets. Fibres of numbers
    alone stay such. `keys` [F] are what fibres of the same columns may differ by.
    """
    keys = np.zeros(len(fibres), np.int64) if keys is None else keys
    results: Elements | None = None
    for part in _kinds(graph, fibres):
        aligned = align(graph, fibres[part], place, keys[part])
        slot = emit(aligned)
        size = graph.value(slot).width // aligned.number
        if results is None:
            results = np.full((len(fibres), size), CONSTANT)
        results[part] = aligned.of(slot, size)
    return np.full((len(fibres), 1), CONSTANT) if results is None else results


def align(graph: Graph, fibres: Elements, place: Place, keys: Elements) -> Aligned:
    """Fibres of one kind, all per step or all per sequence, by rows."""
    check(graph, fibres, place)
    fibres = one_grid(graph, fibres, place)
    stepwise = is_stepwise(graph, fibres)
    rows = elements.row_of(fibres)
    if stepwise.any():
        lowest = np.where(stepwise, rows, np.iinfo(np.int64).max).min(axis=1)
        highest = np.where(stepwise, rows, -1).max(axis=1)
        if (lowest != highest).any():
            fibres, lowest = _several(graph, fibres, stepwise, place)
    else:
        lowest = np.zeros(len(fibres), np.int64)
    keyed = np.column_stack([elements.without_row(fibres), keys])
    unique, groups = _unique(keyed)
    _check_positions(unique, groups, lowest, place)
    return Aligned(unique[:, :-1], unique[:, -1], lowest, groups)


def _unique(keyed: Elements) -> tuple[Elements, Elements]:
    """The rows that differ, and which of them each is: by column, but as they come where an
    operand joins several values."""
    unique, first, which = np.unique(keyed, axis=0, return_index=True, return_inverse=True)
    slots = elements.slot_of(unique[:, :-1])
    if (slots == slots[0]).all():
        return unique, which.reshape(-1)
    order = np.argsort(first)
    return unique[order], np.argsort(order)[which.reshape(-1)]


def _check_positions(unique: Elements, groups: Elements, rows: Elements, place: Place) -> None:
    """Raise if steps have numbers of their own: the same columns, but other keys at other rows."""
    if len(np.unique(unique[:, :-1], axis=0)) == len(unique) or (rows == rows[0]).all():
        return
    present = np.unique(np.column_stack([rows, groups]), axis=0)
    _, counts = np.unique(present[:, 0], return_counts=True)
    if (counts != len(unique)).any():
        raise Refusal(
            "has numbers of its own for each position, as encodings of positions and windows of "
            "weights do; there is no layer for these",
            place,
        )


def check(graph: Graph, fibres: Elements, place: Place) -> None:
    """Raise the refusal of a value among these that could not be computed, or has no floats."""
    raise_refusal(graph, fibres)
    for slot in elements.slots_in(fibres):
        if graph.value(slot).ids:
            raise Refusal(
                "computes with ids as if they were numbers; only an embedding reads them", place
            )


def raise_refusal(graph: Graph, fibres: Elements) -> None:
    """Raise the refusal of a value among these that could not be computed."""
    for slot in elements.slots_in(fibres):
        refusal = graph.slots[slot].refusal
        if refusal is not None:
            raise refusal


def _kinds(graph: Graph, fibres: Elements) -> Iterator[np.ndarray]:
    """The fibres that have an element of a step, then the others; not those of numbers alone."""
    stepwise = is_stepwise(graph, fibres).any(axis=1)
    computed = (fibres != CONSTANT).any(axis=1)
    for part in (computed & stepwise, computed & ~stepwise):
        if part.any():
            yield part


def _several(
    graph: Graph, fibres: Elements, stepwise: np.ndarray, place: Place
) -> tuple[Elements, Elements]:
    """Fibres that read several steps as such of one row, and the rows: of first and last steps as
    those of sequences, of neighbours as windows."""
    ends = _ends(graph, fibres, place)
    if ends is not None:
        return ends, np.zeros(len(fibres), np.int64)
    fibres, stepwise = _one_end(graph, fibres, stepwise, place)
    rows = elements.row_of(fibres)
    first = rows[np.arange(len(fibres)), stepwise.argmax(axis=1)]
    if (rows == first[:, None])[stepwise].all():
        return fibres, first
    windows = windows_of(graph, fibres, place)
    if windows is None:
        raise Refusal(
            "mixes different steps, which only an LSTM, a convolution, a pooling or an attention "
            "with one query does here",
            place,
        )
    return windows


def _one_end(
    graph: Graph, fibres: Elements, stepwise: np.ndarray, place: Place
) -> tuple[Elements, np.ndarray]:
    """The fibres, with operands of which all read the last step, or the first one, as such of
    sequences: a query, say."""
    result = fibres.copy()
    for column in range(fibres.shape[1]):
        rows = np.unique(elements.row_of(fibres[:, column]))
        if len(rows) == 1 and stepwise[:, column].all() and len(fibres) > 1:
            its = _ends(graph, fibres[:, [column]], place)
            if its is not None:
                result[:, [column]] = its
    return result, is_stepwise(graph, result)


def _ends(graph: Graph, fibres: Elements, place: Place) -> Elements | None:
    """Elements of first and last steps as such of sequences; None if there are others."""
    result = fibres.copy()
    rows = elements.row_of(fibres)
    for slot in elements.slots_in(fibres):
        if not graph.value(slot).per_step:
            continue
        mine = elements.slot_of(fibres) == slot
        last = graph.rows(slot) - 1
        if not np.isin(rows[mine], (0, last)).all():
            return None
        for row in {0, last} & set(rows[mine].tolist()):
            chosen = mine & (rows == row)
            made = elements.make(end(graph, slot, row, place), 0, elements.column_of(fibres))
            result[chosen] = made[chosen]
    return result
