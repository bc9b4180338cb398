"""y = f(x), number by number."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, FiniteFloat, model_validator
from torch import Tensor, nn

from ..kernels import rounded
from .arithmetic import wide
from .functions import FUNCTIONS
from .interface import LayerConfig, RowLayer
from .values import Value, floats

Parameter = Annotated[FiniteFloat | None, Field(description="As torch has it; left out: as there.")]
PARAMETERS = ("negative_slope", "alpha", "beta", "threshold", "exponent", "min", "max")


class ActivationConfig(LayerConfig):
    """One of torch's activations or elementwise functions, with its parameters."""

    type: Literal["activation"] = "activation"
    function: Annotated[str, Field(json_schema_extra={"enum": sorted(FUNCTIONS)})]
    negative_slope: Parameter = None
    alpha: Parameter = None
    beta: Parameter = None
    threshold: Parameter = None
    exponent: Parameter = None
    min: Parameter = None
    max: Parameter = None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.function not in FUNCTIONS:
            raise ValueError(f"function must be one of {', '.join(sorted(FUNCTIONS))}")
        known = getattr(FUNCTIONS[self.function], "__kwdefaults__", None) or ()
        if others := [name for name in self.parameters if name not in known]:
            has = f"only {', '.join(known)}" if known else "none"
            raise ValueError(f"{others[0]}: {self.function} has {has} of such parameters")
        if self.function == "clamp" and not self.parameters:
            raise ValueError("clamp needs min, max or both")
        if self.function == "power" and not self.parameters:
            raise ValueError("power needs exponent")
        return self

    @property
    def parameters(self) -> dict[str, float]:
        """The function's parameters that are not left out."""
        values = ((name, getattr(self, name)) for name in PARAMETERS)
        return {name: value for name, value in values if value is not None}

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[rows, D] -> [rows, D]"""
        (x,) = map(floats, inputs)
        return {"": x.of_width(x.width)}

    def build(self, *inputs: Value) -> Activation:
        return Activation(self)


class Activation(RowLayer):
    """See `ActivationConfig`."""

    def __init__(self, config: ActivationConfig):
        super().__init__()
        self._function = partial(FUNCTIONS[config.function], **config.parameters)

    def forward(self, rows: Tensor) -> Tensor:
        """[rows, D] -> [rows, D]"""
        return rounded(self._function(wide(rows)), rows.dtype)


class PreluConfig(LayerConfig):
    """nn.PReLU: x where it is positive, else weight x; `weight` is [D], or [1] for all columns."""

    type: Literal["prelu"] = "prelu"
    shared: bool = True

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[rows, D] -> [rows, D]"""
        (x,) = map(floats, inputs)
        return {"": x.of_width(x.width)}

    def build(self, *inputs: Value) -> Prelu:
        return Prelu(1 if self.shared else inputs[0].width)


class Prelu(RowLayer):
    """See `PreluConfig`."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), 0.25))

    def forward(self, rows: Tensor) -> Tensor:
        """[rows, D] -> [rows, D]"""
        return torch.where(rows > 0, rows, self.weight * rows)
