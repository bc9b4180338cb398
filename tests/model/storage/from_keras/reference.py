"""Keras's layers as its documentation has them, in NumPy, for one sequence [T, D]."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Config = Mapping[str, Any]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


FUNCTIONS: Mapping[str, Callable[[Array], Array]] = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "softmax": softmax,
}


def lstm(x: Array, kernel: Array, recurrent: Array, bias: Array) -> Array:
    """All hidden states [T, H]; the gates are input, forget, cell, output."""
    h = c = np.zeros(len(recurrent), np.float32)
    states = []
    for step in x:
        i, f, g, o = np.split(step @ kernel + h @ recurrent + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.stack(states)


def run_lstm(config: Config, variables: Sequence[Array], x: Array) -> Array:
    bias = variables[2] if config.get("use_bias", True) else np.zeros(1, np.float32)
    backwards = config.get("go_backwards", False)
    states = lstm(x[::-1] if backwards else x, variables[0], variables[1], bias)
    return states if config.get("return_sequences") else states[-1]


def run_bidirectional(config: Config, variables: Sequence[Array], x: Array) -> Array:
    inner = config["layer"]["config"]
    half = len(variables) // 2
    a = run_lstm(inner, variables[:half], x)
    b = run_lstm({**inner, "go_backwards": True}, variables[half:], x)
    b = b[::-1] if inner.get("return_sequences") else b
    merges: Mapping[str, Callable[[], Array]] = {
        "concat": lambda: np.concatenate([a, b], -1),
        "sum": lambda: a + b,
        "ave": lambda: (a + b) / 2,
        "mul": lambda: a * b,
    }
    return merges[config["merge_mode"]]()


def padded(x: Array, span: int, stride: int, padding: str, value: float = 0) -> Array:
    """A sequence with what a layer of windows adds at its edges."""
    match padding:
        case "valid":
            left = right = 0
        case "causal":
            left, right = span - 1, 0
        case _:  # "same": as many windows as strides fit, padded evenly, more on the right
            total = max((-(-len(x) // stride) - 1) * stride + span - len(x), 0)
            left, right = total // 2, total - total // 2
    return np.pad(x, ((left, right), (0, 0)), constant_values=value)


def convolve(config: Config, kernel: Array, x: Array) -> Array:
    """Sums of windows [kernel, D] times a kernel [kernel, D, filters]."""
    (size,), (stride,) = config["kernel_size"], config["strides"]
    (dilation,) = config["dilation_rate"]
    span = dilation * (size - 1) + 1
    x = padded(x, span, stride, config["padding"])
    starts = range(0, len(x) - span + 1, stride)
    return np.stack([sum(x[t + j * dilation] @ kernel[j] for j in range(size)) for t in starts])


def run_conv(config: Config, variables: Sequence[Array], x: Array) -> Array:
    return FUNCTIONS[config["activation"]](convolve(config, variables[0], x) + variables[1])


def apart(kernel: Array) -> Array:
    """A depthwise kernel [K, D, multiplier], each of whose columns reads one column alone."""
    size, width, multiplier = kernel.shape
    whole = np.zeros((size, width, width, multiplier))
    for column in range(width):
        whole[:, column, column] = kernel[:, column]
    return whole.reshape(size, width, -1)


def run_depthwise(config: Config, variables: Sequence[Array], x: Array) -> Array:
    kernel, bias = variables
    return FUNCTIONS[config["activation"]](convolve(config, apart(kernel), x) + bias)


def run_separable(config: Config, variables: Sequence[Array], x: Array) -> Array:
    depthwise, pointwise, bias = variables
    y = convolve(config, apart(depthwise), x) @ pointwise[0] + bias
    return FUNCTIONS[config["activation"]](y)


def run_pooling(config: Config, function: Callable[..., Array], x: Array) -> Array:
    (size,), (stride,) = config["pool_size"], config["strides"]
    x = padded(x, size, stride, config["padding"], np.nan)
    starts = range(0, len(x) - size + 1, stride)
    return np.stack([function(x[start : start + size], axis=0) for start in starts])


def run_batch_norm(config: Config, variables: Sequence[Array], x: Array) -> Array:
    gamma, beta, mean, variance = variables
    return np.asarray((x - mean) / np.sqrt(variance + config["epsilon"]) * gamma + beta)


def run_layer_norm(config: Config, variables: Sequence[Array], x: Array) -> Array:
    centered = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt((centered**2).mean(-1, keepdims=True) + config["epsilon"])
    return np.asarray(centered / deviation * variables[0] + variables[1])


def run_dense(config: Config, variables: Sequence[Array], x: Array) -> Array:
    return FUNCTIONS[config["activation"]](x @ variables[0] + variables[1])


LAYERS: Mapping[str, Callable[[Config, Sequence[Array], Any], Array]] = {
    "Embedding": lambda config, variables, ids: variables[0][ids],
    "LSTM": run_lstm,
    "Bidirectional": run_bidirectional,
    "Conv1D": run_conv,
    "BatchNormalization": run_batch_norm,
    "LayerNormalization": run_layer_norm,
    "Dense": run_dense,
    "TimeDistributed": lambda config, variables, x: run_dense(
        config["layer"]["config"], variables, x
    ),
    "Activation": lambda config, variables, x: FUNCTIONS[config["activation"]](x),
    "Dropout": lambda config, variables, x: x,
    "Masking": lambda config, variables, x: x,
    "DepthwiseConv1D": run_depthwise,
    "SeparableConv1D": run_separable,
    "MaxPooling1D": lambda config, variables, x: run_pooling(config, np.nanmax, x),
    "AveragePooling1D": lambda config, variables, x: run_pooling(config, np.nanmean, x),
    "Normalization": lambda config, variables, x: (x - variables[0]) / np.sqrt(variables[1]),
    "Rescaling": lambda config, variables, x: config["scale"] * x + config["offset"],
    "UnitNormalization": lambda config, variables, x: (
        x / np.sqrt(np.maximum((x**2).sum(-1, keepdims=True), 1e-12))
    ),
    "GlobalMaxPooling1D": lambda config, variables, x: x.max(0),
    "GlobalAveragePooling1D": lambda config, variables, x: x.mean(0),
}
