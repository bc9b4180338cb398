"""A value that has given columns of others, in a given order, and the layers that make it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from . import elements
from .elements import Elements
from .graph import Graph
from .refusals import Place, Refusal

_MOST_PIECES = 32  # of a concatenation; beyond, a product with a matrix of ones and zeros
_MOST_SELECTED = 2**24  # numbers of such a matrix


def value_of(graph: Graph, columns: Elements, place: Place) -> int:
    """A value that has these columns, one beside the other: rows are not looked at."""
    slots = elements.slot_of(columns)
    numbers = np.array([graph.slots[slot].number is not None for slot in slots])
    if numbers.any():
        return _selection(graph, columns, place)
    cuts = np.flatnonzero(np.diff(slots)) + 1
    runs = np.split(columns, cuts)
    distinct = list(dict.fromkeys(slots.tolist()))
    if len(runs) > len(distinct):
        return _columns_of_one(graph, *_joined(graph, columns, distinct, place), place)
    values = [
        _columns_of_one(graph, int(slots[at]), elements.column_of(run), place)
        for at, run in zip([0, *cuts], runs, strict=True)
    ]
    return values[0] if len(values) == 1 else _concat(graph, values, place)


def with_numbers(
    graph: Graph, fibres: Elements, known: NDArray[np.float64], chosen: NDArray[np.bool_]
) -> Elements:
    """The elements with values of the graph for the chosen constants, whose numbers are `known`."""
    fibres = fibres.copy()
    for number in np.unique(known[chosen]):
        element = elements.make(graph.number(float(number)), 0, 0)
        fibres[chosen & (known == number)] = element
    return fibres


def repeated(columns: Elements) -> Elements:
    """One column in place of many that are all the same: add and multiply take it for all."""
    return columns[:1] if (columns == columns[0]).all() else columns


def _joined(
    graph: Graph, columns: Elements, slots: list[int], place: Place
) -> tuple[int, Elements]:
    """All values of which there are columns as one, and these columns in it."""
    widths = [graph.value(slot).width for slot in slots]
    index = elements.column_of(columns).copy()
    for slot, start in zip(slots, np.cumsum([0, *widths[:-1]]), strict=True):
        index[elements.slot_of(columns) == slot] += start
    return _concat(graph, slots, place) if len(slots) > 1 else slots[0], index


def _columns_of_one(graph: Graph, slot: int, index: Elements, place: Place) -> int:
    width = graph.value(slot).width
    if len(index) == width and (index == np.arange(width)).all():
        return slot
    start, stop = int(index.min()), int(index.max()) + 1
    if len(index) == stop - start and len(np.unique(index)) == len(index):
        part = _slice(graph, slot, start, stop, place)
        form = _permutation(index - start)
        if form is not None:
            shape, order = form
            if order == sorted(order):
                return part
            like = graph.like(part, width=len(index))
            return graph.add("permute", [part], like, place, shape=shape, order=order).slot
    pieces = np.split(index, np.flatnonzero(np.diff(index) != 1) + 1)
    if len(pieces) > _MOST_PIECES:
        return _selection(graph, elements.make(slot, 0, index), place)
    values = [_slice(graph, slot, int(p[0]), int(p[-1]) + 1, place) for p in pieces]
    return values[0] if len(values) == 1 else _concat(graph, values, place)


def _slice(graph: Graph, slot: int, start: int, stop: int, place: Place) -> int:
    if (start, stop) == (0, graph.value(slot).width):
        return slot
    like = graph.like(slot, width=stop - start)
    return graph.add("columns", [slot], like, place, start=start, stop=stop).slot


def _concat(graph: Graph, values: list[int], place: Place) -> int:
    like = graph.like(*values, width=sum(graph.value(value).width for value in values))
    return graph.add("concat", values, like, place).slot


def _permutation(index: Elements) -> tuple[list[int], list[int]] | None:
    """The shape and the order of its axes that make arange(n) this permutation."""
    sizes: list[int] = []
    strides: list[int] = []
    rest = index
    while len(rest) > 1:
        stride = int(rest[1] - rest[0])
        breaks = np.flatnonzero(np.diff(rest) != stride)
        size = int(breaks[0]) + 1 if len(breaks) else len(rest)
        if stride <= 0 or len(rest) % size:
            return None
        blocks = rest.reshape(-1, size)
        if not (blocks - blocks[:, :1] == stride * np.arange(size)).all():
            return None
        sizes.insert(0, size)
        strides.insert(0, stride)
        rest = blocks[:, 0]
    outermost_first = sorted(range(len(sizes)), key=lambda axis: -strides[axis])
    shape = [sizes[axis] for axis in outermost_first]
    order = [outermost_first.index(axis) for axis in range(len(sizes))]
    made = np.arange(len(index)).reshape(shape).transpose(order).ravel()
    return (shape, order) if (made == index).all() else None


def _selection(graph: Graph, columns: Elements, place: Place) -> int:
    """By a product with ones and zeros, which is exact."""
    slots = elements.slots_in(columns)
    sources = [slot for slot in slots if graph.slots[slot].number is None]
    widths = [graph.value(slot).width for slot in sources]
    if len(columns) * sum(widths) > _MOST_SELECTED:
        raise Refusal(f"puts {len(columns)} columns in an order of their own", place)
    weight = torch.zeros(len(columns), sum(widths))
    bias = torch.zeros(len(columns))
    starts = dict(zip(sources, np.cumsum([0, *widths[:-1]]), strict=True))
    for row, (slot, column) in enumerate(
        zip(elements.slot_of(columns), elements.column_of(columns), strict=True)
    ):
        number = graph.slots[slot].number
        if number is None:
            weight[row, starts[int(slot)] + column] = 1
        else:
            bias[row] = number
    source = sources[0] if len(sources) == 1 else _concat(graph, sources, place)
    tensors = {"weight": weight} | ({"bias": bias} if bias.any() else {})
    like = graph.like(source, width=len(columns))
    fields = {"width": len(columns), "bias": "bias" in tensors}
    return graph.add("linear", [source], like, place, tensors, **fields).slot
