"""y = W[id], at each step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .interface import LayerConfig, RowLayer, Size
from .values import Value


class EmbeddingConfig(LayerConfig):
    """nn.Embedding, with its parameter: `weight` [ids, width], a row for each id of its input."""

    type: Literal["embedding"] = "embedding"
    width: Size

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """Ids [rows] -> [rows, width]"""
        (ids,) = inputs
        if not ids.ids or ids.sparse:
            raise ValueError(f"reads ids, got {ids.describe()}")
        return {"": ids.of_width(self.width)}

    def build(self, *inputs: Value) -> Embedding:
        return Embedding(inputs[0].ids, self.width)


class Embedding(RowLayer):
    """See `EmbeddingConfig`."""

    def __init__(self, ids: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(ids, width).normal_())

    def forward(self, ids: Tensor) -> Tensor:
        """[rows] -> [rows, width]"""
        return F.embedding(ids, self.weight)
