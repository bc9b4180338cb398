"""y_t = b + Σ_j W_j x_(t * stride - left + j * dilation), where what lies beyond a sequence's own
edges is zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from ..kernels import rounded
from .arithmetic import arrays, total, wide
from .interface import Size, WindowConfig, WindowLayer
from .products import Matrix, Product, parameters
from .values import Value, parts_of


class Conv1dConfig(WindowConfig):
    """nn.Conv1d padded with zeros, with its parameters: `weight` [width, D / groups, kernel] and
    `bias` [width]."""

    type: Literal["conv1d"] = "conv1d"
    width: Size
    groups: Size = 1
    bias: bool = True

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[N, D] -> [N', width]"""
        (x,) = inputs
        y = self.windows_of(x, self.width)
        parts_of(x, self.groups)
        if self.width % self.groups:
            raise ValueError(f"groups: {self.groups} do not divide width, {self.width}")
        return {"": y}

    def build(self, *inputs: Value) -> Conv1d | DepthwiseConv1d:
        is_depthwise = 1 < self.groups == inputs[0].width
        return (DepthwiseConv1d if is_depthwise else Conv1d)(self, inputs[0].width)


class Conv1d(Product, WindowLayer):
    """See `Conv1dConfig`."""

    def __init__(self, config: Conv1dConfig, width: int):
        super().__init__()
        self.window = config.window
        self._groups = config.groups
        shape = (config.width, width // config.groups, config.kernel)
        self.weight, self.bias = parameters(*shape, bias=config.bias)

    def matrices(self) -> Sequence[Matrix]:
        # A window has all columns of its first step, then all of the next one.
        weights = self.weight.transpose(1, 2).flatten(1).chunk(self._groups)
        if self.bias is None:
            return [Matrix(weight, None) for weight in weights]
        return list(map(Matrix, weights, self.bias.chunk(self._groups)))

    def forward(self, windows: Tensor) -> Tensor:
        """[rows, kernel * D] -> [rows, width]"""
        if self._groups == 1:
            return self.multiply(windows)
        parts = arrays(windows, self.window.kernel, self._groups, -1).unbind(2)
        return torch.cat([self.multiply(x.flatten(1), g) for g, x in enumerate(parts)], dim=1)


class DepthwiseConv1d(WindowLayer):
    """A convolution whose groups have one column each; see `Conv1dConfig`."""

    def __init__(self, config: Conv1dConfig, width: int):
        super().__init__()
        self.window = config.window
        self._width = width
        self.weight, self.bias = parameters(config.width, 1, config.kernel, bias=config.bias)

    def forward(self, windows: Tensor) -> Tensor:
        """[rows, kernel * D] -> [rows, width]"""
        x = arrays(wide(windows), self.window.kernel, self._width, 1)
        weight = self.weight.view(self._width, -1, self.window.kernel).permute(2, 0, 1)
        y = total(x * weight.contiguous()).flatten(1)  # [kernel, D, width / D]
        return rounded(y if self.bias is None else y + self.bias, windows.dtype)
