"""Nodes that multiply with matrices: linear layers, convolutions, and attention's products."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np

from ..drafts import Array
from .axes import SEQUENCES, STEPS, Axis, Rows, columns
from .nodes import Node


def matmul(node: Node) -> Rows:
    """A value times a matrix, perhaps with a bias; or two values as attention has them."""
    if isinstance(node.inputs[0], Rows) and isinstance(node.inputs[1], Rows):
        return _attention(node, node.inputs[0], node.inputs[1])
    return _linear(node, node.rows(), node.numbers(1), node.optional(2))


def gemm(node: Node) -> Rows:
    """alpha x W + beta b, W perhaps transposed"""
    x, weight, bias = node.rows(), node.numbers(1), node.optional(2)
    if node.attribute("transA", 0):
        raise ValueError("transposes a value, which is not served")
    weight = weight.T if node.attribute("transB", 0) else weight
    if bias is not None:
        bias = node.number("beta", 1) * bias
    return _linear(node, x, node.number("alpha", 1) * weight, bias)


def _linear(node: Node, x: Rows, matrix: Array, bias: Array | None) -> Rows:
    """x [..., D] times a matrix [D, width]: all columns before the last ones are as many groups."""
    if matrix.ndim != 2 or not x.axes or x.axes[-1].rows:
        raise ValueError("multiplies what is no matrix of the last columns, which is not served")
    depth, width = matrix.shape
    if x.axes[-1].size != depth:
        raise ValueError(f"multiplies {x.axes[-1].size} columns with a matrix of {depth} rows")
    tensors = {"weight": matrix.T}
    if bias is not None:
        if bias.size not in (1, width):
            raise ValueError(f"has a bias of {bias.size} numbers, expected {width}")
        tensors["bias"] = np.broadcast_to(bias.flatten(), width)
    groups = prod(x.columns) // depth
    value = node.add("linear", x.value, tensors, width=width, bias=bias is not None, groups=groups)
    return Rows(value, (*x.axes[:-1], *columns(width)))


def _attention(node: Node, x: Rows, y: Rows) -> Rows:
    """Scores [B, T, D] [B, D, 1] -> [B, T, 1], or sums [B, heads, T] [B, T, D] -> [B, heads, D],
    and both the other way round."""
    if len(x.axes) != 3 or len(y.axes) != 3 or not _alike(x.axes[0], y.axes[0]):
        raise ValueError("multiplies two values in a way that is no attention over the steps")
    batch = x.axes[0] if x.axes[0].rows else y.axes[0]
    left, inner, right = x.axes[1], x.axes[2], y.axes[2]
    if STEPS in inner.rows and STEPS in y.axes[1].rows and not (left.rows or right.rows):
        value = node.add("weighted_sum", [y.value, x.value])
        return Rows(value, (batch, left, right))
    if not inner.rows and not y.axes[1].rows and inner.size == y.axes[1].size:
        if left.rows == (STEPS,) and right.size == 1 and not right.rows:
            return Rows(node.add("dot", [x.value, y.value]), (batch, left, *columns(1)))
        if right.rows == (STEPS,) and left.size == 1 and not left.rows:
            return Rows(node.add("dot", [y.value, x.value]), (batch, *columns(1), right))
    raise ValueError("multiplies two values in a way that is no attention over the steps")


def _alike(a: Axis, b: Axis) -> bool:
    """Whether two axes are of sequences, or of a single one."""
    return all(axis.rows == (SEQUENCES,) or (not axis.rows and axis.size == 1) for axis in (a, b))


def conv(node: Node) -> Rows:
    """`Conv` over steps: x [B, D, T], W [width, D / groups, K], b [width]"""
    x, weight, bias = node.rows(), node.numbers(1), node.optional(2)
    steps = _steps(x)
    if weight.ndim != 3:
        raise ValueError("is no convolution over steps alone; serve the model from its features on")
    window, size = _window(node, weight.shape[2], steps)
    tensors = {"weight": weight} | ({} if bias is None else {"bias": bias})
    width, groups = weight.shape[0], node.attribute("group", 1)
    value = node.add(
        "conv1d", x.value, tensors, **window, width=width, groups=groups, bias=bias is not None
    )
    return Rows(value, (x.axes[0], *columns(width), size))


def pool(node: Node) -> Rows:
    """`MaxPool`, `AveragePool`: x [B, D, T]"""
    x = node.rows()
    steps = _steps(x)
    if node.attribute("ceil_mode", 0):
        raise ValueError("rounds the number of windows up, which is not served")
    (kernel,) = node.attribute("kernel_shape", ())
    window, size = _window(node, kernel, steps)
    if node.kind == "MaxPool":
        return Rows(node.add("max_pool1d", x.value, **window), (*x.axes[:2], size))
    window["count_include_pad"] = bool(node.attribute("count_include_pad", 0))
    return Rows(node.add("avg_pool1d", x.value, **window), (*x.axes[:2], size))


def pool_all(node: Node) -> Rows:
    """`GlobalMaxPool`, `GlobalAveragePool`: [B, D, T] -> [B, D, 1]"""
    x = node.rows()
    _steps(x)
    value = node.add("max" if node.kind == "GlobalMaxPool" else "mean", x.value)
    return Rows(value, (*x.axes[:2], *columns(1)))


def _steps(x: Rows) -> Axis:
    """The axis of steps, if the axes are those that windows are taken of."""
    if len(x.axes) != 3 or x.axes[1].rows or x.axes[2].rows != (STEPS,):
        raise ValueError("is not over steps alone; serve the model from its features on")
    return x.axes[2]


def _window(node: Node, kernel: int, steps: Axis) -> tuple[dict[str, Any], Axis]:
    """The fields of a layer of windows, and the axis of its windows."""
    stride, *_ = node.attribute("strides", None) or [1]
    dilation, *_ = node.attribute("dilations", None) or [1]
    left, right = node.attribute("pads", None) or [0, 0]
    span = dilation * (kernel - 1) + 1
    match node.attribute("auto_pad", "NOTSET"):
        case "SAME_UPPER" if stride == 1:
            left, right = (span - 1) // 2, span // 2
        case "SAME_LOWER" if stride == 1:
            left, right = span // 2, (span - 1) // 2
        case "NOTSET" | "VALID":
            pass
        case other:
            raise ValueError(f"auto_pad is {other} with a stride, which is not served")
    size = None if steps.size is None else (steps.size + left + right - span) // stride + 1
    fields = {
        "kernel": kernel,
        "stride": stride,
        "dilation": dilation,
        "padding": (left, right),
    }
    return fields, Axis((size,), (STEPS,))


def batch_norm(node: Node) -> Rows:
    """`BatchNormalization`: x [B, D] or [B, D, T]; scale, bias, mean and variance [D]"""
    x = node.rows()
    if node.attribute("training_mode", 0):
        raise ValueError("has the mean of its batch in inference too, which is not served")
    weight, bias, mean, variance = (node.numbers(place) for place in range(1, 5))
    if len(x.axes) < 2 or x.axes[1].rows or prod(x.columns) != x.axes[1].size:
        raise ValueError("is of another axis than that of all columns")
    tensors = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": variance}
    eps = node.number("epsilon", 1e-5)
    return x.with_axes(x.axes, node.add("batch_norm", x.value, tensors, eps=eps))


def layer_norm(node: Node) -> Rows:
    """`LayerNormalization`: x […, D]; scale and bias [D]"""
    x, weight, bias = node.rows(), node.numbers(1), node.optional(2)
    if x.place(node.attribute("axis", -1)) != len(x.axes) - 1 or x.axes[-1].rows:
        raise ValueError("is of other axes than that of the last columns, which is not served")
    tensors = {"weight": weight} | ({} if bias is None else {"bias": bias})
    value = node.add(
        "layer_norm",
        x.value,
        tensors,
        eps=node.number("epsilon", 1e-5),
        groups=prod(x.columns) // (x.axes[-1].size or 1),
        bias=bias is not None,
    )
    return x.with_axes(x.axes, value)


def lp_norm(node: Node) -> Rows:
    """`LpNormalization` of the last columns, p 2"""
    x = node.rows()
    if node.attribute("p", 2) != 2 or x.place(node.attribute("axis", -1)) != len(x.axes) - 1:
        raise ValueError("is no normalization of the last columns by their length")
    groups = prod(x.columns) // (x.axes[-1].size or 1)
    return x.with_axes(x.axes, node.add("normalize", x.value, groups=groups, eps=0))


PRODUCTS: Mapping[str, Callable[[Node], Rows]] = {
    "AveragePool": pool,
    "BatchNormalization": batch_norm,
    "Conv": conv,
    "Gemm": gemm,
    "GlobalAveragePool": pool_all,
    "GlobalMaxPool": pool_all,
    "LayerNormalization": layer_norm,
    "LpNormalization": lp_norm,
    "MatMul": matmul,
    "MaxPool": pool,
}
