"""`Recent`: the last values of something that is measured again and again. Pure."""

from __future__ import annotations

from collections import deque


class Recent:
    """Values of the last seconds, at most so many, and their quantiles."""

    def __init__(self, most: int, seconds: float):
        """Keep at most `most` values, none of them for longer than `seconds`."""
        self._values: deque[tuple[float, float]] = deque(maxlen=most)  # when, and which
        self._seconds = seconds

    def __bool__(self) -> bool:
        return bool(self._values)

    def add(self, value: float, now: float) -> None:
        """Take a value into account that was measured now."""
        self.forget(now)
        self._values.append((now, value))

    def forget(self, now: float) -> None:
        """Let go of the values that are too old by now."""
        while self._values and self._values[0][0] < now - self._seconds:
            self._values.popleft()

    def quantile(self, share: float, otherwise: float) -> float:
        """The least value that `share` of all are not above; `otherwise` if there is none."""
        if not self._values:
            return otherwise
        ordered = sorted(value for _, value in self._values)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
