"""Python's numbers that remember where they come from: labels, once they have left torch.

Whatever Python computes with them or decides by them is not recorded: their owner is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from torch.utils._pytree import tree_map

from .elements import CONSTANT, Elements
from .refusals import BY_NUMPY


class Owner(Protocol):
    """Who is told what Python does with the numbers: the trace."""

    def decide(self, reason: str = ...) -> None:
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


class SymbolicArray(np.ndarray):
    """An array of a tensor that depends on an input. Parts of it remember where they come from;
    what numpy computes of it does not, and has None."""

    where: Elements | None
    owner: Owner

    def __array_finalize__(self, of: Any) -> None:
        self.where = None
        if isinstance(of, SymbolicArray):
            self.owner = of.owner

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        if not isinstance(part, SymbolicArray):
            return self._left(part.item(), key)
        part.where = None if self.where is None else self.where[key]
        return part

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    def tolist(self) -> Any:
        """Nested lists of numbers, which remember too."""
        return self._left(super().tolist())

    def item(self, *index: Any) -> Any:
        """One number, which remembers too."""
        return self._left(super().item(*index), index if index else (0,) * self.ndim)

    def _left(self, plain: Any, key: Any = ()) -> Any:
        if self.where is None:
            self.owner.decide(BY_NUMPY)
            return plain
        return symbols_of(plain, self.where[key], self.owner)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **given: Any) -> Any:
        return self._plainly(getattr(ufunc, method), inputs, given)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return self._plainly(func, args, kwargs)

    def _plainly(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What numpy computes. One number, or one truth, forgets where it comes from."""
        args, kwargs = tree_map(_plain_array, (args, kwargs))
        made = func(*args, **kwargs)
        if not isinstance(made, np.ndarray):
            self.owner.decide(BY_NUMPY)
            return made
        array = made.view(SymbolicArray)
        array.owner = self.owner
        return array

    def __bool__(self) -> bool:
        self.owner.decide(BY_NUMPY)
        return bool(_plain_array(self))

    def __float__(self) -> float:
        self.owner.decide(BY_NUMPY)
        return float(_plain_array(self))

    def __int__(self) -> int:
        self.owner.decide(BY_NUMPY)
        return int(_plain_array(self))


def _plain_array(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, SymbolicArray) else value


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
    if isinstance(value, SymbolicArray) and value.where is not None:
        return value.where
    if isinstance(value, int | float | np.integer | np.floating):
        return np.array(CONSTANT)
    if not isinstance(value, list | tuple) or not value:
        return None
    parts = [part for part in map(where_of, value) if part is not None]
    shapes = {part.shape for part in parts}
    return np.stack(parts) if len(parts) == len(value) and len(shapes) == 1 else None
