"""Sums, means, extremes, norms and softmaxes: over the columns of each step, or over the steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .. import elements
from ..columns import value_of
from ..elements import CONSTANT, Elements
from ..refusals import Refusal
from ..rows import Aligned
from ..trace import Call, Numbers, operation
from .numbers import Operand
from .over_steps import Whole, pooled, softmax_steps, whole_of
from .pointwise import extreme as of_two

# The number that changes nothing, of padding that a lone sequence may still have.
_NEUTRAL = {"sum": 0.0, "max": -np.inf, "min": np.inf}


class Fibres:
    """An operand's numbers by what an operation reduces: [results, reduced]."""

    def __init__(self, operand: Operand, dims: Any):
        shape = operand.where.shape
        axes = axes_of(dims, len(shape))
        kept = [axis for axis in range(len(shape)) if axis not in axes]
        order = [*kept, *axes]
        self._kept = [shape[axis] for axis in kept]
        self._reduced = [shape[axis] for axis in axes]
        self._order = order
        count = int(np.prod(self._reduced))
        self.where: Elements = operand.where.transpose(order).reshape(-1, count)
        self.numbers: Numbers = (
            np.broadcast_to(operand.numbers, shape).transpose(order).reshape(-1, count)
        )

    def whole(self, made: Elements) -> Elements:
        """Results [F, K], one for each number, in the operand's shape."""
        return made.reshape([*self._kept, *self._reduced]).transpose(np.argsort(self._order))


def axes_of(dims: Any, count: int) -> list[int]:
    if dims is None or dims == []:
        return list(range(count))
    dims = dims if isinstance(dims, list | tuple) else [dims]
    return [dim % count if count else 0 for dim in dims] if count else []


def reduced(call: Call, name: str, fibres: Elements, known: Numbers | None) -> Elements:
    """The sum, mean, maximum or minimum of each fibre: [F]."""
    call.check_values(fibres)
    if name in _NEUTRAL and known is not None:
        fixed = ((fibres == CONSTANT) & (known == _NEUTRAL[name])).all(axis=0)
        fibres, known = fibres[:, ~fixed], known[:, ~fixed]
    if fibres.shape[1] == 1:
        return fibres[:, 0]
    whole = whole_of(call, fibres)
    if whole is None:
        return call.row_wise(fibres, lambda aligned: _reduce(call, name, aligned), known=known)[
            :, 0
        ]
    if whole.columns.shape[1] > 1:
        of_step = call.row_wise(whole.columns, lambda aligned: _reduce(call, name, aligned))
        whole = Whole(of_step, whole.order)
    if name == "prod":
        raise call.refusal("has no layer over steps")
    return pooled(call, name, whole)


def _reduce(call: Call, name: str, aligned: Aligned) -> int:
    groups, size = aligned.columns.shape
    columns = aligned.columns.reshape(-1)
    fields: dict[str, Any] = {"shape": [groups, size], "axis": 1}
    across = aligned.columns.T.reshape(-1)
    if groups > 1 and (np.diff(across) == 1).all():
        columns, fields = across, {"shape": [size, groups], "axis": 0}
    source = value_of(call.graph, columns, call.place)
    like = call.graph.like(source, width=groups)
    return call.graph.add("reduce", [source], like, call.place, function=name, **fields).slot


def over(call: Call, name: str, dims: Any, operand: Operand | None = None) -> Elements:
    """The operand, or `self`, reduced over some axes, in the form of the result."""
    operand = Operand.of(call, call["self"]) if operand is None else operand
    fibres = Fibres(operand, dims)
    result = call.result[0] if isinstance(call.result, tuple) else call.result
    return reduced(call, name, fibres.where, fibres.numbers).reshape(tuple(result.shape))


@operation("sum", "mean", "prod")
def total(call: Call) -> Elements:
    """The sum, mean or product over some axes."""
    return over(call, call.name, call.get("dim"))


@operation("amax", "amin")
def extreme(call: Call) -> Elements:
    """The maximum or minimum over some axes."""
    return over(call, call.name[1:], call["dim"])


@operation("max", "min")
def extreme_and_place(call: Call) -> Elements | tuple[Elements | None, ...]:
    """Of two tensors, of all numbers, or over an axis with its place."""
    if call.arguments.get("other") is not None:
        return of_two(call)
    if "dim" not in call.arguments:
        return over(call, call.name, None)
    values = over(call, call.name, call["dim"])
    try:
        if call.name == "min":
            raise call.refusal("there is no layer for places of minima")
        return values, _argmax(call, call["dim"])
    except Refusal as refusal:  # mostly nobody reads it
        return values, call.trace.refuse(refusal, values.shape)


@operation("argmax")
def argmax(call: Call) -> Elements:
    """The class with the largest score."""
    return _argmax(call, call.get("dim"))


@operation("topk", "sort")
def first_of_all(call: Call) -> tuple[Elements | None, ...]:
    """The largest number and its place, where only one is asked for."""
    if call.name == "sort" or call["k"] != 1 or not call["largest"]:
        call.check_all()
        raise call.refusal("sorting has no layer; leave it to the client")
    return over(call, "max", call["dim"]), _argmax(call, call["dim"])


def _argmax(call: Call, dim: Any) -> Elements:
    fibres = Fibres(Operand.of(call, call["self"]), dim)
    call.check_values(fibres.where)
    if whole_of(call, fibres.where) is not None:
        raise call.refusal("the step with the largest number has no layer; leave it to the client")
    result = call.result[1] if isinstance(call.result, tuple) else call.result
    made = [
        call.row_wise(
            fibres.where[mine],
            lambda aligned: _argmax_layer(call, aligned),
            known=fibres.numbers[mine],
        )
        for mine in by_columns(fibres.where)
    ]
    where = np.full(len(fibres.where), CONSTANT)
    for mine, part in zip(by_columns(fibres.where), made, strict=True):
        where[mine] = part[:, 0]
    for slot in elements.slots_in(where):
        labels = dict(zip(elements.row_of(where), result.reshape(-1).tolist(), strict=True))
        call.trace.labels[slot] = [labels[row] for row in sorted(labels)]
    return where.reshape(tuple(result.shape))


def by_columns(fibres: Elements) -> list[np.ndarray]:
    """Which fibres are of the same columns, for layers that take one such a row."""
    _, which = np.unique(elements.without_row(fibres), axis=0, return_inverse=True)
    which = which.reshape(-1)
    return [which == index for index in range(which.max() + 1)]


def _argmax_layer(call: Call, aligned: Aligned) -> int:
    source = value_of(call.graph, aligned.columns.reshape(-1), call.place)
    value = call.graph.value(source)
    ids = replace(value, width=1, ids=value.width)
    return call.graph.add("argmax", [source], ids, call.place).slot


@operation("_softmax", "_log_softmax", "_safe_softmax", "softmax", "log_softmax")
def softmax(call: Call) -> Elements:
    """The softmax over columns, or over the steps."""
    fibres = Fibres(Operand.of(call, call["self"]), call["dim"])
    where = fibres.where
    call.check_values(where)
    is_log = "log" in call.name
    # What is minus infinity has no weight.
    fixed = ((where == CONSTANT) & np.isneginf(fibres.numbers)).all(axis=0)
    kept = where[:, ~fixed]
    whole = whole_of(call, kept)
    if whole is not None:
        if whole.columns.shape[1] > 1:
            raise call.refusal("is over steps and columns at once, which has no layer")
        made = softmax_steps(call, whole, is_log)
    else:
        made = call.row_wise(
            kept, lambda a: _softmax_layer(call, a, is_log), known=fibres.numbers[:, ~fixed]
        )
    result = np.full(where.shape, CONSTANT)
    result[:, ~fixed] = made
    return fibres.whole(result)


def _softmax_layer(call: Call, aligned: Aligned, is_log: bool) -> int:
    source = value_of(call.graph, aligned.columns.reshape(-1), call.place)
    fields: dict[str, Any] = {"log": True} if is_log else {}
    if aligned.number > 1:
        fields["groups"] = aligned.number
    like = call.graph.like(source, width=call.graph.value(source).width)
    return call.graph.add("softmax", [source], like, call.place, **fields).slot
