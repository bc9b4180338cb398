"""Functions of each number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .case import case, module

FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], dict[str, Any]]] = {
    "abs": (torch.abs, {}),
    "celu": (lambda x: F.celu(x, 1.5), {"alpha": 1.5}),
    "clamp": (lambda x: x.clamp(-0.3, 0.9), {"min": -0.3, "max": 0.9}),
    "cos": (torch.cos, {}),
    "elu": (F.elu, {}),
    "erf": (torch.erf, {}),
    "exp": (torch.exp, {}),
    "expm1": (torch.expm1, {}),
    "gelu": (F.gelu, {}),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), {}),
    "hardshrink": (F.hardshrink, {}),
    "hardsigmoid": (lambda x: F.relu6(x + 3) / 6, {}),  # torch's own has a rounded gradient
    "hardswish": (F.hardswish, {}),
    "hardtanh": (F.hardtanh, {}),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.2), {"negative_slope": 0.2}),
    "log": (torch.log, {}),
    "log1p": (torch.log1p, {}),
    "logsigmoid": (F.logsigmoid, {}),
    "mish": (F.mish, {}),
    "neg": (torch.neg, {}),
    "power": (lambda x: x**3, {"exponent": 3}),
    "reciprocal": (torch.reciprocal, {}),
    "relu": (F.relu, {}),
    "relu6": (F.relu6, {}),
    "rsqrt": (torch.rsqrt, {}),
    "selu": (F.selu, {}),
    "sigmoid": (torch.sigmoid, {}),
    "sign": (torch.sign, {}),
    "silu": (F.silu, {}),
    "sin": (torch.sin, {}),
    "softplus": (F.softplus, {}),
    "softshrink": (F.softshrink, {}),
    "softsign": (F.softsign, {}),
    "sqrt": (torch.sqrt, {}),
    "square": (torch.square, {}),
    "tanh": (torch.tanh, {}),
    "tanhshrink": (F.tanhshrink, {}),
    "thresholded_relu": (lambda x: F.threshold(x, 0.7, 0.0), {"threshold": 0.7}),
}

for _name, (_function, _parameters) in FUNCTIONS.items():
    case(
        _name,
        lambda state, x, function=_function: function(x),
        type="activation",
        function=_name,
        **_parameters,
    )
case(
    "softplus with beta and threshold",
    lambda state, x: F.softplus(x, 3.0, 2.0),
    type="activation",
    function="softplus",
    beta=3.0,
    threshold=2.0,
)
for _exponent in (0.0, 0.5, -2.0, 1.7, 9.0, 12.0, -1.5):
    case(
        f"power {_exponent}",
        lambda state, x, exponent=_exponent: x**exponent,
        type="activation",
        function="power",
        exponent=_exponent,
    )
case("prelu", module(nn.PReLU), type="prelu")
case("by column", module(lambda: nn.PReLU(6)), type="prelu", shared=False)
case("scale", lambda s, x: x * s["weight"] + s["bias"], type="scale")
case("factor", lambda s, x: x * s["weight"], type="scale", bias=False)
case("shift", lambda s, x: x + s["bias"], type="scale", weight=False)
