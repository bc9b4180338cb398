"""Elements beside the numbers themselves, and arithmetic of these: what most operations are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .. import elements
from ..columns import repeated, value_of
from ..elements import CONSTANT, Elements
from ..rows import Aligned
from ..trace import Call, Numbers, numbers


@dataclass(frozen=True)
class Operand:
    """Where the numbers of an operand come from, and those that come from nowhere."""

    where: Elements
    numbers: Numbers  # of constants; of others arbitrary

    @classmethod
    def of(cls, call: Call, value: Any) -> Operand:
        """A tensor, or a number."""
        return cls(call.trace.elements(value), numbers(value))

    @property
    def is_fixed(self) -> bool:
        """Whether no number depends on an input."""
        return bool((self.where == CONSTANT).all())


def other_number(call: Call) -> float | None:
    """The other operand, if it is one number."""
    other = call.get("other")
    if call.trace.depends(other):
        return None
    found = np.unique(numbers(other))
    return float(found[0]) if len(found) == 1 else None


def affine(call: Call, x: Operand, factor: Any = 1.0, shift: Any = 0.0) -> Operand:
    """factor x + shift, of numbers that broadcast."""
    where, factor, shift = np.broadcast_arrays(x.where, factor, shift)
    values = np.broadcast_to(x.numbers, where.shape) * factor + shift
    # A product with zero, as of a mask, or a sum with infinity is a number.
    gone = (factor == 0) | np.isinf(shift)
    alive = (where != CONSTANT) & ~gone
    result = np.where(gone, CONSTANT, where)
    values = np.where(gone, shift, values)
    if ((factor == 1) & (shift == 0))[alive].all():
        return Operand(result, values)
    made = _scaled(call, where[alive], factor[alive], shift[alive])
    result = result.copy()
    result[alive] = made
    return Operand(result, values)


def _scaled(call: Call, where: Elements, factor: Numbers, shift: Numbers) -> Elements:
    pairs, keys = np.unique(np.column_stack([factor, shift]), axis=0, return_inverse=True)
    means = mean_of_sum(call, where, pairs)
    if means is not None:
        return means

    def emit(aligned: Aligned) -> int:
        source = value_of(call.graph, aligned.columns[:, 0], call.place)
        chosen = torch.from_numpy(pairs[aligned.keys])
        tensors = {"weight": chosen[:, 0].contiguous(), "bias": chosen[:, 1].contiguous()}
        if (chosen[:, 1] == 0).all():
            del tensors["bias"]
        elif (chosen[:, 0] == 1).all():
            del tensors["weight"]
        fields = {name: name in tensors for name in ("weight", "bias")}
        tensors = {name: tensor.float() for name, tensor in tensors.items()}
        like = call.graph.like(source, width=aligned.number)
        return call.graph.add("scale", [source], like, call.place, tensors, **fields).slot

    return call.row_wise(where[:, None], emit, keys.reshape(-1))[:, 0]


def mean_of_sum(call: Call, where: Elements, pairs: Numbers) -> Elements | None:
    """The mean, where these are sums over steps that are divided by how many there are."""
    if len(pairs) != 1 or pairs[0, 1] != 0:
        return None
    result = where.copy()
    for slot in elements.slots_in(where):
        node = call.graph.slots[slot].node
        if node is None or node.type != "sum":
            return None
        (source,) = node.inputs
        if abs(pairs[0, 0] * call.graph.rows(source) - 1) > 1e-6:
            return None
        mean = call.graph.add("mean", [source], call.graph.value(slot), call.place).slot
        mine = elements.slot_of(where) == slot
        result[mine] = elements.make(mean, 0, elements.column_of(where[mine]))
    return result


def combine(call: Call, layer: str, a: Operand, b: Operand) -> Operand:
    """a + b, a - b, a b or a / b, where both may depend on inputs. The layer is add, subtract,
    multiply or divide."""
    where_a, where_b = np.broadcast_arrays(a.where, b.where)
    values_a, values_b = np.broadcast_arrays(a.numbers, b.numbers)
    shape = where_a.shape
    where_a, where_b, values_a, values_b = (
        array.reshape(-1) for array in (where_a, where_b, values_a, values_b)
    )
    result = np.full(where_a.shape, CONSTANT)
    with np.errstate(all="ignore"):
        values = _NUMPY[layer](values_a, values_b)
    fixed_a, fixed_b = where_a == CONSTANT, where_b == CONSTANT
    for one, known, alive, is_first in (
        (where_a, values_b, ~fixed_a & fixed_b, True),
        (where_b, values_a, fixed_a & ~fixed_b, False),
    ):
        if alive.any():
            operand = Operand(one[alive], np.zeros(int(alive.sum())))
            made = _with_fixed(call, layer, operand, known[alive], is_first)
            result[alive], values[alive] = made.where, made.numbers
    both = ~fixed_a & ~fixed_b
    if both.any():
        pairs = np.column_stack([where_a[both], where_b[both]])
        result[both] = call.row_wise(pairs, lambda aligned: _joined(call, layer, aligned))[:, 0]
    return Operand(result.reshape(shape), values.reshape(shape))


_NUMPY = {"add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide}


def _with_fixed(call: Call, layer: str, x: Operand, known: Numbers, is_first: bool) -> Operand:
    """x and fixed numbers, in this order or in the other."""
    match layer:
        case "add":
            return affine(call, x, shift=known)
        case "subtract":
            return affine(call, x, shift=-known) if is_first else affine(call, x, -1.0, known)
        case "multiply":
            return affine(call, x, factor=known)
    if is_first:
        with np.errstate(divide="ignore"):
            return affine(call, x, factor=1 / known)
    return affine(call, function(call, "reciprocal", x), factor=known)


def _joined(call: Call, layer: str, aligned: Aligned) -> int:
    parts = [repeated(aligned.columns[:, side]) for side in (0, 1)]
    if all(len(part) == 1 for part in parts):
        parts = [aligned.columns[:, side] for side in (0, 1)]
    inputs = [value_of(call.graph, part, call.place) for part in parts]
    like = call.graph.like(*inputs, width=aligned.number)
    return call.graph.add(layer, inputs, like, call.place).slot


def function(call: Call, name: str, x: Operand, **parameters: Any) -> Operand:
    """A function of each number; those that are fixed have no numbers after it."""

    def emit(aligned: Aligned) -> int:
        source = value_of(call.graph, aligned.columns[:, 0], call.place)
        like = call.graph.like(source, width=aligned.number)
        return call.graph.add(
            "activation", [source], like, call.place, function=name, **parameters
        ).slot

    made = call.row_wise(x.where.reshape(-1, 1), emit)
    return Operand(made.reshape(x.where.shape), np.full(x.where.shape, np.nan))
