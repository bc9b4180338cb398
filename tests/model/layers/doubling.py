"""A layer type that the house does not have: `test_new_type` adds this file to a copy of it.

y = factor x
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from bilstm_server.model.layers.interface import LayerConfig, RowLayer
from bilstm_server.model.layers.values import Value, floats


class DoublingConfig(LayerConfig):
    """Every number times `factor`, and times the parameter `weight` [1]."""

    type: Literal["doubling"] = "doubling"
    factor: float = 2.0

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[rows, D] -> [rows, D]"""
        (x,) = map(floats, inputs)
        return {"": x}

    def build(self, *inputs: Value) -> Doubling:
        return Doubling(self.factor)


class Doubling(RowLayer):
    """See `DoublingConfig`."""

    def __init__(self, factor: float):
        super().__init__()
        self._factor = factor
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, rows: Tensor) -> Tensor:
        """[rows, D] -> [rows, D]"""
        return rows * self.weight * self._factor
