"""Norms, variances and logarithms of sums: reductions that are made of several."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..elements import Elements
from ..trace import Call, operation
from .numbers import Operand, affine, combine, function
from .over_steps import pooled, whole_of
from .reductions import Fibres, axes_of, over, reduced


@operation("linalg_vector_norm", "norm")
def norm(call: Call) -> Elements:
    """Euclidean, or the sum of absolute values, or the largest of these."""
    order = call.get("ord", call.get("p", 2))
    x = Operand.of(call, call["self"])
    if order == 2:
        return function(
            call, "sqrt", _kept(over(call, "sum", call.get("dim"), function(call, "square", x)))
        ).where
    if order == 1:
        return over(call, "sum", call.get("dim"), function(call, "abs", x))
    if order == np.inf:
        return over(call, "max", call.get("dim"), function(call, "abs", x))
    call.check_all()
    raise call.refusal("has layers for p of 1, 2 and infinity only")


def _kept(where: Elements) -> Operand:
    return Operand(where, np.zeros(where.shape))


@operation("logsumexp")
def log_sum_exp(call: Call) -> Elements:
    """log(Σ exp(x))"""
    x = Operand.of(call, call["self"])
    fibres = Fibres(x, call["dim"])
    whole = whole_of(call, fibres.where)
    if whole is not None and whole.columns.shape[1] == 1:
        return pooled(call, "logsumexp", whole).reshape(tuple(call.result.shape))
    made = reduced(call, "logsumexp", fibres.where, fibres.numbers)
    return made.reshape(tuple(call.result.shape))


@operation("var", "std", "var_mean", "std_mean")
def variance(call: Call) -> Elements | tuple[Elements | None, ...]:
    """The mean square of what differs from the mean, or its root."""
    x, dims = Operand.of(call, call["self"]), call.get("dim")
    call.check_all()
    fibres = Fibres(x, dims)
    correction = float(call.get("correction", 1)) if call.get("unbiased", True) else 0.0
    is_root = "std" in call.name
    result = call.result[0] if isinstance(call.result, tuple) else call.result
    whole = whole_of(call, fibres.where)
    if whole is not None and whole.columns.shape[1] == 1 and correction == int(correction):
        layer = "std" if is_root else "variance"
        where = pooled(call, layer, whole, correction=int(correction))
    else:
        where = _spread(call, x, dims, fibres.where.shape[1], correction, is_root)
    where = where.reshape(tuple(result.shape))
    return (where, over(call, "mean", dims)) if isinstance(call.result, tuple) else where


def _spread(
    call: Call, x: Operand, dims: Any, count: int, correction: float, is_root: bool
) -> Elements:
    """Variance over columns: the mean square of what differs from the mean."""
    shape = list(x.where.shape)
    for axis in axes_of(dims, len(shape)):
        shape[axis] = 1
    mean = _kept(over(call, "mean", dims).reshape(shape))
    squares = function(call, "square", combine(call, "subtract", x, mean))
    made = affine(
        call, _kept(over(call, "mean", dims, squares)), factor=count / (count - correction)
    )
    return function(call, "sqrt", made).where if is_root else made.where
