"""`LongTurns`: whose long sequences are in the next slice. Pure.

Callers have turns by what they were served, in tokens by weight: the one that had least comes
first. One caller's sequences take turns with each other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from ..callers import Priority
from .shares import PRIORITY_RATIO, Shares


class Sliced(Protocol):
    """What must be known of a long sequence. It is told from others by identity."""

    @property
    def caller(self) -> str: ...
    @property
    def priority(self) -> Priority: ...


L = TypeVar("L", bound=Sliced)


class _Turn(Generic[L]):
    """The sequences of one caller and priority."""

    def __init__(self, weight: float, served: float):
        self.weight = weight
        self.served = served  # tokens by weight
        self.waiting: deque[L] = deque()  # the one whose turn it is first


class LongTurns(Generic[L]):
    """Long sequences that are computed, slice by slice."""

    def __init__(self, shares: Shares):
        self._shares = shares
        self._turns: dict[tuple[str, Priority], _Turn[L]] = {}

    def __bool__(self) -> bool:
        return bool(self._turns)

    def add(self, one: L) -> None:
        """Add a sequence. A caller that had none begins where the one is that was served least."""
        key = one.caller, one.priority
        if key not in self._turns:
            ratio = PRIORITY_RATIO ** (one.priority - Priority.NORMAL)
            self._turns[key] = _Turn(self._shares.weight(one.caller) * ratio, self._least())
        self._turns[key].waiting.append(one)

    def remove(self, one: L) -> None:
        """Forget a sequence that has ended."""
        key = one.caller, one.priority
        self._turns[key].waiting.remove(one)
        if not self._turns[key].waiting:
            del self._turns[key]

    def in_order(self, slice_tokens: int) -> Iterator[L]:
        """Those that may be in a slice of so many tokens, in the order of their turns: one of each
        caller, then another of each. A caller that is ahead by a slice has none in it."""
        least = self._least()
        turns = [turn for turn in self._turns.values() if turn.served < least + slice_tokens]
        turns.sort(key=lambda turn: turn.served)
        for place in range(max((len(turn.waiting) for turn in turns), default=0)):
            for turn in turns:
                if place < len(turn.waiting):
                    yield turn.waiting[place]

    def serve(self, one: L, tokens: int) -> None:
        """Take into account that a sequence is in a slice, with so many tokens."""
        turn = self._turns[one.caller, one.priority]
        turn.served += tokens / turn.weight
        turn.waiting.remove(one)
        turn.waiting.append(one)

    def _least(self) -> float:
        return min((turn.served for turn in self._turns.values()), default=0.0)
