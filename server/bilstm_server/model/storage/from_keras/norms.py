"""Keras's normalizations and scalings of columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..drafts import Array
from .call import Call


def layer_normalization(call: Call) -> str:
    """`LayerNormalization`: `gamma`, `beta` [D]"""
    call.expect_columns()
    call.refuse("rms_scaling")
    fields, tensors, _ = _affine(call, 0)
    eps = call.settings.number("epsilon", 1e-3)
    return call.add("layer_norm", call.read(), tensors, eps=eps, **fields)


def batch_normalization(call: Call) -> str:
    """`BatchNormalization`: `gamma`, `beta`, `moving_mean`, `moving_variance` [D]"""
    call.expect_columns()
    call.refuse("renorm")
    fields, tensors, (mean, variance) = _affine(call, 2)
    tensors |= {"running_mean": mean, "running_var": variance}
    eps = call.settings.number("epsilon", 1e-3)
    return call.add("batch_norm", call.read(), tensors, eps=eps, **fields)


def unit_normalization(call: Call) -> str:
    """`UnitNormalization`: x / √max(Σ x², 1e-12)"""
    call.expect_columns()
    return call.add("normalize", call.read(), eps=1e-6)


def normalization(call: Call) -> str:
    """`Normalization`, adapted to data: `mean`, `variance` [D] and a counter"""
    call.expect_columns()
    call.refuse("invert")
    if "mean" in call.settings:
        raise ValueError("has its mean and variance in the config, which is not served")
    mean, variance, _ = call.arrays(3)
    weight = 1 / np.maximum(np.sqrt(variance), 1e-7)
    return call.add("scale", call.read(), {"weight": weight, "bias": -mean * weight})


def rescaling(call: Call) -> str:
    """`Rescaling`: scale x + offset, numbers"""
    scale, offset = call.settings.number("scale"), call.settings.number("offset", 0)
    width = call.value().width
    tensors = {"weight": np.full(width, scale), "bias": np.full(width, offset)}
    return call.add("scale", call.read(), tensors)


def _affine(call: Call, others: int) -> tuple[dict[str, bool], dict[str, Array], Sequence[Array]]:
    """The fields and tensors of a norm's factors and shifts, and its other variables."""
    fields = {
        "weight": call.settings.flag("scale", True),
        "bias": call.settings.flag("center", True),
    }
    arrays = call.arrays(sum(fields.values()) + others)
    names = [name for name, is_there in fields.items() if is_there]
    tensors = dict(zip(names, arrays, strict=False))
    return fields, tensors, arrays[len(names) :]
