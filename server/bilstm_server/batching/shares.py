"""`Shares`: what part each caller has of what callers share, by its weight. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

PRIORITY_RATIO = 8.0  # of the weights of two priorities, one above the other
_DEFAULT_WEIGHT = 1.0
_SHARED_SECONDS = 10.0  # after a second caller came there may be more of them


class Shares:
    """The weights of all callers, and which of them have something waiting. Others aren't kept."""

    def __init__(self, weights: Mapping[str, float]):
        """`weights` of callers by their names; that of all others is 1."""
        self._weights = weights
        self._present: dict[str, int] = {}  # how often each has entered and not left
        self._total = 0.0  # of the weights of those
        self._last: str | None = None  # who called last
        self._shared_at = -math.inf  # when somebody else had called before

    def weight(self, caller: str) -> float:
        """The caller's weight."""
        return self._weights.get(caller, _DEFAULT_WEIGHT)

    def note(self, caller: str, now: float) -> None:
        """Take into account that the caller has called, whatever becomes of it."""
        if caller != self._last:
            if self._last is not None:
                self._shared_at = now
            self._last = caller

    def are_wanted(self, now: float) -> bool:
        """Whether there has been more than one caller of late."""
        return now - self._shared_at < _SHARED_SECONDS

    def enter(self, caller: str) -> None:
        """Take into account that something of the caller waits from now on."""
        times = self._present.get(caller, 0)
        self._present[caller] = times + 1
        if not times:
            self._total += self.weight(caller)

    def leave(self, caller: str) -> None:
        """Take into account that what has entered once waits no more."""
        self._present[caller] -= 1
        if self._present[caller]:
            return
        del self._present[caller]
        # Sums of floats drift, and with nobody there it is known.
        self._total = self._total - self.weight(caller) if self._present else 0.0

    def part(self, caller: str) -> float:
        """The caller's part of the whole, 1 if no other one has something waiting."""
        weight = self.weight(caller)
        return weight / (self._total if caller in self._present else self._total + weight)
