"""`Turns`: whose turn it is, by deficit round robin (Shreedhar and Varghese, SIGCOMM 1995). Pure.

Each gets credit by its weight whenever its turn begins. Its turn goes on while its credit is enough
for what it has next. So over time each has its part, however large or small its pieces are.

One that has nothing waiting keeps its place, and gets its credit, until that is as much as it was
served last. So one that waits for each answer before it asks again has its part, too, if it asks
again in time; and one that has gone has no more than that when it comes back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar


class TakesTurns(Protocol):
    """One that has something waiting, or had it a moment ago."""

    credit: float  # below 0 it had more than its part
    last_cost: float  # of what it was served last; `Turns` sets it
    placed: bool  # whether it has a place among the others; `Turns` sets it

    @property
    def weight(self) -> float: ...
    @property
    def next_cost(self) -> float | None:
        """The cost of the first piece of what waits, None if nothing does."""
        ...


T = TypeVar("T", bound=TakesTurns)


class Turns(Generic[T]):
    """The order of those that take turns. While only one has something waiting, it is not
    charged."""

    def __init__(self, quantum: float, forget: Callable[[T], object] = lambda one: None):
        """`quantum` is the credit that a weight of 1 gets in each turn: the less, the sooner
        everyone has had one. `forget` is told of one that has lost its place."""
        self._quantum = quantum
        self._forget = forget
        self._order: deque[T] = deque()
        self._waiting = 0  # how many of them have something waiting
        self._in_turn: T | None = None  # the first one, once its turn has begun

    def __len__(self) -> int:
        """How many have something waiting."""
        return self._waiting

    def __iter__(self) -> Iterator[T]:
        """Those that have something waiting, beginning with the one whose turn it is."""
        return (one for one in self._order if one.next_cost is not None)

    def wait(self, one: T) -> None:
        """Take into account that one has something waiting again."""
        self._waiting += 1
        if not one.placed:
            one.placed = True
            one.credit = one.last_cost = 0.0
            self._order.append(one)

    def rest(self, one: T) -> None:
        """Take into account that one has nothing waiting any more. What is left of its credit is
        lost, and if it is its turn, that is over."""
        self._waiting -= 1
        one.credit = min(one.credit, 0.0)
        if not self._waiting:
            while self._order:
                self._drop()
        elif one is self._in_turn:
            self._in_turn = None
            self._order.rotate(-1)

    def current(self) -> T:
        """The one whose turn it is. There must be one that has something waiting."""
        while True:
            first = self._order[0]
            cost = first.next_cost
            if self._waiting == 1 and cost is not None:
                return first
            if first is not self._in_turn:
                self._in_turn = first
                first.credit += self._quantum * first.weight
            if cost is None:
                if first.credit >= first.last_cost:
                    self._drop()
                    continue
            elif first.credit >= cost:
                return first
            self._in_turn = None
            self._order.rotate(-1)

    def _drop(self) -> None:
        """Let the first one have no place any more."""
        one = self._order.popleft()
        self._in_turn = None
        one.placed = False
        self._forget(one)

    def charge(self, one: T, cost: float) -> None:
        """Take into account that it was served so much, in its turn or beyond."""
        if self._waiting > 1:
            one.credit -= cost
        if cost:
            one.last_cost = cost

    def credit(self, one: T) -> float:
        """How much it may be served in its turn."""
        return one.credit if self._waiting > 1 else float("inf")
