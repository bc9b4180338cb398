"""`Turns`: whose turn it is, by deficit round robin (Shreedhar and Varghese, SIGCOMM 1995). Pure.

Each has credit in tokens, and more of it, by its weight, whenever its turn comes. Its turn goes on
while its credit is enough for what it has next. So over time each has its part, however large or
small its pieces are, and one that has little to do is never far from its turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

TURN_TOKENS = 256  # of a weight of 1: the less, the sooner everyone has had a turn


class TakesTurns(Protocol):
    """One that has something waiting."""

    credit: float  # tokens; below 0 it had more than its part

    @property
    def weight(self) -> float: ...
    @property
    def next_tokens(self) -> int:
        """How many tokens the first piece has of what waits."""
        ...


T = TypeVar("T", bound=TakesTurns)


class Turns(Generic[T]):
    """Those that have something waiting. Where it is only one, it is never charged."""

    def __init__(self) -> None:
        self._order: deque[T] = deque()

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[T]:
        """All, beginning with the one whose turn it is."""
        return iter(self._order)

    def add(self, one: T) -> None:
        """Add one whose turn is after that of all others."""
        one.credit = 0.0
        self._order.append(one)

    def remove(self, one: T) -> None:
        """Forget one that has nothing waiting any more, and its credit."""
        self._order.remove(one)

    def current(self) -> T:
        """The one whose turn it is. There must be one."""
        order = self._order
        if len(order) > 1:
            while order[0].credit < order[0].next_tokens:
                order.rotate(-1)
                order[0].credit += TURN_TOKENS * order[0].weight
        return order[0]

    def charge(self, one: T, tokens: int) -> None:
        """Take into account that it was served so many tokens, in its turn or beyond."""
        if len(self._order) > 1:
            one.credit -= tokens

    def credit(self, one: T) -> float:
        """How many tokens it may be served in its turn."""
        return one.credit if len(self._order) > 1 else float("inf")
