"""The arithmetic that exporters leave in a file on numbers alone: sizes, weights, zero states.

Sizes that come with the sequences are `Dim`s, in arrays of objects. What a node makes is bounded
before it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np

from ..drafts import Array
from .axes import SEQUENCES, Dim
from .nodes import Node
from .packing import count

_END = 2**31  # and beyond: "to the end", in Slice

_Function = Callable[[Node], "Array | list[Array]"]


def fold(node: Node) -> list[Array] | None:
    """Compute a node that reads numbers alone; None for a kind that has no such arithmetic."""
    function = _FUNCTIONS.get(node.kind)
    if function is None:
        return None
    node.bound(sum(array.size for array in node.inputs if isinstance(array, np.ndarray)))
    try:
        results = function(node)
    except (ArithmeticError, IndexError, TypeError) as error:
        raise ValueError(f"computes numbers in a way that is not served: {error}") from error
    return results if isinstance(results, list) else [results]


def sizes(array: Array) -> list[int | Dim]:
    """A list of sizes: ints, and `Dim`s."""
    return [size if isinstance(size, Dim) else int(size) for size in array.flatten().tolist()]


def slices(node: Node, rank: int) -> list[tuple[int, slice]]:
    """The axes that `Slice` cuts, and what of each it takes."""
    bounds = [node.optional(place) for place in range(1, 5)]
    if bounds[0] is None or bounds[1] is None:
        starts, stops = node.attribute("starts", []), node.attribute("ends", [])
        axes, steps = node.attribute("axes", None), None
    else:
        starts, stops, axes, steps = (None if bound is None else sizes(bound) for bound in bounds)
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    found = []
    for start, stop, axis, step in zip(starts, stops, axes, steps, strict=True):
        if any(isinstance(bound, Dim) for bound in (start, axis, step)):
            raise ValueError("cuts at a step that depends on the sequence, which is not served")
        ends = isinstance(stop, Dim) or stop >= _END
        found.append((axis % rank, slice(start, None if ends or stop <= -_END else stop, step)))
    return found


def _shape(node: Node) -> Array:
    shape = node.numbers(0).shape
    return np.array(shape[node.attribute("start", 0) : node.attribute("end", None)])


def _constant(node: Node) -> Array:
    for name in ("value", "value_float", "value_int", "value_floats", "value_ints"):
        if name in node.attributes:
            return np.asarray(node.attributes[name])
    raise ValueError("has no value of numbers")


def _constant_of_shape(node: Node) -> Array:
    value = np.asarray(node.attribute("value", np.zeros(1, np.float32)))
    return np.full(_broadcast_sizes(node, 0), value.flatten()[0])


def _expand(node: Node) -> Array:
    x, shape = node.numbers(0), _broadcast_sizes(node, 1)
    shape = np.broadcast_shapes(x.shape, shape)
    node.bound(prod(shape))
    return np.broadcast_to(x, shape)


def _broadcast_sizes(node: Node, place: int) -> tuple[int, ...]:
    """A shape with 1 for what comes with the sequences: numbers are the same for each of them."""
    shape = tuple(1 if isinstance(size, Dim) else size for size in sizes(node.numbers(place)))
    node.bound(prod(shape))
    return shape


def _reshape(node: Node) -> Array:
    x = node.numbers(0)
    shape = sizes(node.numbers(1))
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape)])  # type: ignore[misc]


def _unsqueeze(node: Node) -> Array:
    return np.expand_dims(node.numbers(0), tuple(node.axes(1) or ()))


def _squeeze(node: Node) -> Array:
    axes = node.axes(1)
    return np.squeeze(node.numbers(0), None if axes is None else tuple(axes))


def _gather(node: Node) -> Array:
    x, places, axis = node.numbers(0), node.numbers(1).astype(int), node.attribute("axis", 0)
    node.bound(x.size // max(x.shape[axis], 1) * places.size)
    return np.asarray(np.take(x, places, axis))


def _slice(node: Node) -> Array:
    x = node.numbers(0)
    places = [slice(None)] * x.ndim
    for axis, part in slices(node, x.ndim):
        places[axis] = part
    return x[tuple(places)]


def _split(node: Node) -> list[Array]:
    x, axis = node.numbers(0), node.attribute("axis", 0)
    return list(np.split(x, np.cumsum(split_sizes(node, x.shape[axis]))[:-1], axis))


def split_sizes(node: Node, size: int) -> list[int]:
    """The parts into which `Split` cuts an axis."""
    given = node.optional(1)
    parts = node.attribute("split", None) if given is None else given.tolist()
    even = -(-size // node.outputs)
    parts = parts or [min(even, size - even * i) for i in range(node.outputs)]
    if sum(parts) != size or min(parts) < 1:
        raise ValueError(f"splits {size} into {parts}")
    return [int(part) for part in parts]


def _concat(node: Node) -> Array:
    arrays = [node.numbers(place) for place in range(len(node.inputs))]
    return np.concatenate(arrays, node.attribute("axis", 0))


def _transpose(node: Node) -> Array:
    return node.numbers(0).transpose(node.attribute("perm", None))


def _cast(node: Node) -> Array:
    x = node.numbers(0)
    if x.dtype == object:
        return x
    return x.astype(_KINDS.get(node.attribute("to", 1), np.float32))


def _where(node: Node) -> Array:
    chosen, x, y = (node.numbers(place) for place in range(3))
    node.bound(prod(np.broadcast_shapes(chosen.shape, x.shape, y.shape)))
    return np.where(chosen.astype(bool), x, y)


def _range(node: Node) -> Array:
    start, stop, step = (node.numbers(place).item() for place in range(3))
    if (start, stop, step) == (0, Dim((SEQUENCES,)), 1):
        return count()
    if any(isinstance(bound, Dim) for bound in (start, stop, step)):
        raise ValueError("counts steps, which is not served")
    node.bound(abs((stop - start) / step))
    return np.arange(start, stop, step)


def _arithmetic(function: Callable[[Any, Any], Any]) -> _Function:
    def compute(node: Node) -> Array:
        x, y = node.numbers(0), node.numbers(1)
        node.bound(prod(np.broadcast_shapes(x.shape, y.shape)))
        return np.asarray(function(x, y))

    return compute


def _divide(x: Array, y: Array) -> Array:
    return x // y if x.dtype.kind in "iu" else x / y


_KINDS = {6: np.int32, 7: np.int64, 9: np.bool_, 11: np.float64}  # of TensorProto.DataType
_FUNCTIONS: Mapping[str, _Function] = {
    "Add": _arithmetic(np.add),
    "Cast": _cast,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Div": _arithmetic(_divide),
    "Equal": _arithmetic(np.equal),
    "Expand": _expand,
    "Gather": _gather,
    "Identity": lambda node: node.numbers(0),
    "Mul": _arithmetic(np.multiply),
    "Neg": lambda node: -node.numbers(0),
    "Range": _range,
    "ReduceProd": lambda node: np.asarray(np.prod(node.numbers(0))),
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Sqrt": lambda node: np.sqrt(node.numbers(0)),
    "Squeeze": _squeeze,
    "Sub": _arithmetic(np.subtract),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
