"""What a layer type is: its entry in `config.json`, and the module that runs it.

A type is a subclass of `LayerConfig` in a module of this package, and one of the four kinds of
`nn.Module` below, beside it. The package finds it there; nothing else needs to name it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from torch import Tensor, nn

from ..kernels import Kernel
from .values import Value, Window

_WORD = r"[A-Za-z_][A-Za-z0-9_]*"

Name = Annotated[str, StringConstraints(pattern=f"^{_WORD}$", max_length=64)]
# An input's or a layer's name, or a result of a layer that has several: `lstm.hidden`.
Reference = Annotated[str, StringConstraints(pattern=rf"^{_WORD}(\.{_WORD})?$", max_length=129)]
# Far beyond any model, and small enough that products of two sizes are sizes of tensors.
Size = Annotated[int, Field(ge=1, le=2**28)]


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
