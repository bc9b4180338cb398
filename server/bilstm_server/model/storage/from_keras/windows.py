"""Keras's layers over windows of steps: convolutions and poolings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..drafts import Array
from .activations import activate
from .call import Call


def conv1d(call: Call) -> str:
    """`Conv1D`: `kernel` [K, D / groups, filters], `bias` [filters]"""
    kernel, *biases = call.arrays(1 + _has_bias(call))
    return activate(call, _convolution(call, kernel, biases, call.settings.size("groups", 1)))


def depthwise_conv1d(call: Call) -> str:
    """`DepthwiseConv1D`: `kernel` [K, D, multiplier], `bias` [D * multiplier]"""
    kernel, *biases = call.arrays(1 + _has_bias(call))
    return activate(call, _depthwise(call, kernel, biases))


def separable_conv1d(call: Call) -> str:
    """`SeparableConv1D`: `depthwise_kernel` [K, D, multiplier], `pointwise_kernel` [1, D *
    multiplier, filters], `bias` [filters]"""
    depthwise, pointwise, *biases = call.arrays(2 + _has_bias(call))
    y = _depthwise(call, depthwise, ())
    tensors = {"weight": pointwise.reshape(pointwise.shape[-2:]).T}
    if biases:
        tensors["bias"] = biases[0]
    width = call.settings.size("filters")
    return activate(call, call.add("linear", y, tensors, width=width, bias=bool(biases)))


def max_pooling1d(call: Call) -> str:
    """`MaxPooling1D`"""
    return _pooling(call, "max_pool1d")


def average_pooling1d(call: Call) -> str:
    """`AveragePooling1D`"""
    return _pooling(call, "avg_pool1d", count_include_pad=False)


def _depthwise(call: Call, kernel: Array, biases: Sequence[Array]) -> str:
    width = call.value().width
    return _convolution(call, kernel.reshape(len(kernel), 1, -1), biases, width)


def _convolution(call: Call, kernel: Array, biases: Sequence[Array], groups: int) -> str:
    """Add a convolution with a kernel [K, D / groups, width]."""
    size, stride = call.settings.size("kernel_size"), call.settings.size("strides", 1)
    dilation = call.settings.size("dilation_rate", 1)
    tensors = {"weight": kernel.transpose(2, 1, 0)}
    if biases:
        tensors["bias"] = biases[0]
    return call.add(
        "conv1d",
        call.read(),
        tensors,
        width=kernel.shape[2],
        kernel=size,
        stride=stride,
        dilation=dilation,
        padding=_padding(call, dilation * (size - 1) + 1, stride),
        groups=groups,
        bias=bool(biases),
    )


def _pooling(call: Call, type: str, **fields: Any) -> str:
    kernel = call.settings.size("pool_size", 2)
    stride = call.settings.size("strides", kernel)
    padding = _padding(call, kernel, stride)
    fields |= {"kernel": kernel, "stride": stride, "padding": padding}
    return call.add(type, call.read(), **fields)


def _has_bias(call: Call) -> bool:
    return call.settings.flag("use_bias", True)


def _padding(call: Call, span: int, stride: int) -> tuple[int, int]:
    """The steps of padding before and behind a sequence, for windows that span so many steps."""
    call.expect("data_format", "channels_last")
    call.expect("padding", "valid", "same", "causal")
    word = call.settings.word("padding", "valid")
    if word == "valid":
        return 0, 0
    if word == "causal":
        return span - 1, 0
    # There are ceil(T / stride) windows, and half of the padding that they need is on the left.
    # That is least where the stride divides T, and most where one step is left over.
    left = (span - 1) // 2
    if stride > 1 and max(span - stride, 0) // 2 != left:
        raise ValueError(
            f"padding is same with strides {stride}: where its windows lie depends on the number "
            "of steps, which is not served; train with valid or causal"
        )
    return left, span - 1 - left
