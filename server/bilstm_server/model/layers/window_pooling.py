"""The maximum or the mean of windows of steps, column by column.

max_pool1d:  y_t = max_j x_(t * stride - left + j * dilation)
avg_pool1d:  y_t = Σ_j x_(…) / kernel, or by the steps that are the sequence's own
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from ..kernels import rounded
from .arithmetic import arrays, largest, total, wide
from .interface import WindowConfig, WindowLayer
from .values import Value, Window


class _PoolConfig(WindowConfig):
    @model_validator(mode="after")
    def _has_steps(self) -> Self:
        window = self.window
        if max(window.left, window.right) >= window.span:
            raise ValueError("padding must be less than what a window spans")
        return self

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[N, D] -> [N', D]"""
        (x,) = inputs
        return {"": self.windows_of(x, x.width)}


class MaxPool1dConfig(_PoolConfig):
    """nn.MaxPool1d: the largest of a window's steps that are the sequence's own. A stride that is
    left out is 1, not the kernel."""

    type: Literal["max_pool1d"] = "max_pool1d"

    def build(self, *inputs: Value) -> MaxPool1d:
        return MaxPool1d(self.window)


class MaxPool1d(WindowLayer):
    """See `MaxPool1dConfig`."""

    padding_value = -torch.inf

    def __init__(self, window: Window):
        super().__init__()
        self.window = window

    def forward(self, windows: Tensor) -> Tensor:
        """[rows, kernel * D] -> [rows, D]"""
        return largest(arrays(windows, self.window.kernel, -1))


class AvgPool1dConfig(_PoolConfig):
    """nn.AvgPool1d: the mean of a window's steps, with the padding's zeros or without them. A
    stride that is left out is 1, not the kernel."""

    type: Literal["avg_pool1d"] = "avg_pool1d"
    count_include_pad: bool = True

    def build(self, *inputs: Value) -> AvgPool1d:
        return AvgPool1d(self.window, self.count_include_pad)


class AvgPool1d(WindowLayer):
    """See `AvgPool1dConfig`."""

    def __init__(self, window: Window, count_include_pad: bool):
        super().__init__()
        self.window = window
        self.marks_steps = not count_include_pad and window.left + window.right > 0

    def forward(self, windows: Tensor) -> Tensor:
        """[rows, kernel * D] -> [rows, D], or of marked ones [rows, kernel * (D + 1)]"""
        sums = total(arrays(wide(windows), self.window.kernel, -1))
        if self.marks_steps:
            return rounded(sums[:, :-1] / sums[:, -1:], windows.dtype)
        return rounded(sums / self.window.kernel, windows.dtype)
