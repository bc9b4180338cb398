"""Several values of the same rows, made one: y = [a, b], a + b, a * b, a - b, a / b."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import add, mul
from typing import Literal

import torch
from torch import Tensor

from .interface import LayerConfig, RowLayer
from .values import Value, together


class ConcatConfig(LayerConfig):
    """The columns of all inputs, side by side. Values of a sequence are joined to each step."""

    type: Literal["concat"] = "concat"

    number_of_inputs = None

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[rows, D], [rows, E] … -> [rows, D + E + …]"""
        return {"": together(inputs).of_width(sum(value.width for value in inputs))}

    def build(self, *inputs: Value) -> Concat:
        return Concat()


class Concat(RowLayer):
    """See `ConcatConfig`."""

    def forward(self, *rows: Tensor) -> Tensor:
        """[rows, D], [rows, E] … -> [rows, D + E + …]"""
        return torch.cat(rows, dim=1)


class _ElementwiseConfig(LayerConfig):
    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[rows, D], [rows, D or 1] … -> [rows, D]"""
        widths = {value.width for value in inputs} - {1}
        if len(widths) > 1:
            raise ValueError(f"reads values of one width, got {sorted(widths)}")
        return {"": together(inputs).of_width(max(value.width for value in inputs))}


class AddConfig(_ElementwiseConfig):
    """The sum of all inputs, column by column; one of a single column is added to each."""

    type: Literal["add"] = "add"

    number_of_inputs = None

    def build(self, *inputs: Value) -> Add:
        return Add()


class Add(RowLayer):
    """See `AddConfig`."""

    def forward(self, *rows: Tensor) -> Tensor:
        """[rows, D or 1] … -> [rows, D]"""
        return reduce(add, rows)


class MultiplyConfig(_ElementwiseConfig):
    """The product of all inputs, column by column, as gates need; one of a single column is
    multiplied with each."""

    type: Literal["multiply"] = "multiply"

    number_of_inputs = None

    def build(self, *inputs: Value) -> Multiply:
        return Multiply()


class Multiply(RowLayer):
    """See `MultiplyConfig`."""

    def forward(self, *rows: Tensor) -> Tensor:
        """[rows, D or 1] … -> [rows, D]"""
        return reduce(mul, rows)


class SubtractConfig(_ElementwiseConfig):
    """The first input minus the second, column by column; one of a single column goes with each."""

    type: Literal["subtract"] = "subtract"

    number_of_inputs = 2

    def build(self, *inputs: Value) -> Subtract:
        return Subtract()


class Subtract(RowLayer):
    """See `SubtractConfig`."""

    def forward(self, *rows: Tensor) -> Tensor:
        """[rows, D or 1], [rows, D or 1] -> [rows, D]"""
        x, y = rows
        return x - y


class DivideConfig(_ElementwiseConfig):
    """The first input by the second, column by column; one of a single column goes with each."""

    type: Literal["divide"] = "divide"

    number_of_inputs = 2

    def build(self, *inputs: Value) -> Divide:
        return Divide()


class Divide(RowLayer):
    """See `DivideConfig`."""

    def forward(self, *rows: Tensor) -> Tensor:
        """[rows, D or 1], [rows, D or 1] -> [rows, D]"""
        x, y = rows
        return x / y
