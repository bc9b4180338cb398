"""Poolings over windows: of steps, or of columns of each step by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...model.layers.values import Window
from .. import elements
from ..columns import value_of
from ..elements import Elements
from ..steps import fields_of
from ..trace import Call, Numbers, numbers, operation
from .reductions import reduced
from .windows import axis_of, frames_of


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
    is_flat = "2d" not in call.name
    axis = 0 if is_flat else _axis(call, where.shape[-2:])
    place = -1 if is_flat else axis - 2
    where, known = np.moveaxis(where, place, -1), np.moveaxis(known, place, -1)
    window = _window(call, name, where.shape[-1], axis)
    flat, its = where.reshape(-1, where.shape[-1]), known.reshape(-1, where.shape[-1])
    made = _pooled(call, name, flat, its, window).reshape(*where.shape[:-1], -1)
    made = np.moveaxis(made, -1, place)
    return (made, None) if isinstance(call.result, tuple) else made


def _axis(call: Call, sizes: Sequence[int]) -> int:
    """Which of two axes is pooled over."""
    for axis in (1, 0):
        other = 1 - axis
        kernel, stride = (axis_of(call.get(k) or 1, other) for k in ("kernel_size", "stride"))
        if sizes[other] == 1 or (kernel == 1 and stride == 1):
            return axis
    raise call.refusal(
        "pools over two axes, which has no layer; serve the rest from its features on"
    )


def _window(call: Call, name: str, length: int, axis: int) -> Window:
    size, stride, padding, dilation = (
        axis_of(call.get(key) or default, axis)
        for key, default in (
            ("kernel_size", 1), ("stride", call["kernel_size"]), ("padding", 0), ("dilation", 1),
        )
    )  # fmt: skip
    right = padding
    if call.get("ceil_mode", False):
        if size < stride or (name == "mean" and padding):
            raise call.refusal("ceil_mode has no layer with this stride or padding")
        right += stride - 1
    return Window(size, stride, dilation, padding, right)


def _pooled(call: Call, name: str, where: Elements, known: Numbers, window: Window) -> Elements:
    """[channels, length] -> [channels, length of the result]"""
    frames = frames_of(call, where, known)
    count = (where.shape[1] + window.left + window.right - window.span) // window.stride + 1
    if frames is None or (count == 1 and window.left == 0 and window.kernel == where.shape[1]):
        if window.left or window.right:
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
    if name == "mean" and window.right:
        if call.get("divisor_override") is not None:
            raise call.refusal("divisor_override has no layer")
        fields["count_include_pad"] = bool(call["count_include_pad"]) and window.left > 0
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
