"""y_i = exp(x_i) / Σ_j exp(x_j) over the columns of a row, or its logarithm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from ..kernels import rounded
from .arithmetic import arrays, wide
from .interface import LayerConfig, RowLayer, Size
from .values import Value, floats, parts_of


class SoftmaxConfig(LayerConfig):
    """The softmax of each row, or of each of `groups` parts of it. Over steps: `softmax_steps`."""

    type: Literal["softmax"] = "softmax"
    log: bool = False
    groups: Size = 1

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[rows, groups * D] -> [rows, groups * D]"""
        (x,) = map(floats, inputs)
        parts_of(x, self.groups)
        return {"": x.of_width(x.width)}

    def build(self, *inputs: Value) -> Softmax:
        return Softmax(self.log, self.groups)


class Softmax(RowLayer):
    """See `SoftmaxConfig`."""

    def __init__(self, log: bool, groups: int):
        super().__init__()
        self._log = log
        self._groups = groups

    def forward(self, rows: Tensor) -> Tensor:
        """[rows, groups * D] -> [rows, groups * D]"""
        x = arrays(wide(rows), self._groups, -1)
        y = x.log_softmax(2) if self._log else x.softmax(2)
        return rounded(y.flatten(1), rows.dtype)
