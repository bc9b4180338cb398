"""Normalization of rows.

layer_norm:  y = (x - mean) / √(var + eps) weight + bias     mean, var of the row or its parts
group_norm:  the same of each part, with weight and bias of the whole row
rms_norm:    y = x / √(mean of x² + eps) weight
batch_norm:  y = (x - running_mean) / √(running_var + eps) weight + bias     by column
normalize:   y = x / max(‖x‖, eps)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels import rounded
from .arithmetic import arrays, total, wide
from .interface import LayerConfig, RowLayer, Size
from .values import Value, floats, parts_of

Eps = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _NormConfig(LayerConfig):
    groups: Size = 1

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[rows, groups * D] -> [rows, groups * D]"""
        (x,) = map(floats, inputs)
        parts_of(x, self.groups)
        return {"": x.of_width(x.width)}


class LayerNormConfig(_NormConfig):
    """nn.LayerNorm over the row, or over each of `groups` parts of it: `weight` and `bias` [D]."""

    type: Literal["layer_norm"] = "layer_norm"
    eps: Eps = 1e-5
    weight: bool = True
    bias: bool = True

    def build(self, *inputs: Value) -> LayerNorm:
        return LayerNorm(self, inputs[0].width // self.groups)


class LayerNorm(RowLayer):
    """See `LayerNormConfig`."""

    def __init__(self, config: LayerNormConfig, width: int):
        super().__init__()
        self._shape = (config.groups, width)
        self._eps = config.eps
        self.weight = nn.Parameter(torch.ones(width)) if config.weight else None
        self.bias = nn.Parameter(torch.zeros(width)) if config.bias else None

    def forward(self, rows: Tensor) -> Tensor:
        """[rows, groups * D] -> [rows, groups * D]"""
        x = arrays(wide(rows), *self._shape)
        y = F.layer_norm(x, self._shape[1:], eps=self._eps)
        return rounded(_affine(y, self.weight, self.bias).flatten(1), rows.dtype)


class GroupNormConfig(_NormConfig):
    """nn.GroupNorm of rows [rows, groups * D]: `weight` and `bias` [groups * D]. It is that of
    [B, C], not of [B, C, T], which would be over the steps as well."""

    type: Literal["group_norm"] = "group_norm"
    eps: Eps = 1e-5
    weight: bool = True
    bias: bool = True

    def build(self, *inputs: Value) -> GroupNorm:
        return GroupNorm(self, inputs[0].width)


class GroupNorm(RowLayer):
    """See `GroupNormConfig`."""

    def __init__(self, config: GroupNormConfig, width: int):
        super().__init__()
        self._shape = (config.groups, width // config.groups)
        self._eps = config.eps
        self.weight = nn.Parameter(torch.ones(width)) if config.weight else None
        self.bias = nn.Parameter(torch.zeros(width)) if config.bias else None

    def forward(self, rows: Tensor) -> Tensor:
        """[rows, groups * D] -> [rows, groups * D]"""
        x = arrays(wide(rows), *self._shape)
        y = F.layer_norm(x, self._shape[1:], eps=self._eps).flatten(1)
        return rounded(_affine(y, self.weight, self.bias), rows.dtype)


class RmsNormConfig(_NormConfig):
    """nn.RMSNorm over the row, or over each of `groups` parts of it: `weight` [D]."""

    type: Literal["rms_norm"] = "rms_norm"
    eps: Eps = 1e-6
    weight: bool = True

    def build(self, *inputs: Value) -> RmsNorm:
        return RmsNorm(self, inputs[0].width // self.groups)


class RmsNorm(RowLayer):
    """See `RmsNormConfig`."""

    def __init__(self, config: RmsNormConfig, width: int):
        super().__init__()
        self._shape = (config.groups, width)
        self._eps = config.eps
        self.weight = nn.Parameter(torch.ones(width)) if config.weight else None

    def forward(self, rows: Tensor) -> Tensor:
        """[rows, groups * D] -> [rows, groups * D]"""
        x = arrays(wide(rows), *self._shape)
        squares = _parts_total(x * x) / self._shape[1]
        y = x / (squares + self._eps).sqrt()
        return rounded(_affine(y, self.weight, None).flatten(1), rows.dtype)


class BatchNormConfig(LayerConfig):
    """nn.BatchNorm1d as it is in inference: `weight` and `bias` [D], and of the training data
    `running_mean` and `running_var` [D]."""

    type: Literal["batch_norm"] = "batch_norm"
    eps: Eps = 1e-5
    weight: bool = True
    bias: bool = True

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[rows, D] -> [rows, D]"""
        (x,) = map(floats, inputs)
        return {"": x.of_width(x.width)}

    def build(self, *inputs: Value) -> BatchNorm:
        return BatchNorm(self, inputs[0].width)


class BatchNorm(RowLayer):
    """See `BatchNormConfig`."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, config: BatchNormConfig, width: int):
        super().__init__()
        self._eps = config.eps
        self.weight = nn.Parameter(torch.ones(width)) if config.weight else None
        self.bias = nn.Parameter(torch.zeros(width)) if config.bias else None
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, rows: Tensor) -> Tensor:
        """[rows, D] -> [rows, D]"""
        factor = (wide(self.running_var) + self._eps).sqrt().reciprocal()
        if self.weight is not None:
            factor = factor * self.weight
        shift = -self.running_mean * factor
        if self.bias is not None:
            shift = shift + self.bias
        return rounded(wide(rows) * factor + shift, rows.dtype)


class NormalizeConfig(_NormConfig):
    """F.normalize of the row, or of each of `groups` parts of it, to length 1. With `eps` 0 it is
    x / ‖x‖, so that a row of zeros becomes NaN."""

    type: Literal["normalize"] = "normalize"
    eps: Eps = 1e-12

    def build(self, *inputs: Value) -> Normalize:
        return Normalize(self.groups, self.eps)


class Normalize(RowLayer):
    """See `NormalizeConfig`."""

    def __init__(self, groups: int, eps: float):
        super().__init__()
        self._groups = groups
        self._eps = eps

    def forward(self, rows: Tensor) -> Tensor:
        """[rows, groups * D] -> [rows, groups * D]"""
        x = arrays(wide(rows), self._groups, -1)
        length = _parts_total(x * x).sqrt().clamp(min=self._eps)
        return rounded((x / length).flatten(1), rows.dtype)


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias


def _parts_total(x: Tensor) -> Tensor:
    """[rows, groups, D] -> [rows, groups, 1]"""
    return total(x.transpose(1, 2)).unsqueeze(2)
