"""Which steps of a value are used: all, its ends, or without some at the ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..model.layers.values import Window
from . import elements
from .elements import CONSTANT, Elements
from .graph import Graph, Node
from .refusals import Place, Refusal

WINDOWS = ("conv1d", "max_pool1d", "avg_pool1d", "splice")

# Layers whose result at a step depends on that step alone.
ROWS = frozenset(
    {
        "embedding",
        "linear",
        "layer_norm",
        "group_norm",
        "rms_norm",
        "batch_norm",
        "activation",
        "prelu",
        "softmax",
        "concat",
        "add",
        "subtract",
        "divide",
        "multiply",
        "scale",
        "sum_directions",
        "columns",
        "permute",
        "reduce",
        "normalize",
        "dot",
        "argmax",
    }
)


def end(graph: Graph, slot: int, row: int, place: Place) -> int:
    """The value at the first step, or at the last one."""
    last = graph.rows(slot) - 1
    if row not in (0, last):
        raise Refusal(f"takes step {row} alone; there are layers for the first and the last", place)
    value = graph.value(slot)
    layer = "last" if row == last else "first"
    return graph.add(layer, [slot], value.per_sequence(value.width), place).slot


def trimmed(graph: Graph, fibres: Elements, place: Place) -> Elements:
    """The elements in values that have only the steps that are used, where these are neighbours."""
    fibres = fibres.copy()
    for slot in elements.slots_in(fibres):
        if not graph.value(slot).per_step:
            continue
        mine = elements.slot_of(fibres) == slot
        rows = np.unique(elements.row_of(fibres[mine]))
        start, stop = int(rows[0]), int(rows[-1]) + 1
        whole = (start, stop) == (0, graph.rows(slot))
        if whole or len(rows) == 1 or len(rows) != stop - start:
            continue
        narrow = without_ends(graph, slot, start, graph.rows(slot) - stop, place)
        moved = elements.make(narrow, elements.row_of(fibres) - start, elements.column_of(fibres))
        fibres[mine] = moved[mine]
    return fibres


def without_ends(graph: Graph, slot: int, first: int, last: int, place: Place) -> int:
    """The value without so many of its first and last steps."""
    if first == last == 0 or not graph.value(slot).per_step:
        return slot
    node = graph.slots[slot].node
    if node is not None and node.type in ROWS - {"embedding"}:
        inputs = [without_ends(graph, source, first, last, place) for source in node.inputs]
        own = graph.value(slot)
        value = replace(graph.like(*inputs, width=own.width), ids=own.ids)
        return graph.add(node.type, inputs, value, node.place, node.tensors, **node.fields).slot
    if node is not None and node.type in WINDOWS:
        narrow = _narrow_window(graph, node, first, last)
        if narrow is not None:
            return narrow
    return _cut(graph, slot, first, last, place)


def _cut(graph: Graph, slot: int, first: int, last: int, place: Place) -> int:
    """Windows of as many steps as are left out and one more, of which that one is taken."""
    window, width = Window(first + last + 1), graph.value(slot).width
    value = graph.window(slot, window, window.kernel * width)
    spliced = graph.add("splice", [slot], value, place, **fields_of(window)).slot
    like = graph.like(spliced, width=width)
    start, stop = first * width, (first + 1) * width
    return graph.add("columns", [spliced], like, place, start=start, stop=stop).slot


def _narrow_window(graph: Graph, node: Node, first: int, last: int) -> int | None:
    window = window_of(node.fields)
    left = window.left - first * window.stride
    right = window.right - last * window.stride
    if left < 0 or right < 0:
        return None
    narrow = window._replace(left=left, right=right)
    (source,) = node.inputs
    value = graph.window(source, narrow, graph.value(node.slot).width)
    kept = {name: value for name, value in node.fields.items() if name != "padding"}
    fields = kept | fields_of(narrow)
    return graph.add(node.type, [source], value, node.place, node.tensors, **fields).slot


def fields_of(window: Window) -> dict[str, Any]:
    """How a config has a window; what it need not say is left out."""
    kernel, stride, dilation, left, right = window
    fields: dict[str, Any] = {"kernel": kernel, "stride": stride, "dilation": dilation}
    fields = {name: value for name, value in fields.items() if name == "kernel" or value > 1}
    if left or right:
        fields["padding"] = left if left == right else [left, right]
    return fields


def window_of(fields: Mapping[str, Any]) -> Window:
    """The window that a config has so."""
    padding = fields.get("padding", 0)
    left, right = padding if isinstance(padding, list) else (padding, padding)
    return Window(fields["kernel"], fields.get("stride", 1), fields.get("dilation", 1), left, right)


def covers(graph: Graph, steps: Elements) -> int:
    """1 if the elements [rows, K] have each row's at its step, -1 if in reversed order, 0 if
    neither; those of sequences do not count."""
    slots = elements.slot_of(steps)
    rows = elements.row_of(steps)
    directions = set()
    for slot in elements.slots_in(steps):
        if not graph.value(slot).per_step:
            continue
        mine = slots == slot
        expected = np.broadcast_to(np.arange(len(steps))[:, None], steps.shape)
        if graph.rows(slot) != len(steps):
            return 0
        if (rows[mine] == expected[mine]).all():
            directions.add(1)
        elif (rows[mine] == expected[::-1][mine]).all():
            directions.add(-1)
        else:
            return 0
    return directions.pop() if len(directions) == 1 else 0


def one_row(steps: Elements) -> Elements | None:
    """The columns [K] that the elements [rows, K] have in each row, or None if these differ."""
    columns = elements.without_row(steps)
    same = (columns == columns[0]).all() and not (columns == CONSTANT).any()
    return columns[0] if same else None


def is_stepwise(graph: Graph, fibres: Elements) -> np.ndarray:
    """Which of the elements belong to values that have a row for each step."""
    result = np.zeros(fibres.shape, bool)
    slots = elements.slot_of(fibres)
    for slot in elements.slots_in(fibres):
        if graph.value(slot).per_step:
            result |= slots == slot
    return result


def one_grid(graph: Graph, fibres: Elements, place: Place) -> Elements:
    """The fibres with values of one number of rows: some have lost steps at their ends."""
    slots = [slot for slot in elements.slots_in(fibres) if graph.value(slot).per_step]
    if len({graph.value(slot).grid for slot in slots}) <= 1:
        return fibres
    fibres = trimmed(graph, fibres, place)
    slots = [slot for slot in elements.slots_in(fibres) if graph.value(slot).per_step]
    if len({graph.value(slot).grid for slot in slots}) > 1:
        raise Refusal("joins values whose numbers of steps are not the same", place)
    return fibres
