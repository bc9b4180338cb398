"""Convolutions and poolings over windows: of steps, or of columns of each step by itself."""

from __future__ import annotations

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
from .reductions import reduced

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
        return _of_columns(call, where, weight, bias)
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
            return _of_columns(call, where, weight, bias)
        result.append(_conv1d(call, frames, weight, bias, options))
    return np.stack(result).reshape(tuple(call.result.shape))


def _conv_options(call: Call, weight: Tensor) -> tuple[int, int, int] | None:
    """Stride, padding and dilation along the one axis that has a length; None for more axes."""
    if call.get("transposed", False):
        raise call.refusal("a transposed convolution has no layer")
    shape = list(call["input"].shape[2:])
    axes = [
        axis
        for axis, size in enumerate(shape)
        if not (size == 1 and weight.shape[2 + axis] == 1 and _at(call["padding"], axis) == 0)
    ]
    if len(axes) > 1:
        return None
    axis = axes[0] if axes else len(shape) - 1
    return _at(call["stride"], axis), _at(call["padding"], axis), _at(call["dilation"], axis)


def _at(values: Any, axis: int) -> int:
    return (
        int(values[axis] if len(values) > 1 else values[0])
        if isinstance(values, list | tuple)
        else int(values)
    )


def _conv1d(
    call: Call, frames: Frames, weight: Tensor, bias: Tensor | None, options: tuple[int, int, int]
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
    if call["groups"] > 1:
        fields["groups"] = int(call["groups"])
    like = call.graph.window(source, window, len(weight))
    slot = call.graph.add("conv1d", [source], like, call.place, tensors, **fields).slot
    return elements.make(slot, np.arange(call.graph.rows(slot)), np.arange(len(weight))[:, None])


def _of_columns(call: Call, where: Elements, weight: Tensor, bias: Tensor | None) -> Elements:
    """Each sample of the batch is of one step: a linear layer of its columns."""
    rows = elements.row_of(where).reshape(len(where), -1)
    alive = (where != CONSTANT).reshape(rows.shape)
    first = rows[np.arange(len(rows)), alive.argmax(axis=1)][:, None]
    if ((rows != first) & alive).any():
        axes = "a 2-D convolution" if where.ndim == 4 else "a convolution that mixes steps so"
        raise call.refusal(
            f"{axes} has no layer; serve the rest of the model from its features on, and compute "
            "these where the inputs are made"
        )
    shape = where.shape[1:]
    size, results = int(np.prod(shape)), int(np.prod(call.result.shape[1:]))
    if size * results > _MOST_WEIGHTS:
        raise call.refusal(
            f"as a product of {size} numbers of a step with a matrix for {results} it would be too "
            "large; serve the rest of the model from its features on"
        )
    options = (call["stride"], call["padding"], call["dilation"], call["groups"])
    convolve = F.conv2d if where.ndim == 4 else F.conv1d
    ones = torch.eye(size, dtype=weight.dtype, device=weight.device).reshape(size, *shape)
    matrix = numbers(convolve(ones, weight, None, *options)).reshape(size, results)
    per_result = None
    if bias is not None:
        shape_of_bias = [-1, *[1] * (call.result.dim() - 2)]
        per_result = bias.reshape(shape_of_bias).expand(call.result.shape[1:]).reshape(-1)
    known = numbers(call["input"]).reshape(len(where), size)
    made = linear(call, where.reshape(len(where), size), matrix.T, per_result, known)
    return made.reshape(tuple(call.result.shape))


@operation(
    "max_pool2d_with_indices",
    "max_pool1d",
    "max_pool2d",
    "max_pool1d_with_indices",
    "avg_pool2d",
    "avg_pool1d",
)
def pool(call: Call) -> Elements | tuple[Elements | None, ...]:
    """The maximum or mean of windows."""
    name = "max" if "max" in call.name else "mean"
    where, known = call.elements("self"), numbers(call["self"])
    call.check_values(where)
    lead = int(np.prod(where.shape[:-2])) if "2d" in call.name else int(np.prod(where.shape[:-1]))
    sizes = where.shape[-2:] if "2d" in call.name else (1, where.shape[-1])
    if sizes[0] != 1:
        raise call.refusal(
            "pools over two axes, which has no layer; serve the rest from its features on"
        )
    size, stride, padding, dilation = (
        _at(call.get(key) or default, 1 if "2d" in call.name else 0)
        for key, default in (
            ("kernel_size", 1), ("stride", call["kernel_size"]), ("padding", 0), ("dilation", 1),
        )
    )  # fmt: skip
    if (
        call.get("ceil_mode", False)
        and (sizes[1] + 2 * padding - dilation * (size - 1) - 1) % stride
    ):
        raise call.refusal("ceil_mode has no layer where a window is not whole")
    window = Window(size, stride, dilation, padding, padding)
    made = _pooled(call, name, where.reshape(lead, -1), known.reshape(lead, -1), window)
    made = made.reshape(
        tuple((call.result[0] if isinstance(call.result, tuple) else call.result).shape)
    )
    return (made, None) if isinstance(call.result, tuple) else made


def _pooled(call: Call, name: str, where: Elements, known: Numbers, window: Window) -> Elements:
    """[channels, length] -> [channels, length of the result]"""
    frames = frames_of(call, where, known)
    count = (where.shape[1] + window.left + window.right - window.span) // window.stride + 1
    if frames is None or (count == 1 and window.left == 0 and window.kernel == where.shape[1]):
        if window.left:
            raise call.refusal("pools columns with padding, which has no layer")
        at = np.arange(count)[:, None] * window.stride + np.arange(window.kernel) * window.dilation
        fibres, its = (
            where[:, at].reshape(-1, window.kernel),
            known[:, at].reshape(-1, window.kernel),
        )
        return reduced(call, name, fibres, its).reshape(len(where), count)
    if frames.left or frames.right or frames.is_reversed:
        raise call.refusal("pools steps beside padding or in reversed order, which has no layer")
    fields = fields_of(window)
    if name == "mean" and window.left:
        if call.get("divisor_override") is not None:
            raise call.refusal("divisor_override has no layer")
        fields["count_include_pad"] = bool(call["count_include_pad"])
    source = value_of(call.graph, frames.columns, call.place)
    width = len(frames.columns)
    layer = "max_pool1d" if name == "max" else "avg_pool1d"
    like = call.graph.window(source, window, width)
    slot = call.graph.add(layer, [source], like, call.place, **fields).slot
    return elements.make(slot, np.arange(call.graph.rows(slot)), np.arange(width)[:, None])


@operation(
    "adaptive_max_pool2d",
    "adaptive_max_pool1d",
    "_adaptive_avg_pool2d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
)
def adaptive(call: Call) -> Elements | tuple[Elements | None, ...]:
    """The maximum or mean of all; of parts that depend on the length there is no layer."""
    where, known = call.elements("self"), numbers(call["self"])
    call.check_values(where)
    if set(call["output_size"]) != {1}:
        raise call.refusal("has a layer only where one number is left of all steps")
    axes = 2 if "2d" in call.name else 1
    count = int(np.prod(where.shape[-axes:]))
    name = "max" if "max" in call.name else "mean"
    made = reduced(call, name, where.reshape(-1, count), known.reshape(-1, count))
    made = made.reshape(
        tuple((call.result[0] if isinstance(call.result, tuple) else call.result).shape)
    )
    return (made, None) if isinstance(call.result, tuple) else made
