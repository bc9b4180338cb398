"""Nodes that compute number by number, or over columns or steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from ..drafts import Array
from .axes import STEPS, Axis, Rows, columns
from .nodes import Node

_JOINS = {"Add": "add", "Mul": "multiply", "Sub": "subtract", "Div": "divide"}


def elementwise(node: Node) -> Rows:
    """Two values, or a value and numbers of the file."""
    x, y = node.inputs[0], node.inputs[1]
    if isinstance(x, Rows) and isinstance(y, Rows):
        return _join(node, x, y)
    if isinstance(x, Rows):
        return _scale(node, x, node.numbers(1))
    return _scale_reversed(node, node.rows(1), node.numbers(0))


def _join(node: Node, x: Rows, y: Rows) -> Rows:
    rank = max(len(x.axes), len(y.axes))
    x, y = (value.with_axes(value.padded(rank)) for value in (x, y))
    axes = [_same(a, b) for a, b in zip(x.axes, y.axes, strict=True)]
    sizes = Rows("", tuple(axes)).columns
    for value in (x, y):
        own = [axis.size for axis, joined in zip(value.axes, axes, strict=True) if not joined.rows]
        if own != sizes and set(own) != {1}:
            raise ValueError(f"computes with columns of shapes {own} and {sizes}")
    return Rows(node.add(_JOINS[node.kind], [x.value, y.value]), tuple(axes))


def _same(a: Axis, b: Axis) -> Axis:
    """What two axes are together: one of size 1 is repeated."""
    if a.rows == b.rows:
        if a.rows:
            return a
        if 1 not in (a.size, b.size) and a.size != b.size:
            raise ValueError(f"computes with {a.size} and {b.size} columns")
        return b if a.size == 1 else a
    for one, other in ((a, b), (b, a)):
        if one.size == 1 and not one.rows:
            return other
    raise ValueError("computes with steps or sequences on one side and columns on the other")


def spread(x: Rows, numbers: Array) -> Array:
    """Numbers of the file, one for each of a value's columns."""
    if numbers.ndim > len(x.axes):
        numbers = numbers.reshape(numbers.shape[numbers.ndim - len(x.axes) :])
    shape = (1,) * (len(x.axes) - numbers.ndim) + numbers.shape
    rows = [i for i, axis in enumerate(x.axes) if axis.rows]
    if any(shape[i] != 1 for i in rows):
        raise ValueError("has numbers for each step or sequence, which is not served")
    numbers = numbers.reshape([size for i, size in enumerate(shape) if i not in rows])
    return np.broadcast_to(numbers, x.columns).flatten()


def _scale(node: Node, x: Rows, numbers: Array) -> Rows:
    if node.kind in ("Add", "Sub"):
        shift = spread(x, numbers if node.kind == "Add" else -numbers)
        return x.with_axes(x.axes, node.add("scale", x.value, {"bias": shift}, weight=False))
    factor = spread(x, numbers if node.kind == "Mul" else 1 / numbers)
    return x.with_axes(x.axes, node.add("scale", x.value, {"weight": factor}, bias=False))


def _scale_reversed(node: Node, x: Rows, numbers: Array) -> Rows:
    if node.kind in ("Add", "Mul"):
        return _scale(node, x, numbers)
    if node.kind == "Sub":
        shift = spread(x, numbers)
        tensors = {"weight": np.full_like(shift, -1), "bias": shift}
        return x.with_axes(x.axes, node.add("scale", x.value, tensors))
    value = node.add("activation", x.value, function="reciprocal")
    value = node.add("scale", value, {"weight": spread(x, numbers)}, bias=False)
    return x.with_axes(x.axes, value)


def function(name: str, **parameters: tuple[str, float]) -> Callable[[Node], Rows]:
    """A node that is one of the activations; its parameters, by name: the attribute, and what it is
    where it is left out."""

    def convert(node: Node) -> Rows:
        x = node.rows()
        fields: dict[str, Any] = {
            field: node.number(attribute, default)
            for field, (attribute, default) in parameters.items()
        }
        return x.with_axes(x.axes, node.add("activation", x.value, function=name, **fields))

    return convert


def power(node: Node) -> Rows:
    x, exponent = node.rows(), node.numbers(1)
    if exponent.size != 1:
        raise ValueError("has several exponents, which is not served")
    value = node.add("activation", x.value, function="power", exponent=float(exponent.item()))
    return x.with_axes(x.axes, value)


def clip(node: Node) -> Rows:
    x = node.rows()
    limits: dict[str, Any] = {}
    for place, name in ((1, "min"), (2, "max")):
        array = node.optional(place)
        limit = node.attribute(name, None) if array is None else array.item()
        if limit is not None:
            limits[name] = float(limit)
    if not limits:
        return x
    return x.with_axes(x.axes, node.add("activation", x.value, function="clamp", **limits))


def softmax(node: Node) -> Rows:
    """Over the last columns, or over the steps."""
    x = node.rows()
    place = x.place(node.attribute("axis", -1 if node.opset >= 13 else 1))
    if node.opset < 13 and place != len(x.axes) - 1:
        raise ValueError("is of several axes at once; export with opset 13 or later")
    is_log = node.kind == "LogSoftmax"
    if x.axes[place].rows == (STEPS,) and not is_log:
        return x.with_axes(x.axes, node.add("softmax_steps", x.value))
    if x.axes[place].rows or any(axis.size != 1 for axis in x.axes[place + 1 :] if not axis.rows):
        raise ValueError("is of another axis than that of the last columns, or of the steps")
    groups = prod(x.columns) // (x.axes[place].size or 1)
    return x.with_axes(x.axes, node.add("softmax", x.value, log=is_log, groups=groups))


def reduce(node: Node) -> Rows:
    """The sum, mean, maximum … over steps, or over columns."""
    x = node.rows()
    function = _REDUCTIONS[node.kind]
    axes = node.axes(1)
    if not axes and node.attribute("noop_with_empty_axes", 0):
        return x
    places = sorted({x.place(axis) for axis in (range(len(x.axes)) if axes is None else axes)})
    for place in reversed(places):
        axis = x.axes[place]
        if axis.rows == (STEPS,):
            value = node.add(function, x.value)
        elif axis.rows:
            raise ValueError("is over sequences, which know nothing of each other")
        elif axis.size == 1:
            value = x.value
        else:
            at = sum(not before.rows for before in x.axes[:place])
            value = node.add("reduce", x.value, shape=x.columns, axis=at, function=function)
        kept = columns(1) if node.attribute("keepdims", 1) else ()
        x = Rows(value, (*x.axes[:place], *kept, *x.axes[place + 1 :]))
    return x


def norm(node: Node) -> Rows:
    """`ReduceL2`: the root of the sum of squares"""
    x = node.rows()
    squares = x.with_axes(x.axes, node.add("activation", x.value, function="square"))
    sums = reduce(replace(node, kind="ReduceSum", inputs=[squares, *node.inputs[1:]]))
    return sums.with_axes(sums.axes, node.add("activation", sums.value, function="sqrt"))


def argmax(node: Node) -> Rows:
    x = node.rows()
    place = x.place(node.attribute("axis", 0))
    if x.axes[place].rows or prod(x.columns) != x.axes[place].size:
        raise ValueError("is of another axis than that of all columns")
    if node.attribute("select_last_index", 0):
        raise ValueError("selects the last one of equal numbers, which is not served")
    kept = columns(1) if node.attribute("keepdims", 1) else ()
    return Rows(node.add("argmax", x.value), (*x.axes[:place], *kept, *x.axes[place + 1 :]))


_REDUCTIONS = {"ReduceMax": "max", "ReduceMean": "mean", "ReduceMin": "min", "ReduceSum": "sum"}
ARITHMETIC: Mapping[str, Callable[[Node], Rows]] = {
    **dict.fromkeys(_JOINS, elementwise),
    **dict.fromkeys(_REDUCTIONS, reduce),
    "Abs": function("abs"),
    "ArgMax": argmax,
    "Celu": function("celu", alpha=("alpha", 1.0)),
    "Clip": clip,
    "Elu": function("elu", alpha=("alpha", 1.0)),
    "Erf": function("erf"),
    "Exp": function("exp"),
    "HardSwish": function("hardswish"),
    "LeakyRelu": function("leaky_relu", negative_slope=("alpha", 0.01)),
    "Log": function("log"),
    "LogSoftmax": softmax,
    "Mish": function("mish"),
    "Neg": function("neg"),
    "Pow": power,
    "Reciprocal": function("reciprocal"),
    "ReduceL2": norm,
    "Relu": function("relu"),
    "Selu": function("selu"),
    "Sigmoid": function("sigmoid"),
    "Softmax": softmax,
    "Softplus": function("softplus"),
    "Softsign": function("softsign"),
    "Sqrt": function("sqrt"),
    "Tanh": function("tanh"),
}
