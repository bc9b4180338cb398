"""y_h = scale Σ_i x_hi q_hi: the product of a row with another, for each head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import FiniteFloat
from torch import Tensor

from ..kernels import rounded
from .arithmetic import arrays, total, wide
from .interface import LayerConfig, RowLayer, Size
from .values import Value, parts_of, together


class DotConfig(LayerConfig):
    """The dot product of two rows, or of each of `heads` parts of them: scores of attention, where
    the second is one of the sequence, a query."""

    type: Literal["dot"] = "dot"
    heads: Size = 1
    scale: FiniteFloat = 1.0

    number_of_inputs = 2

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[rows, heads * D], [rows, heads * D] -> [rows, heads]"""
        x, query = inputs
        if x.width != query.width:
            raise ValueError(f"reads values of one width, got {x.width} and {query.width}")
        parts_of(x, self.heads, "heads")
        return {"": together(inputs).of_width(self.heads)}

    def build(self, *inputs: Value) -> Dot:
        return Dot(self.heads, self.scale)


class Dot(RowLayer):
    """See `DotConfig`."""

    def __init__(self, heads: int, scale: float):
        super().__init__()
        self._heads = heads
        self._scale = scale

    def forward(self, *rows: Tensor) -> Tensor:
        """[rows, heads * D], [rows, heads * D] -> [rows, heads]"""
        x, query = rows
        products = arrays(wide(x) * wide(query), self._heads, -1)
        return rounded(total(products.transpose(1, 2)) * self._scale, x.dtype)
