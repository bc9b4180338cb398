"""Layers of Keras with the settings that their models have, and drawn numbers."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np

from tests.model.storage.from_keras.files import Layer
from tests.model.storage.from_keras.reference import Array

_numbers = np.random.default_rng(0)
_names = count()


def draw(*shape: int) -> Array:
    return _numbers.normal(0, 0.5, shape).astype(np.float32)


def named(kind: str) -> dict[str, Any]:
    return {"name": f"{kind.lower()}_{next(_names)}"}


def embedding(ids: int, width: int, **settings: Any) -> Layer:
    config = named("Embedding") | {"input_dim": ids, "output_dim": width} | settings
    return Layer("Embedding", config, [draw(ids, width)])


def lstm(width: int, units: int, **settings: Any) -> Layer:
    config = named("LSTM") | {
        "units": units,
        "activation": "tanh",
        "recurrent_activation": "sigmoid",
        "use_bias": True,
        "return_sequences": False,
    }
    config |= settings
    variables = [draw(width, 4 * units), draw(units, 4 * units), draw(4 * units)]
    return Layer("LSTM", config, variables if config["use_bias"] else variables[:2])


def bidirectional(width: int, units: int, merge_mode: str = "concat", **settings: Any) -> Layer:
    forward, backward = lstm(width, units, **settings), lstm(width, units, **settings)
    entry = {"module": "keras.layers", "class_name": "LSTM", "config": forward.config}
    config = named("Bidirectional") | {"layer": entry, "merge_mode": merge_mode}
    return Layer("Bidirectional", config, forward.variables + backward.variables)


def dense(width: int, units: int, activation: str = "linear") -> Layer:
    config = named("Dense") | {"units": units, "activation": activation, "use_bias": True}
    return Layer("Dense", config, [draw(width, units), draw(units)])


def time_distributed(inner: Layer) -> Layer:
    entry = {"module": "keras.layers", "class_name": inner.kind, "config": inner.config}
    return Layer("TimeDistributed", named("TimeDistributed") | {"layer": entry}, inner.variables)


def conv(width: int, filters: int, kernel: int, padding: str, stride: int, dilation: int) -> Layer:
    config = named("Conv1D") | {
        "filters": filters,
        "activation": "relu",
        "use_bias": True,
    }
    config |= windows(kernel, padding, stride, dilation)
    return Layer("Conv1D", config, [draw(kernel, width, filters), draw(filters)])


def depthwise(width: int, kernel: int, multiplier: int) -> Layer:
    config = named("DepthwiseConv1D") | windows(kernel, "same")
    config |= {"depth_multiplier": multiplier, "activation": "tanh"}
    return Layer(
        "DepthwiseConv1D", config, [draw(kernel, width, multiplier), draw(width * multiplier)]
    )


def separable(width: int, filters: int, kernel: int, multiplier: int) -> Layer:
    config = named("SeparableConv1D") | windows(kernel, "valid")
    config |= {"depth_multiplier": multiplier, "filters": filters, "activation": "relu"}
    pointwise = draw(1, width * multiplier, filters)
    variables = [draw(kernel, width, multiplier), pointwise, draw(filters)]
    return Layer("SeparableConv1D", config, variables)


def windows(kernel: int, padding: str, stride: int = 1, dilation: int = 1) -> dict[str, Any]:
    return {
        "kernel_size": [kernel],
        "strides": [stride],
        "padding": padding,
        "dilation_rate": [dilation],
    }


def scaled(width: int) -> Layer:
    config = named("Normalization") | {"axis": [-1], "mean": None, "variance": None}
    counter = np.array(7, np.int32)
    return Layer("Normalization", config, [draw(width), abs(draw(width)) + 0.3, counter])


def batch_norm(width: int) -> Layer:
    config = named("BatchNormalization") | {"axis": -1, "epsilon": 1e-3}
    return Layer("BatchNormalization", config, [*draw(3, width), abs(draw(width)) + 0.3])


def layer_norm(width: int) -> Layer:
    config = named("LayerNormalization") | {"axis": -1, "epsilon": 1e-3}
    return Layer("LayerNormalization", config, [*draw(2, width)])


def plain(kind: str, **settings: Any) -> Layer:
    return Layer(kind, named(kind) | settings)
