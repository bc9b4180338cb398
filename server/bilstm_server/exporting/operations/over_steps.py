"""Functions of a whole sequence: one of all steps of a value, or of two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import elements
from ..columns import value_of
from ..elements import CONSTANT, Elements
from ..rows import check
from ..steps import is_stepwise, one_grid, trimmed
from ..trace import Call


@dataclass(frozen=True)
class Whole:
    """Fibres [F, K] of which each has all steps of the same columns: [F, columns of a step]."""

    columns: Elements
    order: Elements  # [F, K]: the step of each element


def whole_of(call: Call, fibres: Elements) -> Whole | None:
    """The fibres by steps; None if one does not have all steps of its columns."""
    stepwise = is_stepwise(call.graph, fibres)
    if not stepwise.any() or not (stepwise | (fibres == CONSTANT)).all():
        return None
    rows = elements.row_of(fibres)
    if (rows == rows[:, :1]).all():
        return None
    fibres = trimmed(call.graph, one_grid(call.graph, fibres, call.place), call.place)
    rows = elements.row_of(fibres)
    steps = {call.graph.rows(slot) for slot in elements.slots_in(fibres)}
    if len(steps) != 1 or fibres.shape[1] % min(steps):
        return None
    (count,) = steps
    columns = elements.without_row(fibres)
    order = np.lexsort((columns, rows), axis=1)
    by_step = np.take_along_axis(columns, order, 1).reshape(len(fibres), count, -1)
    of_step = np.take_along_axis(rows, order, 1).reshape(by_step.shape)
    expected = np.arange(count)[None, :, None]
    if (of_step != expected).any() or (by_step != by_step[:, :1]).any():
        return None
    return Whole(by_step[:, 0], rows)


def pooled(call: Call, layer: str, whole: Whole, **fields: Any) -> Elements:
    """What a pooling of each of the fibres gives: [F]. Each must have one column."""
    check(call.graph, whole.columns, call.place)
    columns, groups = np.unique(whole.columns[:, 0], return_inverse=True)
    source = value_of(call.graph, columns, call.place)
    value = call.graph.value(source)
    like = value.per_sequence(value.width)
    slot = call.graph.add(layer, [source], like, call.place, **fields).slot
    return elements.make(slot, 0, groups.reshape(-1))


def softmax_steps(call: Call, whole: Whole, is_log: bool) -> Elements:
    """The softmax of each fibre over its steps, or its logarithm: [F, K]."""
    columns, groups = np.unique(whole.columns[:, 0], return_inverse=True)
    source = value_of(call.graph, columns, call.place)
    value = call.graph.value(source)
    fields: dict[str, Any] = {"log": True} if is_log else {}
    slot = call.graph.add("softmax_steps", [source], value, call.place, **fields).slot
    return elements.make(slot, whole.order, groups.reshape(-1, 1))


def weighted_sum(call: Call, left: Elements, right: Elements) -> Elements | None:
    """Sums over the steps of products of [batch, M, steps] and [batch, N, steps]: [batch, M, N].
    None if the last axis is not all steps of both."""
    one, two = (whole_of(call, side.reshape(-1, side.shape[2])) for side in (left, right))
    if one is None or two is None:
        return None
    if one.columns.shape[1] != 1 or two.columns.shape[1] != 1:
        return None
    if (one.order != one.order[0]).any() or (two.order != one.order[0]).any():
        return None
    columns = [
        whole.columns.reshape(side.shape[:2])
        for whole, side in zip((one, two), (left, right), strict=True)
    ]
    weights = _weights_side(call, columns)
    made = _sums(call, columns[1 - weights], columns[weights])  # [batch, weights, values]
    return made if weights == 0 else made.transpose(0, 2, 1)


def _weights_side(call: Call, columns: Sequence[Elements]) -> int:
    """Which of the two has the weights: a softmax, or else the narrower one."""
    for side in (0, 1):
        nodes = [call.graph.slots[slot].node for slot in elements.slots_in(columns[side])]
        if all(node is not None and node.type == "softmax_steps" for node in nodes):
            return side
    return 0 if columns[0].shape[1] <= columns[1].shape[1] else 1


def _sums(call: Call, values: Elements, weights: Elements) -> Elements:
    """[batch, D], [batch, heads] -> [batch, heads, D]"""
    batch, heads = weights.shape
    if batch > 1 and heads == 1:
        if (values == values[0]).all():
            return _sum(call, values[0], weights[:, 0]).reshape(batch, 1, -1)
        split = _sum(call, values.reshape(-1), weights[:, 0], split=True)
        return split.reshape(batch, 1, -1)
    made = [_sum(call, x, w).reshape(heads, -1) for x, w in zip(values, weights, strict=True)]
    return np.stack(made)


def _sum(call: Call, values: Elements, weights: Elements, split: bool = False) -> Elements:
    """[D], [heads] -> [heads * D], or with `split` [D]"""
    inputs = [value_of(call.graph, columns, call.place) for columns in (values, weights)]
    width = len(values) * (1 if split else len(weights))
    like = call.graph.value(inputs[0]).per_sequence(width)
    fields: dict[str, Any] = {"split": True} if split else {}
    slot = call.graph.add("weighted_sum", inputs, like, call.place, **fields).slot
    return elements.make(slot, 0, np.arange(width))
