"""Keras's activation functions: a word in a layer's settings, or layers of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .call import Call

# Keras's words for torch's functions, and the parameters that Keras has.
_FUNCTIONS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "celu": ("celu", {}),
    "elu": ("elu", {}),
    "exponential": ("exp", {}),
    "gelu": ("gelu", {}),
    "hard_silu": ("hardswish", {}),
    "hard_swish": ("hardswish", {}),
    "hard_tanh": ("hardtanh", {}),
    "leaky_relu": ("leaky_relu", {"negative_slope": 0.2}),
    "log_sigmoid": ("logsigmoid", {}),
    "mish": ("mish", {}),
    "relu": ("relu", {}),
    "relu6": ("relu6", {}),
    "selu": ("selu", {}),
    "sigmoid": ("sigmoid", {}),
    "silu": ("silu", {}),
    "softplus": ("softplus", {}),
    "softsign": ("softsign", {}),
    "swish": ("silu", {}),
    "tanh": ("tanh", {}),
    "tanh_shrink": ("tanhshrink", {}),
}


def activate(call: Call, value: str, setting: str = "activation") -> str:
    """Apply the function that a layer has in its settings."""
    word = call.settings.function(setting)
    if word == "linear":
        return value
    if word == "softmax":
        return call.add("softmax", value)
    if word == "log_softmax":
        return call.add("softmax", value, log=True)
    if word == "hard_sigmoid":
        raise ValueError(
            f"{setting} is hard_sigmoid, by which Keras 2 and 3 mean two functions: not served"
        )
    if word not in _FUNCTIONS:
        raise ValueError(f"{setting} is {word}, which is not served")
    function, parameters = _FUNCTIONS[word]
    return call.add("activation", value, function=function, **parameters)


def activation(call: Call) -> str:
    """`Activation`"""
    return activate(call, call.read())


def softmax(call: Call) -> str:
    """`Softmax` over the columns, or over the steps"""
    if call.value().per_step and call.settings.size("axis", -1) in (1, -2):
        return call.add("softmax_steps", call.read())
    call.expect_columns()
    return call.add("softmax", call.read())


def relu(call: Call) -> str:
    """`ReLU`"""
    slope, limit = call.settings.number("negative_slope", 0), call.settings.content("max_value")
    if call.settings.number("threshold", 0) or (slope and limit is not None):
        raise ValueError("has a threshold, or a slope with a maximum, which is not served")
    if limit is not None:
        most = call.settings.number("max_value")
        return call.add("activation", call.read(), function="clamp", min=0, max=most)
    if slope:
        return call.add("activation", call.read(), function="leaky_relu", negative_slope=slope)
    return call.add("activation", call.read(), function="relu")


def leaky_relu(call: Call) -> str:
    """`LeakyReLU`"""
    name = "alpha" if "alpha" in call.settings else "negative_slope"
    slope = call.settings.number(name, 0.3)
    return call.add("activation", call.read(), function="leaky_relu", negative_slope=slope)


def elu(call: Call) -> str:
    """`ELU`"""
    alpha = call.settings.number("alpha", 1)
    return call.add("activation", call.read(), function="elu", alpha=alpha)
