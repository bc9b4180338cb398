"""Python's numbers that remember where they come from: labels, once they have left torch.

Whatever Python computes with them or decides by them is not recorded: their owner is told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from .elements import CONSTANT, Elements


class Owner(Protocol):
    """Who is told what Python does with the numbers: the trace."""

    def decide(self) -> None:
        """It computed with one, or decided by it."""

    def compare(self) -> None:
        """It asked whether an integer is another one."""


class SymbolicInt(int):
    """An integer of a tensor that depends on an input."""

    where: int
    owner: Owner


class SymbolicFloat(float):
    """A float of a tensor that depends on an input."""

    where: int
    owner: Owner


_COMPARISONS = ("eq", "ne")
_OPERATORS = (
    "lt", "le", "gt", "ge", "bool", "neg", "pos", "abs", "round", "trunc", "floor",
    "ceil", "int", "float", "invert",
)  # fmt: skip
_BOTH_WAYS = (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow", "and", "or", "xor",
    "lshift", "rshift",
)  # fmt: skip


def _watched(kind: type, name: str) -> Callable[..., Any]:
    plain = getattr(kind, name)

    is_comparison = kind is int and name.strip("_") in _COMPARISONS

    def operator(self: SymbolicInt | SymbolicFloat, *others: Any) -> Any:
        if is_comparison:
            self.owner.compare()
        else:
            self.owner.decide()
        return plain(self, *others)

    return operator


for _symbolic, _kind in ((SymbolicInt, int), (SymbolicFloat, float)):
    for _name in (*_COMPARISONS, *_OPERATORS, *_BOTH_WAYS, *(f"r{name}" for name in _BOTH_WAYS)):
        if hasattr(_kind, f"__{_name}__"):
            setattr(_symbolic, f"__{_name}__", _watched(_kind, f"__{_name}__"))


def symbol_of(plain: float, where: int, owner: Owner) -> SymbolicInt | SymbolicFloat:
    """The same number, with its element."""
    symbol: SymbolicInt | SymbolicFloat = (
        SymbolicInt(plain) if isinstance(plain, int) else SymbolicFloat(plain)
    )
    symbol.where, symbol.owner = where, owner
    return symbol


def symbols_of(plain: Any, where: Elements, owner: Owner) -> Any:
    """The same number, or nested lists of numbers, with their elements. Python's booleans can't
    remember any, and are used at once."""
    if isinstance(plain, list):
        return [symbols_of(part, its, owner) for part, its in zip(plain, where, strict=True)]
    if int(where.reshape(())) == CONSTANT:
        return plain
    if isinstance(plain, bool):
        owner.decide()
        return plain
    return symbol_of(plain, int(where.reshape(())), owner)


def where_of(value: Any) -> Elements | None:
    """The elements of nested lists of numbers; None for what is no such list."""
    if isinstance(value, SymbolicInt | SymbolicFloat):
        return np.array(value.where)
    if isinstance(value, int | float | np.integer | np.floating):
        return np.array(CONSTANT)
    if not isinstance(value, list | tuple) or not value:
        return None
    parts = [part for part in map(where_of, value) if part is not None]
    shapes = {part.shape for part in parts}
    return np.stack(parts) if len(parts) == len(value) and len(shapes) == 1 else None
