"""y = x Wᵀ + b, at each step or for each sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from .arithmetic import arrays
from .interface import LayerConfig, RowLayer, Size
from .products import Matrix, Product, parameters
from .values import Value, floats, parts_of


class LinearConfig(LayerConfig):
    """nn.Linear, with its parameters: `weight` [width, D] and `bias` [width]."""

    type: Literal["linear"] = "linear"
    width: Size
    bias: bool = True
    groups: Size = Field(
        default=1, description="The same matrix is for each of so many parts of the row."
    )

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[rows, groups * D] -> [rows, groups * width]"""
        (x,) = map(floats, inputs)
        parts_of(x, self.groups)
        return {"": x.of_width(self.groups * self.width)}

    def build(self, *inputs: Value) -> Linear:
        return Linear(inputs[0].width // self.groups, self.width, self.bias, self.groups)


class Linear(Product, RowLayer):
    """See `LinearConfig`."""

    def __init__(self, depth: int, width: int, bias: bool, groups: int):
        super().__init__()
        self.weight, self.bias = parameters(width, depth, bias=bias)
        self._groups = groups

    def matrices(self) -> Sequence[Matrix]:
        return [Matrix(self.weight, self.bias)]

    def forward(self, rows: Tensor) -> Tensor:
        """[rows, groups * D] -> [rows, groups * width]"""
        if self._groups == 1:
            return self.multiply(rows)
        parts = arrays(rows, self._groups, -1).flatten(0, 1)
        return self.multiply(parts).view(len(rows), self._groups * len(self.weight))
