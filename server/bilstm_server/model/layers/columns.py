"""Some of a row's columns, others in their places, or several made one.

columns:         y = x[start:stop]
permute:         the row as an array of `shape`, its axes in another order
reduce:          the sum, mean, maximum or minimum over one axis of that array
sum_directions:  y = [first half] + [second half]
argmax:          y = the column of the largest number, an id
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, model_validator
from torch import Tensor

from ..kernels import rounded
from .arithmetic import arrays, largest, logsumexp, mean, product, smallest, total, wide
from .interface import LayerConfig, RowLayer, Size
from .values import Value, floats

Shape = Annotated[tuple[Size, ...], Field(min_length=1, max_length=8)]


class ColumnsConfig(LayerConfig):
    """The columns from `start` to before `stop`."""

    type: Literal["columns"] = "columns"
    start: NonNegativeInt = 0
    stop: Size

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[rows, D] -> [rows, stop - start]"""
        (x,) = map(floats, inputs)
        if not self.start < self.stop <= x.width:
            raise ValueError(f"start and stop: {self.start} to {self.stop} are not in {x.width}")
        return {"": x.of_width(self.stop - self.start)}

    def build(self, *inputs: Value) -> Columns:
        return Columns(self.start, self.stop)


class Columns(RowLayer):
    """See `ColumnsConfig`."""

    def __init__(self, start: int, stop: int):
        super().__init__()
        self._columns = slice(start, stop)

    def forward(self, rows: Tensor) -> Tensor:
        """[rows, D] -> [rows, stop - start]"""
        return rows[:, self._columns].contiguous()


class _ArrayConfig(LayerConfig):
    shape: Shape

    def array(self, x: Value) -> Value:
        """The value itself. Raises `ValueError` unless its rows are arrays of `shape`."""
        if prod(self.shape) != floats(x).width:
            raise ValueError(f"shape: {list(self.shape)} is not that of {x.width} floats")
        return x


class PermuteConfig(_ArrayConfig):
    """The row as an array of `shape`, its axes in the order `order`, as `x.permute(order)`."""

    type: Literal["permute"] = "permute"
    order: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1, max_length=8)]

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if sorted(self.order) != list(range(len(self.shape))):
            raise ValueError(f"order must have each of shape's {len(self.shape)} axes once")
        return self

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[rows, D] -> [rows, D]"""
        (x,) = map(self.array, inputs)
        return {"": x}

    def build(self, *inputs: Value) -> Permute:
        return Permute(self.shape, self.order)


class Permute(RowLayer):
    """See `PermuteConfig`."""

    def __init__(self, shape: tuple[int, ...], order: tuple[int, ...]):
        super().__init__()
        self._shape = shape
        self._order = (0, *(axis + 1 for axis in order))

    def forward(self, rows: Tensor) -> Tensor:
        """[rows, D] -> [rows, D]"""
        return arrays(rows, *self._shape).permute(self._order).flatten(1)


class ReduceConfig(_ArrayConfig):
    """The row as an array of `shape`, its `axis` reduced to one number: `function` is sum, mean,
    max, min, prod or logsumexp."""

    type: Literal["reduce"] = "reduce"
    axis: NonNegativeInt
    function: Literal["sum", "mean", "max", "min", "prod", "logsumexp"]

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.axis >= len(self.shape):
            raise ValueError(f"axis must be below {len(self.shape)}, shape's number of axes")
        return self

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[rows, D] -> [rows, D / shape[axis]]"""
        (x,) = map(self.array, inputs)
        return {"": x.of_width(x.width // self.shape[self.axis])}

    def build(self, *inputs: Value) -> Reduce:
        return Reduce(self)


_FUNCTIONS = {
    "sum": total,
    "mean": mean,
    "max": largest,
    "min": smallest,
    "prod": product,
    "logsumexp": logsumexp,
}


class Reduce(RowLayer):
    """See `ReduceConfig`."""

    def __init__(self, config: ReduceConfig):
        super().__init__()
        before, after = config.shape[: config.axis], config.shape[config.axis + 1 :]
        self._shape = (prod(before), config.shape[config.axis], prod(after))
        self._function = _FUNCTIONS[config.function]

    def forward(self, rows: Tensor) -> Tensor:
        """[rows, D] -> [rows, D / shape[axis]]"""
        x = arrays(wide(rows), *self._shape).transpose(1, 2)
        return rounded(self._function(x).flatten(1), rows.dtype)


class SumDirectionsConfig(LayerConfig):
    """The sum of two directions that lie side by side."""

    type: Literal["sum_directions"] = "sum_directions"

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[rows, 2 * P] -> [rows, P]"""
        (x,) = map(floats, inputs)
        if x.width % 2:
            raise ValueError(f"reads two directions side by side, got {x.describe()}")
        return {"": x.of_width(x.width // 2)}

    def build(self, *inputs: Value) -> SumDirections:
        return SumDirections()


class SumDirections(RowLayer):
    """See `SumDirectionsConfig`."""

    def forward(self, rows: Tensor) -> Tensor:
        """[rows, 2 * P] -> [rows, P]"""
        width = rows.shape[1] // 2
        return rows[:, :width] + rows[:, width:]


class ArgmaxConfig(LayerConfig):
    """The column of the largest number of each row, the first of equal ones, as an id."""

    type: Literal["argmax"] = "argmax"

    def gives(self, *inputs: Value) -> Mapping[str, Value]:
        """[rows, D] -> ids [rows]"""
        (x,) = map(floats, inputs)
        return {"": replace(x, width=1, ids=x.width)}

    def build(self, *inputs: Value) -> Argmax:
        return Argmax()


class Argmax(RowLayer):
    """See `ArgmaxConfig`."""

    def forward(self, rows: Tensor) -> Tensor:
        """[rows, D] -> [rows] of int64"""
        return rows.argmax(1)
