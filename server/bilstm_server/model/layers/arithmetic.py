"""Arithmetic of rows whose bits do not depend on how many rows there are, or how they lie.

torch computes the last numbers of a block one by one, and the others in vectors. Its sums over
columns, `maximum`, `sigmoid` and some others differ between the two in the last bit, so that a
row's result would depend on its place in the batch. Additions, products, quotients, comparisons,
roots, `exp`, `expm1`, `log`, `log1p`, `tanh`, `erf`, `softmax` and `layer_norm` do not; what layers
compute is made of these. `tests/model/layers` holds each of them to it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Fold = Callable[[Tensor, Tensor], Tensor]


def wide(x: Tensor) -> Tensor:
    """The same numbers, in float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def arrays(rows: Tensor, *sizes: int) -> Tensor:
    """Each row as an array of these sizes, of which one may be -1: [rows, D] -> [rows, *sizes]"""
    return torch.unflatten(rows, 1, sizes)


def fold(function: Fold, x: Tensor) -> Tensor:
    """Reduce [rows, n, …] to [rows, …], n at least 1: pairwise, halves with each other."""
    count = x.shape[1]
    if count == 1:
        return x[:, 0]
    half = 1 << (count - 1).bit_length() - 1  # the largest power of two below
    lower, upper = x[:, :half], x[:, half:]
    if count == 2 * half:
        return fold(function, function(lower, upper))
    return function(fold(function, lower), fold(function, upper))


def total(x: Tensor) -> Tensor:
    """The sum of [rows, n, …] over n."""
    return fold(torch.add, x)


def largest(x: Tensor) -> Tensor:
    """The maximum of [rows, n, …] over n; NaN where there is one."""
    return fold(torch.maximum, x) + 0.0  # no -0.0: which of two zeros is the larger one varies


def smallest(x: Tensor) -> Tensor:
    """The minimum of [rows, n, …] over n; NaN where there is one."""
    return fold(torch.minimum, x) + 0.0  # as above


def product(x: Tensor) -> Tensor:
    """The product of [rows, n, …] over n."""
    return fold(torch.mul, x)


def mean(x: Tensor) -> Tensor:
    """The mean of [rows, n, …] over n."""
    return total(x) / x.shape[1]


def logsumexp(x: Tensor) -> Tensor:
    """The logarithm of the sum of the exponentials of [rows, n, …] over n."""
    peak = largest(x.detach())
    peak = peak.masked_fill(peak.isinf(), 0.0)  # infinity minus infinity would be no number
    return torch.log(total(torch.exp(x - peak.unsqueeze(1)))) + peak
