"""`Recent`: the last values of something that is measured again and again. Pure."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque


class Recent:
    """Values of the last seconds, at most so many, and their quantiles."""

    def __init__(self, most: int, seconds: float):
        """Keep at most `most` values, none of them for longer than `seconds`."""
        self._values: deque[tuple[float, float]] = deque()  # when, and which
        self._ordered: list[float] = []  # the same
        self._most = most
        self._seconds = seconds

    def __bool__(self) -> bool:
        return bool(self._values)

    def add(self, value: float, now: float) -> None:
        """Take a value into account that was measured now."""
        self.forget(now)
        if len(self._values) == self._most:
            self._forget_oldest()
        self._values.append((now, value))
        insort(self._ordered, value)

    def forget(self, now: float) -> None:
        """Let go of the values that are too old by now."""
        while self._values and self._values[0][0] < now - self._seconds:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, value = self._values.popleft()
        del self._ordered[bisect_left(self._ordered, value)]

    def quantile(self, share: float, otherwise: float) -> float:
        """The least value that `share` of all are not above; `otherwise` if there is none."""
        ordered = self._ordered
        if not ordered:
            return otherwise
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
