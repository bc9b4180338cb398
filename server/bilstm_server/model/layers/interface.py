"""What a layer type is: its entry in `config.json`, and the module that runs it.

A type is a subclass of `LayerConfig` in a module of this package, and one of the four kinds of
`nn.Module` below, beside it. The package finds it there; nothing else needs to name it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Protocol, Self

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    StringConstraints,
    model_validator,
)
from torch import Tensor, nn

from ..kernels import Kernel
from .values import Value, Window, steps

_WORD = r"[A-Za-z_][A-Za-z0-9_]*"

Name = Annotated[str, StringConstraints(pattern=f"^{_WORD}$", max_length=64)]
# An input's or a layer's name, or a result of a layer that has several: `lstm.hidden`.
Reference = Annotated[str, StringConstraints(pattern=rf"^{_WORD}(\.{_WORD})?$", max_length=129)]
# Far beyond any model, and small enough that products of two sizes are sizes of tensors.
Size = Annotated[int, Field(ge=1, le=2**28)]

_MOST_STEPS = 2**20  # of a window from end to end, and of padding: far beyond any model

Padding = Annotated[NonNegativeInt, Field(le=_MOST_STEPS)]


class Strict(BaseModel):
    """Takes the fields that it has, and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LayerConfig(Strict):
    """One layer of a graph, as `config.json` has it."""

    name: Name
    inputs: tuple[Reference, ...] = Field(
        default=(), description="What it reads; left out: the layer before, or the model's input."
    )

    number_of_inputs: ClassVar[int | None] = 1
    """How many values the type reads; None: one or more."""

    forbidding: ClassVar[frozenset[str]] = frozenset()
    """The parameters in which minus infinity forbids something. In all others it is a mistake."""

    @abstractmethod
    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """The values that it gives for such inputs: its own under "", others by the name of the
        part. Raises `ValueError` in words if it can't read them."""

    @abstractmethod
    def build(self, *inputs: Value) -> nn.Module:
        """A module for such inputs, with parameters of arbitrary numbers."""

    @property
    def unsliceable(self) -> str | None:
        """Why the layer can't compute a long sequence a slice at a time, or None if it can."""
        return None

    @property
    def not_live(self) -> str | None:
        """Why the layer can't compute a sequence that is still going on, or None if it can."""
        return None


class WholeConfig(LayerConfig):
    """The entry of a `WholeLayer`, which slices run by its `sliced`."""

    @property
    def not_live(self) -> str | None:
        return "it reads the whole sequence"


class WindowConfig(LayerConfig):
    """The entry of a `WindowLayer`.

    Windows lie as torch's convolutions have them: `padding` is the steps added at both ends of each
    sequence, or those before and behind, or "same": as many as keep its length.
    """

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


class Layer(nn.Module):
    """A module of a graph. It may keep packed weights once it is frozen; see `BiLSTM.freeze`."""

    def freeze(self, kernel: Kernel) -> None:
        """Pack the weights of this moment for the kernel, and run them from now on."""


class RowLayer(Layer):
    """A function of each row by itself: of the rows of steps, or of those of sequences.

    `forward` takes the rows of its inputs, [rows, width] each (ids [rows]), and gives as many. On
    the CPU a row's result does not depend on the others by a bit.
    """


class WindowLayer(Layer):
    """A function of a window of steps.

    `forward` takes the rows of each window one after the other, [rows, kernel * width], and gives
    one row for each, [rows, width]. Where windows lie the graph knows by `window`.
    """

    window: Window
    padding_value: float = 0.0  # what the steps beyond a sequence's edges are made of
    marks_steps: bool = False  # whether each step has one more column: 1 if the sequence has it


class WholeLayer(Layer):
    """A function of a whole sequence.

    `forward(*rows, batch)` takes per-step inputs [N, width] and per-sequence ones [B, width], with
    the `RaggedBatch` of the former, and gives a tuple of its results, in the order of `gives`.
    """

    @abstractmethod
    def sliced(self, steps: int, dtype: torch.dtype) -> Accumulator:
        """What computes one sequence of so many steps, whose rows come a slice at a time, with
        the same bits as `forward`."""


class Accumulator(Protocol):
    """A `WholeLayer` on its way through one long sequence."""

    @property
    def add(self) -> Callable[..., None]:
        """`add(start, *rows)`: take the rows of the steps from `start` on, [n, width] of each
        per-step input, and the row [1, width] of each per-sequence one. Steps come in order. A
        slice begins at a multiple of `SEGMENT_STEPS`, and ends at one or with the sequence. All
        are on the CPU."""

    def result(self) -> tuple[Tensor, ...]:
        """What `forward` gives for the sequence, once all was added."""
