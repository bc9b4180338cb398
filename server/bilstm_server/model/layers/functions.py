"""The functions that `activation` has, named and parametrized as torch has them.

They are written out where torch's own would give a number other bits at other places of a tensor;
see `arithmetic`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def _sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))"""
    return (torch.exp(-x) + 1).reciprocal()


def _silu(x: Tensor) -> Tensor:
    """x sigmoid(x)"""
    return x / (torch.exp(-x) + 1)


def _gelu(x: Tensor) -> Tensor:
    """x Φ(x) = x (1 + erf(x / √2)) / 2"""
    return (torch.erf(x * math.sqrt(0.5)) + 1) * (x * 0.5)


def _gelu_tanh(x: Tensor) -> Tensor:
    """x (1 + tanh(√(2 / π) (x + 0.044715 x³))) / 2"""
    inner = (x * x * 0.044715 + 1) * (x * math.sqrt(2 / math.pi))
    return (torch.tanh(inner) + 1) * (x * 0.5)


def _softplus(x: Tensor, *, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta x)) / beta; x where beta x is beyond the threshold."""
    scaled = x * beta
    # The one that is not chosen is bounded, or it would have no gradient.
    return torch.where(
        scaled > threshold, x, torch.log1p(torch.exp(scaled.clamp(max=threshold))) / beta
    )


def _mish(x: Tensor) -> Tensor:
    """x tanh(log(1 + exp(x))) = x n / (n + 2), where n is exp(x) (exp(x) + 2)"""
    exponential = torch.exp(x.clamp(max=20))
    n = exponential * (exponential + 2)
    return x * (n / (n + 2))


def _elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """x where it is positive, else alpha (exp(x) - 1)"""
    return x.clamp(min=0) + torch.expm1(x.clamp(max=0)) * alpha


def _celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """x where it is positive, else alpha (exp(x / alpha) - 1)"""
    return x.clamp(min=0) + torch.expm1(x.clamp(max=0) / alpha) * alpha


def _selu(x: Tensor) -> Tensor:
    """1.0507… elu(x, alpha = 1.6733…)"""
    return _elu(x, alpha=1.6732632423543772848170429916717) * 1.0507009873554804934193349852946


def _leaky_relu(x: Tensor, *, negative_slope: float = 0.01) -> Tensor:
    """x where it is positive, else negative_slope x"""
    return torch.where(x > 0, x, x * negative_slope)


def _hardtanh(x: Tensor, *, min: float = -1.0, max: float = 1.0) -> Tensor:
    """x between min and max, else the nearer of the two"""
    return x.clamp(min, max)


def _clamp(x: Tensor, *, min: float | None = None, max: float | None = None) -> Tensor:
    """x between min and max, else the nearer of the two"""
    return x.clamp(min, max)


def _hardsigmoid(x: Tensor) -> Tensor:
    """relu6(x + 3) / 6"""
    return (x + 3).clamp(0, 6) / 6


def _hardswish(x: Tensor) -> Tensor:
    """x relu6(x + 3) / 6"""
    return x * (x + 3).clamp(0, 6) / 6


def _logsigmoid(x: Tensor) -> Tensor:
    """-log(1 + exp(-x))"""
    return x.clamp(max=0) - torch.log1p(torch.exp(-x.abs()))


def _softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|)"""
    return x / (x.abs() + 1)


def _tanhshrink(x: Tensor) -> Tensor:
    """x - tanh(x)"""
    return x - torch.tanh(x)


def _softshrink(x: Tensor, *, threshold: float = 0.5) -> Tensor:
    """x nearer to zero by the threshold, 0 within it"""
    return x - x.clamp(-threshold, threshold)


def _hardshrink(x: Tensor, *, threshold: float = 0.5) -> Tensor:
    """x, but 0 within the threshold"""
    return torch.where(x.abs() <= threshold, 0.0, x)


def _threshold_relu(x: Tensor, *, threshold: float = 1.0) -> Tensor:
    """x beyond the threshold, else 0"""
    return torch.where(x <= threshold, 0.0, x)


def _rsqrt(x: Tensor) -> Tensor:
    """1 / √x"""
    return x.sqrt().reciprocal()


def _square(x: Tensor) -> Tensor:
    """x²"""
    return x * x


def _power(x: Tensor, *, exponent: float = 1.0) -> Tensor:
    """x to the power of exponent; to that of 0 it is 1"""
    if exponent == 0:
        return x.pow(0)
    if abs(exponent) == 0.5:
        return x.sqrt() if exponent > 0 else _rsqrt(x)
    if exponent == int(exponent) and 1 <= abs(exponent) <= 8:
        power = x
        for _ in range(int(abs(exponent)) - 1):
            power = power * x
        return power if exponent > 0 else power.reciprocal()
    size = torch.exp(torch.log(x.abs().double()) * exponent).to(x.dtype)
    if exponent == int(exponent):
        return torch.where(x < 0, -size, size) if exponent % 2 else size
    return torch.where(x < 0, torch.nan, size)


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "abs": torch.abs,
    "celu": _celu,
    "clamp": _clamp,
    "cos": torch.cos,
    "elu": _elu,
    "erf": torch.erf,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "hardshrink": _hardshrink,
    "hardsigmoid": _hardsigmoid,
    "hardswish": _hardswish,
    "hardtanh": _hardtanh,
    "leaky_relu": _leaky_relu,
    "log": torch.log,
    "log1p": torch.log1p,
    "logsigmoid": _logsigmoid,
    "mish": _mish,
    "neg": torch.neg,
    "power": _power,
    "reciprocal": torch.reciprocal,
    "relu": torch.relu,
    "relu6": lambda x: x.clamp(0, 6),
    "rsqrt": _rsqrt,
    "selu": _selu,
    "sigmoid": _sigmoid,
    "sign": torch.sign,
    "silu": _silu,
    "sin": torch.sin,
    "softplus": _softplus,
    "softshrink": _softshrink,
    "softsign": _softsign,
    "sqrt": torch.sqrt,
    "square": _square,
    "tanh": torch.tanh,
    "tanhshrink": _tanhshrink,
    "thresholded_relu": _threshold_relu,
}
