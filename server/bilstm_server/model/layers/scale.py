"""y = weight x + bias, column by column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from .interface import LayerConfig, RowLayer
from .values import Value, floats


class ScaleConfig(LayerConfig):
    """A factor `weight` and a shift `bias` for each column, [D], or one of the two."""

    type: Literal["scale"] = "scale"
    weight: bool = True
    bias: bool = True

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if not (self.weight or self.bias):
            raise ValueError("must have weight or bias")
        return self

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[rows, D] -> [rows, D]"""
        (x,) = map(floats, inputs)
        return {"": x.of_width(x.width)}

    def build(self, *inputs: Value) -> Scale:
        return Scale(self, inputs[0].width)


class Scale(RowLayer):
    """See `ScaleConfig`."""

    def __init__(self, config: ScaleConfig, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width)) if config.weight else None
        self.bias = nn.Parameter(torch.zeros(width)) if config.bias else None

    def forward(self, rows: Tensor) -> Tensor:
        """[rows, D] -> [rows, D]"""
        if self.weight is not None:
            rows = rows * self.weight
        return rows if self.bias is None else rows + self.bias
