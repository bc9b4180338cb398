"""`Patience`: how long a stream waits for a server that was lost. No I/O and no clock."""

from __future__ import annotations

import random
from collections.abc import Callable

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 2.0


class Patience:
    """Decides when to try again where a server is lost, and when to give up.

    That a server takes the call is not enough: what it is then sent may be what brings it down.
    """

    def __init__(self, seconds: float, spread: Callable[[float, float], float] = random.uniform):
        """`seconds` without progress are borne. `spread` draws a number between two bounds, so that
        not all clients of a server come at once."""
        self.failing_since: float | None = None
        self._seconds = seconds
        self._spread = spread
        self._connected_at: float | None = None
        self._pause = _FIRST_PAUSE_SECONDS

    @property
    def is_waiting(self) -> bool:
        """Whether the stream waits for a server."""
        return self.failing_since is not None

    def connected(self, now: float) -> None:
        """A server has taken the call."""
        self._connected_at = now

    def progressed(self) -> None:
        """A server has answered something."""
        self.failing_since = None
        self._pause = _FIRST_PAUSE_SECONDS

    def pause(self, now: float, said: float | None = None) -> float | None:
        """Seconds until the next attempt, at least those that the server has `said`. None: it is
        time to give up, or will be by then."""
        connected_at, self._connected_at = self._connected_at, None
        if connected_at is not None and now - connected_at >= self._seconds:
            self.progressed()  # the server was there for long: this is another failure
        if self.failing_since is None:
            self.failing_since = now
        left = self.failing_since + self._seconds - now
        if left <= 0 or (said is not None and said > left):
            return None
        pause = self._pause * self._spread(0.5, 1.5)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
        if said is not None:
            pause = max(pause, said * self._spread(1.0, 1.2))
        return min(pause, left)
