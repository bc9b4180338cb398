"""Convolutions over windows: of steps, or of columns of each step by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...model.layers.values import Window
from .. import elements
from ..columns import value_of
from ..elements import CONSTANT, Elements
from ..splicing import steps_of
from ..steps import fields_of
from ..trace import Call, Numbers, numbers, operation
from .products import linear

_OPTIONS = ("stride", "padding", "dilation")
_MOST_WEIGHTS = 2**22  # numbers of a matrix that stands for a convolution over columns


@dataclass(frozen=True)
class Frames:
    """An operand [channels, length] whose length is the steps, and padding at both ends."""

    columns: Elements  # [channels]
    left: int
    right: int
    padding: float | None  # what it is padded with; None: with nothing
    is_reversed: bool


def frames_of(call: Call, where: Elements, known: Numbers) -> Frames | None:
    """The steps along the last axis; None if these are not all of some columns."""
    fixed = (where == CONSTANT).all(axis=0)
    inner = np.flatnonzero(~fixed)
    if not len(inner):
        return None
    start, stop = int(inner[0]), int(inner[-1]) + 1
    found = steps_of(call.graph, where[:, start:stop].T, known[:, start:stop].T, call.place)
    if found is None:
        return None
    outer = np.unique(known[:, fixed])
    if len(outer) > 1:
        raise call.refusal("is padded with different numbers, which has no layer")
    padding = float(outer[0]) if len(outer) else None
    return Frames(found.columns, start, where.shape[1] - stop, padding, found.is_reversed)


@operation("convolution", "_convolution", "conv1d", "mkldnn_convolution")
def convolution(call: Call) -> Elements:
    """nn.Conv1d over the steps; over the columns of a step it is a linear layer."""
    weight, bias = call.fixed("weight"), call.fixed("bias")
    assert weight is not None
    where, known = call.elements("input"), numbers(call["input"])
    call.check_values(where)
    options = _conv_options(call, weight)
    if options is None:
        made = _of_each_column(call, where, known, weight, bias)
        if made is not None:
            return made
        options = [call[name] for name in _OPTIONS]
        return _of_columns(call, where, known, weight, bias, options)
    weight = weight.reshape(*weight.shape[:2], -1)
    length = where.shape[-1] if where.ndim == 3 else int(np.prod(where.shape[2:]))
    result = []
    for one, its in zip(
        where.reshape(*where.shape[:2], length),
        known.reshape(*where.shape[:2], length),
        strict=True,
    ):
        frames = frames_of(call, one, its)
        if frames is None:
            given = [call[name] for name in _OPTIONS]
            return _of_columns(call, where, known, weight, bias, given)
        result.append(_conv1d(call, frames, weight, bias, options, call["groups"]))
    return np.stack(result).reshape(tuple(call.result.shape))


def _of_each_column(
    call: Call, where: Elements, known: Numbers, weight: Tensor, bias: Tensor | None
) -> Elements | None:
    """A 2-D convolution along one axis only: of [batch, channels, steps, columns], or with the last
    two the other way round. Over the steps it has more groups, over columns it is a linear layer of
    each step. None if it is none of both."""
    options = [[axis_of(call[name], a) for name in _OPTIONS] for a in (0, 1)]
    for axis in (1, 0) if where.ndim == 4 else ():
        if weight.shape[2 + axis] != 1 or options[axis][:2] != [1, 0]:
            continue
        columns, its = np.moveaxis(where, 2 + axis, 1), np.moveaxis(known, 2 + axis, 1)
        batch, count, channels, length = columns.shape
        over = options[1 - axis]
        kernel = weight.reshape(*weight.shape[:2], -1)
        frames = [
            frames_of(call, one.reshape(-1, length), numbers_.reshape(-1, length))
            for one, numbers_ in zip(columns, its, strict=True)
        ]
        groups = call["groups"] * count
        shift = None if bias is None else bias.repeat(count)
        rows = [
            _conv1d(call, f, kernel.repeat(count, 1, 1), shift, over, groups)
            for f in frames
            if f is not None
        ]
        if len(rows) == batch:
            made = np.stack(rows)
        elif _is_of_one_step(columns.reshape(batch * count, -1)):
            samples = columns.reshape(-1, channels, length)
            made = _of_columns(call, samples, its.reshape(samples.shape), kernel, bias, over)
        else:
            continue
        return np.moveaxis(made.reshape(batch, count, len(weight), -1), 1, 2 + axis)
    return None


def _conv_options(call: Call, weight: Tensor) -> Sequence[int] | None:
    """Stride, padding and dilation along the one axis that has a length; None for more axes."""
    if call.get("transposed", False):
        raise call.refusal("a transposed convolution has no layer")
    shape = list(call["input"].shape[2:])
    axes = [
        axis
        for axis, size in enumerate(shape)
        if not (size == 1 and weight.shape[2 + axis] == 1 and axis_of(call["padding"], axis) == 0)
    ]
    if len(axes) > 1:
        return None
    axis = axes[0] if axes else len(shape) - 1
    return (
        axis_of(call["stride"], axis),
        axis_of(call["padding"], axis),
        axis_of(call["dilation"], axis),
    )


def axis_of(values: Any, axis: int) -> int:
    return (
        int(values[axis] if len(values) > 1 else values[0])
        if isinstance(values, list | tuple)
        else int(values)
    )


def _conv1d(
    call: Call,
    frames: Frames,
    weight: Tensor,
    bias: Tensor | None,
    options: Sequence[int],
    groups: int,
) -> Elements:
    """[width, length of the result]"""
    stride, padding, dilation = options
    if frames.is_reversed:
        raise call.refusal(
            "a convolution of reversed steps has no layer; put it before the reversal"
        )
    if frames.padding not in (None, 0.0):
        raise call.refusal(f"is padded with {frames.padding:g}; only zeros have a layer")
    window = Window(
        weight.shape[2], stride, dilation, frames.left + padding, frames.right + padding
    )
    source = value_of(call.graph, frames.columns, call.place)
    tensors = {"weight": weight} | ({} if bias is None else {"bias": bias})
    fields: dict[str, Any] = {"width": len(weight), "bias": bias is not None} | fields_of(window)
    if groups > 1:
        fields["groups"] = groups
    like = call.graph.window(source, window, len(weight))
    slot = call.graph.add("conv1d", [source], like, call.place, tensors, **fields).slot
    return elements.make(slot, np.arange(call.graph.rows(slot)), np.arange(len(weight))[:, None])


def _is_of_one_step(samples: Elements) -> bool:
    """Whether each of the rows has numbers of one step only."""
    rows, alive = elements.row_of(samples), samples != CONSTANT
    first = rows[np.arange(len(rows)), alive.argmax(axis=1)][:, None]
    return not bool(((rows != first) & alive).any())


def _of_columns(
    call: Call,
    where: Elements,
    known: Numbers,
    weight: Tensor,
    bias: Tensor | None,
    options: Sequence[Any],
) -> Elements:
    """Each sample of the batch is of one step: a linear layer of its columns."""
    if not _is_of_one_step(where.reshape(len(where), -1)):
        raise call.refusal(_why(call, where))
    shape = where.shape[1:]
    size = int(np.prod(shape))
    stride, padding, dilation = options
    convolve: Any = F.conv2d if where.ndim == 4 else F.conv1d
    one = torch.zeros(1, *shape, dtype=weight.dtype, device=weight.device)
    given = convolve(one, weight, None, stride, padding, dilation, call["groups"]).shape[1:]
    results = int(np.prod(given))
    if size * results > _MOST_WEIGHTS:
        raise call.refusal(
            f"as a product of {size} numbers of a step with a matrix for {results} it would be too "
            "large; serve the rest of the model from its features on"
        )
    ones = torch.eye(size, dtype=weight.dtype, device=weight.device).reshape(size, *shape)
    matrix = numbers(
        convolve(ones, weight, None, stride, padding, dilation, call["groups"])
    ).reshape(size, results)
    per_result = None
    if bias is not None:
        per_result = bias.reshape(-1, *[1] * (len(given) - 1)).expand(given).reshape(-1)
    made = linear(call, where.reshape(-1, size), matrix.T, per_result, known.reshape(-1, size))
    return made.reshape(len(where), *given)


def _why(call: Call, where: Elements) -> str:
    """Why a convolution has no layer, and what can be done."""
    if where.ndim == 4:
        return (
            "a 2-D convolution has no layer; serve the rest of the model from its features on, and "
            "compute these where the inputs are made"
        )
    return (
        "reads steps that are repeated, left out or in another order, as padding by reflection, by "
        "the edge or in a circle makes them, which has no layer; pad with zeros, or serve the rest "
        "of the model from its features on"
    )
