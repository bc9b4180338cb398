"""Normalizations: of columns by numbers of the training data, or of each step by its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import elements
from ..columns import value_of
from ..elements import Elements
from ..rows import Aligned
from ..trace import Call, Numbers, numbers, operation
from .numbers import Operand, affine, combine, function
from .reductions import Fibres, reduced


@operation(
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm", "batch_norm", "_batch_norm_no_update", "_batch_norm_with_update",
)  # fmt: skip
def batch_norm(call: Call) -> tuple[Elements | None, ...]:
    """A factor and a shift for each channel, which is the second axis."""
    mean, variance = call.fixed("running_mean"), call.fixed("running_var")
    where = call.elements("input")
    eps = float(call["eps"])
    weight, bias = call.fixed("weight"), call.fixed("bias")
    if call.get("training", False) or mean is None or variance is None:
        if call.place.kind.startswith("BatchNorm"):
            call.trace.note(
                f"{call.place}: takes mean and variance of each sequence itself; where it was "
                "trained, they were those of a batch."
            )
        axes = [axis for axis in range(where.ndim) if axis != 1]
        return _affine(call, _standardized(call, where, axes, eps), weight, bias), None, None
    channels = np.arange(where.shape[1]).reshape(-1, *[1] * (where.ndim - 2))
    channel = np.broadcast_to(channels, where.shape)

    def emit(aligned: Aligned) -> int:
        source = value_of(call.graph, aligned.columns[:, 0], call.place)
        chosen = torch.from_numpy(aligned.keys)
        given = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": variance}
        tensors = {name: t.detach().cpu()[chosen] for name, t in given.items() if t is not None}
        fields = {"eps": eps, "weight": weight is not None, "bias": bias is not None}
        like = call.graph.like(source, width=aligned.number)
        return call.graph.add("batch_norm", [source], like, call.place, tensors, **fields).slot

    made = call.row_wise(where.reshape(-1, 1), emit, channel.reshape(-1))
    return made.reshape(where.shape), None, None


@operation("native_layer_norm")
def layer_norm(call: Call) -> tuple[Elements | None, ...]:
    """Each fibre of the last axes by its own mean and variance."""
    where = call.elements("input")
    size = int(np.prod(call["normalized_shape"]))
    weight, bias = call.fixed("weight"), call.fixed("bias")

    def emit(aligned: Aligned) -> int:
        return _norm(call, "layer_norm", aligned, weight, bias)

    known = numbers(call["input"]).reshape(-1, size)
    made = call.row_wise(where.reshape(-1, size), emit, known=known)
    return made.reshape(where.shape), None, None


@operation("native_group_norm")
def group_norm(call: Call) -> tuple[Elements | None, ...]:
    """Groups of channels [N, C, …] by their own mean and variance, of one step or of all."""
    where = call.elements("input")
    batch, groups = where.shape[0], int(call["group"])
    fibres = where.reshape(batch * groups, -1)
    weight, bias = call.fixed("weight"), call.fixed("bias")
    rows = elements.row_of(fibres)
    if (rows == rows[:, :1]).all():
        made = call.row_wise(fibres, lambda aligned: _norm(call, "layer_norm", aligned, None, None))
    else:
        made = _standardized(call, fibres, [1], float(call["eps"]))
    return _affine(call, made.reshape(where.shape), weight, bias), None, None


def _standardized(call: Call, where: Elements, axes: list[int], eps: float) -> Elements:
    """Numbers less their mean along some axes, by their deviation: of steps or of columns."""
    x = _operand(where)
    shape = [1 if axis in axes else size for axis, size in enumerate(where.shape)]

    def mean_of(operand: Operand) -> Operand:
        fibres = Fibres(operand, axes)
        return _operand(reduced(call, "mean", fibres.where, None).reshape(shape))

    apart = combine(call, "subtract", x, mean_of(x))
    variance = mean_of(function(call, "square", apart))
    deviation = function(call, "sqrt", affine(call, variance, shift=eps))
    return combine(call, "divide", apart, deviation).where


def _affine(call: Call, where: Elements, weight: Tensor | None, bias: Tensor | None) -> Elements:
    """Times a factor and with a shift for each channel, which is the second axis."""
    shape = [1, where.shape[1], *[1] * (where.ndim - 2)]
    factor = 1.0 if weight is None else numbers(weight).reshape(shape)
    shift = 0.0 if bias is None else numbers(bias).reshape(shape)
    return affine(call, _operand(where), factor, shift).where


def _operand(where: Elements) -> Operand:
    return Operand(where, np.zeros(where.shape))


def _norm(
    call: Call, layer: str, aligned: Aligned, weight: Tensor | None, bias: Tensor | None
) -> int:
    source = value_of(call.graph, aligned.columns.reshape(-1), call.place)
    tensors = {"weight": weight, "bias": bias}
    fields: dict[str, Any] = {"eps": float(call["eps"])}
    fields |= {name: tensor is not None for name, tensor in tensors.items()}
    if aligned.number > 1:
        fields["groups"] = aligned.number
    given = {name: tensor.reshape(-1) for name, tensor in tensors.items() if tensor is not None}
    like = call.graph.like(source, width=call.graph.value(source).width)
    return call.graph.add(layer, [source], like, call.place, given, **fields).slot


def rms_norm(call: Call) -> Elements:
    """Each fibre of the last axes by the root of its mean square."""
    where = call.elements("input")
    size = int(np.prod(call["normalized_shape"]))
    weight = call.fixed("weight")
    eps = call.get("eps", torch.finfo(call["input"].dtype).eps)

    def emit(aligned: Aligned) -> int:
        source = value_of(call.graph, aligned.columns.reshape(-1), call.place)
        tensors = {} if weight is None else {"weight": weight.reshape(-1)}
        fields: dict[str, Any] = {"eps": float(eps), "weight": weight is not None}
        if aligned.number > 1:
            fields["groups"] = aligned.number
        like = call.graph.like(source, width=call.graph.value(source).width)
        return call.graph.add("rms_norm", [source], like, call.place, tensors, **fields).slot

    known: Numbers = numbers(call["input"]).reshape(-1, size)
    return call.row_wise(where.reshape(-1, size), emit, known=known).reshape(where.shape)
