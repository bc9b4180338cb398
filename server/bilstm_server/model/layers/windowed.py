"""A layer that reads windows of steps, as `config.json` has it."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, model_validator

from .interface import LayerConfig, Size
from .values import Value, Window, steps

_MOST_STEPS = 2**20  # of a window from end to end, and of padding: far beyond any model

Padding = Annotated[NonNegativeInt, Field(le=_MOST_STEPS)]


class WindowConfig(LayerConfig):
    """Where the windows lie, as torch's convolutions have it: `padding` is the steps added at both
    ends of each sequence, or those before and behind, or "same": as many as keep its length."""

    kernel: Size
    stride: Size = 1
    dilation: Size = 1
    padding: Padding | tuple[Padding, Padding] | Literal["same"] = 0

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.window.span > _MOST_STEPS:
            raise ValueError(f"a window must span at most {_MOST_STEPS} steps")
        if self.padding == "same" and self.stride > 1:
            raise ValueError('padding "same" needs a stride of 1')
        return self

    @property
    def window(self) -> Window:
        """Where the windows lie."""
        window = Window(self.kernel, self.stride, self.dilation)
        if self.padding == "same":
            left, right = (window.span - 1) // 2, window.span // 2
        else:
            left, right = self.padding if isinstance(self.padding, tuple) else 2 * (self.padding,)
        return window._replace(left=left, right=right)

    def windows_of(self, x: Value, width: int) -> Value:
        """A row of floats, so wide, for each window of x. Raises `ValueError` for what has none."""
        return replace(steps(x).of_width(width), grid=x.grid.through(self.window))

    @property
    def not_live(self) -> str | None:
        return "it has a stride" if self.stride > 1 else None
