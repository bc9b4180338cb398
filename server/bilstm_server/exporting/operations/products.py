"""Products of matrices: with weights, of two values at each step, or over the steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..columns import value_of
from ..elements import CONSTANT, Elements
from ..rows import Aligned
from ..steps import is_stepwise
from ..trace import Call, Numbers, operation
from .numbers import Operand, affine, combine
from .over_steps import weighted_sum


@operation(
    "mm", "bmm", "mv", "dot", "vdot", "addmm", "addmv", "baddbmm", "addbmm", "linear", "inner"
)
def product(call: Call) -> Elements:
    """All of them as products of matrices [batch, M, K] and [batch, K, N], and something added."""
    match call.name:
        case "addmm":
            a, b = call["mat1"], call["mat2"]
        case "addmv":
            a, b = call["mat"], call["vec"]
        case "baddbmm":
            a, b = call["batch1"], call["batch2"]
        case "linear":
            a, b = call["input"], call["weight"].t()
        case "mv":
            a, b = call["self"], call["vec"]
        case "dot" | "vdot":
            a, b = call["self"], call["tensor"]
        case "mm" | "bmm":
            a, b = call["self"], call["mat2"]
        case _:
            call.check_all()
            raise call.refusal("has no layer")
    left, right = Operand.of(call, a), Operand.of(call, b)
    left, right = _matrices(left, a.dim() == 1, 0), _matrices(right, b.dim() == 1, 1)
    bias = (
        call.get("bias")
        if call.name == "linear"
        else call.get("self")
        if "add" in call.name
        else None
    )
    shape = tuple(call.result.shape)
    if right.is_fixed and _is_vector(call, bias, right.numbers.shape[2]):
        vector = None if bias is None else call["beta"] * bias if "add" in call.name else bias
        return _linear(call, left, right.numbers * _alpha(call), vector).reshape(shape)
    if left.is_fixed:
        swapped = _linear(call, _swap(right), _swap(left).numbers, None)
        where = swapped.transpose(0, 2, 1).reshape(shape)
    elif right.is_fixed:
        where = _linear(call, left, right.numbers, None).reshape(shape)
    else:
        where = _both(call, left, right).reshape(shape)
    made = affine(call, Operand(where, np.zeros(shape)), factor=_alpha(call))
    if bias is None:
        return made.where
    added = affine(call, Operand.of(call, bias), factor=float(call.get("beta", 1)))
    return combine(call, "add", added, made).where


def _alpha(call: Call) -> float:
    return float(call.get("alpha", 1))


def _is_vector(call: Call, bias: object, width: int) -> bool:
    """Whether what is added is nothing, or one fixed vector for all rows."""
    if bias is None:
        return True
    return (
        isinstance(bias, torch.Tensor) and not call.trace.depends(bias) and bias.shape == (width,)
    )


def _matrices(x: Operand, is_vector: bool, side: int) -> Operand:
    """Matrices [batch, rows, columns]; a vector is a row on the left and a column on the right."""

    def form(array: np.ndarray) -> np.ndarray:
        if is_vector:
            array = np.expand_dims(array, side)
        return array.reshape(-1, *array.shape[-2:])

    return Operand(form(x.where), form(x.numbers))


def _swap(x: Operand) -> Operand:
    return Operand(x.where.transpose(0, 2, 1), x.numbers.transpose(0, 2, 1))


def _linear(call: Call, x: Operand, weights: Numbers, bias: torch.Tensor | None) -> Elements:
    """x [batch, M, K] times fixed weights [batch or 1, K, N]: a layer for each that differs."""
    batch, rows, depth = x.where.shape
    if depth == 1 and bias is None:  # an outer product
        return combine(
            call, "multiply", x, Operand(np.full(weights.shape, CONSTANT), weights)
        ).where
    weights = np.broadcast_to(weights, (batch, *weights.shape[1:]))
    distinct, which = _distinct(weights)
    result = np.full((batch, rows, weights.shape[2]), CONSTANT)
    for index, weight in enumerate(distinct):
        mine = which == index
        fibres = x.where[mine].reshape(-1, depth)
        made = linear(call, fibres, weight.T, bias, x.numbers[mine].reshape(-1, depth))
        result[mine] = made.reshape(-1, rows, made.shape[1])
    return result


def _distinct(weights: Numbers) -> tuple[list[Numbers], np.ndarray]:
    """The matrices that differ, and which of them each is."""
    found: list[Numbers] = []
    which = np.zeros(len(weights), np.int64)
    for place, weight in enumerate(weights):
        for index, known in enumerate(found):
            if np.array_equal(known, weight):
                which[place] = index
                break
        else:
            which[place] = len(found)
            found.append(weight)
    return found, which


def linear(
    call: Call, fibres: Elements, weight: Numbers, bias: torch.Tensor | None, known: Numbers
) -> Elements:
    """A linear layer of fibres [F, K], with a weight [N, K]: [F, N]."""

    def emit(aligned: Aligned) -> int:
        source = value_of(call.graph, aligned.columns.reshape(-1), call.place)
        tensors = {"weight": torch.from_numpy(np.array(weight, np.float32))}
        if bias is not None:
            tensors["bias"] = bias
        width = len(weight)
        fields: dict[str, Any] = {"width": width, "bias": bias is not None}
        if aligned.number > 1:
            fields["groups"] = aligned.number
        like = call.graph.like(source, width=aligned.number * width)
        return call.graph.add("linear", [source], like, call.place, tensors, **fields).slot

    made = call.row_wise(fibres, emit, known=known)
    return np.broadcast_to(made, (len(fibres), len(weight)))


def _both(call: Call, a: Operand, b: Operand) -> Elements:
    """Products of two values that depend on inputs, [batch, M, K] and [batch, K, N]."""
    left, right = a.where, b.where.transpose(0, 2, 1)  # [batch, M or N, K]
    over_steps = weighted_sum(call, left, right)
    if over_steps is not None:
        return over_steps
    batch, rows, depth = left.shape
    columns = right.shape[1]
    stepwise = [is_stepwise(call.graph, side).any(axis=2) for side in (left, right)]
    if rows > 1 and columns > 1 and stepwise[0].any() and stepwise[1].any():
        raise call.refusal(
            "compares all pairs of steps, as self-attention does, which has no layer; serve the "
            "part of the model before it"
        )
    shape = (batch, rows, columns, depth)
    pairs = [np.broadcast_to(left[:, :, None], shape), np.broadcast_to(right[:, None], shape)]
    known = [
        np.broadcast_to(a.numbers[:, :, None], shape),
        np.broadcast_to(b.numbers.transpose(0, 2, 1)[:, None], shape),
    ]
    fibres = np.concatenate(pairs, axis=3).reshape(-1, 2 * depth)
    numbers_known = np.concatenate(known, axis=3).reshape(-1, 2 * depth)
    return call.row_wise(fibres, lambda aligned: _dot(call, aligned), known=numbers_known).reshape(
        batch, rows, columns
    )


def _dot(call: Call, aligned: Aligned) -> int:
    """The sums of products of the first half of the columns of each fibre with the second."""
    depth = aligned.columns.shape[1] // 2
    sides = (aligned.columns[:, :depth], aligned.columns[:, depth:])
    inputs = [value_of(call.graph, side.reshape(-1), call.place) for side in sides]
    fields: dict[str, Any] = {"heads": aligned.number} if aligned.number > 1 else {}
    like = call.graph.like(*inputs, width=aligned.number)
    return call.graph.add("dot", inputs, like, call.place, **fields).slot
