"""Values of neighbouring steps side by side, where an operation reads several steps at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..model.layers.values import Window
from . import elements
from .columns import value_of, with_numbers
from .elements import CONSTANT, Elements
from .graph import Graph
from .refusals import Place, Refusal
from .steps import covers, fields_of, is_stepwise, one_grid, one_row, trimmed

_FEWEST_WINDOWS = 3  # or it is one step after the other


@dataclass(frozen=True)
class Steps:
    """The columns of one step of a value, and whether they come from the last step to the first."""

    columns: Elements
    is_reversed: bool = False


def steps_of(
    graph: Graph, rows: Elements, known: NDArray[np.float64], place: Place
) -> Steps | None:
    """What the elements [steps, K] are at each step; None if there is no layer for what they are.
    `known` are the numbers of those that are constant."""
    rows = _with_constant_columns(graph, rows, known)
    rows = _in_one_direction(graph, rows, place)
    try:
        narrow = trimmed(graph, one_grid(graph, rows, place), place)
    except Refusal:
        narrow = rows
    direction, columns = covers(graph, narrow), one_row(narrow)
    if direction and columns is not None:
        return Steps(columns, direction < 0)
    spliced = _spliced(graph, rows, known, place)
    if spliced is None and columns is not None and not is_stepwise(graph, rows).any():
        spliced = _at_each_step(graph, columns, len(rows), place)
    return None if spliced is None else Steps(spliced)


def _at_each_step(graph: Graph, columns: Elements, steps: int, place: Place) -> Elements | None:
    """Columns of a sequence repeated for each of so many steps: beside those of a value of steps,
    which are cut off again."""
    for beside, slot in enumerate(graph.slots):
        value = slot.value
        if not value.per_step or value.ids or slot.refusal or graph.rows(beside) != steps:
            continue
        own = value_of(graph, columns, place)
        width = value.width + graph.value(own).width
        joined = graph.add("concat", [beside, own], graph.like(beside, width=width), place).slot
        return elements.make(joined, 0, np.arange(value.width, width))
    return None


def reversed_steps(graph: Graph, slot: int, place: Place) -> int:
    """The value with its steps from the last to the first."""
    return graph.add("reverse_steps", [slot], graph.value(slot), place).slot


def _in_one_direction(graph: Graph, rows: Elements, place: Place) -> Elements:
    """The elements in values of one order of steps, where some have the other one."""
    at = elements.row_of(rows)
    backward = is_stepwise(graph, rows) & (at == len(rows) - 1 - np.arange(len(rows))[:, None])
    columns = backward.all(axis=0) & (len(rows) > 1)
    if not columns.any() or not is_stepwise(graph, rows)[:, ~columns].any():
        return rows
    result = rows.copy()
    for slot in elements.slots_in(rows[:, columns]):
        if graph.rows(slot) != len(rows):
            return rows
        mine = (elements.slot_of(rows) == slot) & columns
        turned = elements.make(
            reversed_steps(graph, slot, place), len(rows) - 1 - at, elements.column_of(rows)
        )
        result[mine] = turned[mine]
    return result


def _with_constant_columns(graph: Graph, rows: Elements, known: NDArray[np.float64]) -> Elements:
    fixed = (rows == CONSTANT).all(axis=0) & (known == known[:1]).all(axis=0)
    return with_numbers(graph, rows, known, np.broadcast_to(fixed, rows.shape))


def _spliced(
    graph: Graph, rows: Elements, known: NDArray[np.float64], place: Place
) -> Elements | None:
    fixed = rows == CONSTANT
    if (known[fixed] != 0).any() or len(rows) < _FEWEST_WINDOWS:
        return None
    stepwise = is_stepwise(graph, rows)
    if not (stepwise | fixed)[:, stepwise.any(axis=0)].all() or not stepwise.any():
        return None
    grids = {graph.value(slot).grid for slot in elements.slots_in(rows[stepwise])}
    if len(grids) != 1:
        return None
    placed = _offsets(rows, stepwise)
    first = stepwise.argmax(axis=0)
    columns = elements.without_row(rows)[first, np.arange(rows.shape[1])]
    if placed is None or (np.where(fixed, columns, elements.without_row(rows)) != columns).any():
        return None
    stride, offsets = placed
    count = graph.rows(int(elements.slot_of(rows[stepwise])[0]))
    at = stride * np.arange(len(rows))[:, None] + offsets
    if (fixed != ((at < 0) | (at >= count)))[:, stepwise.any(axis=0)].any():
        return None
    window = _window(len(rows), stride, offsets[stepwise.any(axis=0)], count)
    result: Elements = np.array(columns)
    for slot in elements.slots_in(rows[stepwise]):
        mine = elements.slot_of(columns) == slot
        joined = _splice(graph, slot, window, place)
        if graph.rows(joined) != len(rows):
            return None
        taps = (offsets[mine] + window.left) * graph.value(slot).width
        result[mine] = elements.make(joined, 0, taps + elements.column_of(columns[mine]))
    return result


def _offsets(rows: Elements, stepwise: np.ndarray) -> tuple[int, Elements] | None:
    """The stride, and the step of each column in the first row; None if there is no such."""
    at = elements.row_of(rows)
    counts = stepwise.sum(axis=0)
    column = int(counts.argmax())
    its = np.flatnonzero(stepwise[:, column])
    if len(its) < 2:
        return None
    stride = int(at[its[1], column] - at[its[0], column])
    if stride < 1 or its[1] != its[0] + 1:
        return None
    first = stepwise.argmax(axis=0)
    offsets = at[first, np.arange(rows.shape[1])] - stride * first
    expected = stride * np.arange(len(rows))[:, None] + offsets
    is_regular = bool((at == expected)[stepwise].all())
    return (stride, np.asarray(offsets)) if is_regular else None


def _window(rows: int, stride: int, offsets: Elements, count: int) -> Window:
    """The window of so many rows of `count` steps."""
    left = max(0, -int(offsets.min()))
    kernel = int(offsets.max()) + left + 1
    right = (rows - 1) * stride + kernel - left - count  # or up to stride - 1 more
    if right + stride - 1 < 0:
        kernel -= right + stride - 1
    return Window(kernel, stride, 1, left, max(right, 0))


def _splice(graph: Graph, slot: int, window: Window, place: Place) -> int:
    width = window.kernel * graph.value(slot).width
    value = graph.window(slot, window, width)
    return graph.add("splice", [slot], value, place, **fields_of(window)).slot


def windows_of(graph: Graph, fibres: Elements, place: Place) -> tuple[Elements, Elements] | None:
    """Fibres [F, K] that read several steps, as such of values that have these side by side, and
    the row of each. None if they are no windows."""
    stepwise = is_stepwise(graph, fibres)
    rows = elements.row_of(fibres)
    base = rows[np.arange(len(fibres)), stepwise.argmax(axis=1)]
    offsets = np.where(stepwise, rows - base[:, None], 0)
    lowest, highest = int(offsets.min()), int(offsets.max())
    slots = elements.slots_in(fibres[stepwise])
    count = graph.rows(slots[0])
    is_few = len(np.unique(base)) < _FEWEST_WINDOWS
    if is_few or highest - lowest >= count // 2 or not stepwise.any(axis=1).all():
        return None
    window = Window(highest - lowest + 1)
    result = fibres.copy()
    for slot in slots:
        mine = elements.slot_of(fibres) == slot
        taps = (offsets[mine] - lowest) * graph.value(slot).width
        row = np.broadcast_to((base + lowest)[:, None], fibres.shape)[mine]
        joined = _splice(graph, slot, window, place)
        result[mine] = elements.make(joined, row, taps + elements.column_of(fibres[mine]))
    return result, base + lowest
