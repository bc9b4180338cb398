"""What flows between a graph's layers: a row for each step, or one for each sequence. Pure data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np


class Window(NamedTuple):
    """Where a layer's windows of steps lie: output step t reads the `kernel` steps
    t * stride - left + j * dilation. What lies beyond the sequence's own edges is padding.
    """

    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    left: int = 0  # steps of padding before the first step
    right: int = 0  # and behind the last

    @property
    def span(self) -> int:
        """The steps from a window's first one to its last one, both included."""
        return self.dilation * (self.kernel - 1) + 1


class Thinning(NamedTuple):
    """How many rows a window layer leaves of T: (T + add) // stride + 1."""

    add: int
    stride: int


@dataclass(frozen=True, slots=True)
class Grid:
    """How many rows a per-step value has for a sequence of T steps: each window layer on the way
    leaves some of them."""

    thinnings: tuple[Thinning, ...] = ()

    def through(self, window: Window) -> Grid:
        """The grid of what a window layer gives that reads a value of this one."""
        thinning = Thinning(window.left + window.right - window.span, window.stride)
        return self if thinning == (-1, 1) else Grid((*self.thinnings, thinning))

    def rows(self, steps: np.ndarray) -> np.ndarray:
        """The rows of sequences of so many steps; below one where a sequence is too short."""
        for add, stride in self.thinnings:
            steps = (steps + add) // stride + 1
        return steps

    @property
    def min_steps(self) -> int:
        """The steps of the shortest sequence that has a row on every grid on the way."""
        steps = 1
        for add, stride in reversed(self.thinnings):
            steps = max(1, (steps - 1) * stride - add)
        return steps


EVERY_STEP = Grid()


@dataclass(frozen=True, slots=True)
class Value:
    """The form of one value: its rows, one below the other, [rows, width] of floats or [rows] of
    integers."""

    width: int  # numbers a row; 1 for integers
    per_step: bool = True  # a row for each step of the grid; else one for each sequence
    ids: int = 0  # the integers are 0 to ids - 1; 0: floats
    grid: Grid = EVERY_STEP
    sparse: bool = False  # rows below zero stand for none: what a caller gets is without them

    def of_width(self, width: int) -> Value:
        """As many rows of floats, so wide."""
        return replace(self, width=width, ids=0, sparse=False)

    def per_sequence(self, width: int) -> Value:
        """One row of floats for each sequence, so wide."""
        return Value(width, per_step=False)

    def describe(self) -> str:
        """The form in words, for errors and tables."""
        rows = "each step" if self.per_step else "each sequence"
        return f"{f'ids below {self.ids}' if self.ids else f'{self.width} floats'} for {rows}"


def floats(value: Value) -> Value:
    """The value itself. Raises `ValueError` if it has integers."""
    if value.ids:
        raise ValueError(f"reads floats, got {value.describe()}")
    return value


def parts_of(value: Value, count: int, name: str = "groups") -> int:
    """The columns of each of so many equal parts of a row. Raises `ValueError` if there are none
    such; `name` is what the parts are."""
    if value.width % count:
        raise ValueError(f"{name}: {count} do not divide {value.width} floats")
    return value.width // count


def steps(value: Value) -> Value:
    """The value itself. Raises `ValueError` unless it has a row of floats for each step."""
    if not value.per_step:
        raise ValueError(f"reads a row for each step, got {value.describe()}")
    return floats(value)


def together(values: tuple[Value, ...]) -> Value:
    """The first per-step one of the values, or if there is none the first one.

    Raises `ValueError` for integers, and where their steps are not the same.
    """
    for value in values:
        floats(value)
    with_steps = [value for value in values if value.per_step]
    if len({value.grid for value in with_steps}) > 1:
        raise ValueError(
            "reads values with different numbers of steps: one has come through a stride, "
            "or has lost its edges"
        )
    return (with_steps or list(values))[0]
