"""Python's numbers that remember where they come from: labels, once they have left torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from .elements import CONSTANT, Elements


class SymbolicInt(int):
    """An integer of a tensor that depends on an input."""

    where: int


class SymbolicFloat(float):
    """A float of a tensor that depends on an input."""

    where: int


class SymbolicArray(np.ndarray):
    """An array of a tensor that depends on an input. Parts of it remember where they come from;
    what numpy computes of it does not, and has None."""

    where: Elements | None

    def __array_finalize__(self, of: Any) -> None:
        self.where = None

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        if self.where is None:
            return part
        if not isinstance(part, SymbolicArray):
            return symbols_of(part.item(), self.where[key])
        part.where = self.where[key]
        return part

    def tolist(self) -> Any:
        """Nested lists of numbers, which remember too."""
        plain = super().tolist()
        return plain if self.where is None else symbols_of(plain, self.where)


def symbols_of(plain: Any, where: Elements) -> Any:
    """The same number, or nested lists of numbers, with their elements."""
    if isinstance(plain, list):
        return [symbols_of(part, its) for part, its in zip(plain, where, strict=True)]
    if isinstance(plain, bool) or int(where.reshape(())) == CONSTANT:
        return plain
    symbol: SymbolicInt | SymbolicFloat = (
        SymbolicInt(plain) if isinstance(plain, int) else SymbolicFloat(plain)
    )
    symbol.where = int(where.reshape(()))
    return symbol


def where_of(value: Any) -> Elements | None:
    """The elements of nested lists of numbers; None for what is no such list."""
    if isinstance(value, SymbolicInt | SymbolicFloat):
        return np.array(value.where)
    if isinstance(value, SymbolicArray) and value.where is not None:
        return value.where
    if isinstance(value, int | float | np.integer | np.floating):
        return np.array(CONSTANT)
    if not isinstance(value, list | tuple) or not value:
        return None
    parts = [part for part in map(where_of, value) if part is not None]
    shapes = {part.shape for part in parts}
    return np.stack(parts) if len(parts) == len(value) and len(shapes) == 1 else None
