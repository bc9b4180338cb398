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


def run_conv(config: Config, variables: Sequence[Array], x: Array) -> Array:
    kernel = variables[0]
    (size,), (stride,) = config["kernel_size"], config["strides"]
    (dilation,) = config["dilation_rate"]
    span = dilation * (size - 1) + 1
    steps = len(x)
    match config["padding"]:
        case "valid":
            left = right = 0
        case "causal":
            left, right = span - 1, 0
        case _:  # "same": as many windows as strides fit, padded evenly, more on the right
            total = max((-(-steps // stride) - 1) * stride + span - steps, 0)
            left, right = total // 2, total - total // 2
    x = np.pad(x, ((left, right), (0, 0)))
    rows = [
        sum(x[start + j * dilation] @ kernel[j] for j in range(size)) + variables[1]
        for start in range(0, len(x) - span + 1, stride)
    ]
    return FUNCTIONS[config["activation"]](np.stack(rows))


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
    "GlobalMaxPooling1D": lambda config, variables, x: x.max(0),
    "GlobalAveragePooling1D": lambda config, variables, x: x.mean(0),
}
