"""y_t = [x_(t * stride - left), x_(t * stride - left + dilation), …], zeros beyond the edges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from .interface import WindowConfig, WindowLayer
from .values import Value, Window


class SpliceConfig(WindowConfig):
    """The rows of a window of steps, side by side: all columns of its first step, then all of the
    next one. With a kernel of 1 it takes one of every `stride` steps."""

    type: Literal["splice"] = "splice"

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[N, D] -> [N', kernel * D]"""
        (x,) = inputs
        return {"": self.windows_of(x, self.kernel * x.width)}

    def build(self, *inputs: Value) -> Splice:
        return Splice(self.window)


class Splice(WindowLayer):
    """See `SpliceConfig`."""

    def __init__(self, window: Window):
        super().__init__()
        self.window = window

    def forward(self, windows: Tensor) -> Tensor:
        """[rows, kernel * D] -> [rows, kernel * D]"""
        return windows
