"""`Retries`: when a call that a server did not serve is sent again. No I/O and no clock.

All calls of a client share one, and what they know of the server. While it fails, one of them at a
time tries again, and the others wait until that has helped: however many there are, a server that
is down or says UNAVAILABLE sees each of them once, and little more. gRPC's own throttling can't
tell a server that restarts from one that is overloaded, and gives up the calls of both.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from ..errors import EncoderError

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 0.5  # between two attempts of all that wait
_LOOK_SECONDS = 0.1  # after which one that waits looks whether another's attempt has helped
_PATIENCE_SECONDS = 3.0  # of one call, unless the server says when to come again
# A call that is served gives a tenth of a token, a repeated attempt that fails takes one, and
# without any nothing is tried again: a server that fails for some calls sees at most a tenth more.
_MAX_TOKENS, _TOKENS_OF_A_CALL = 32.0, 0.1


class Retries:
    """What all calls of a client know of a server that fails. Threads may share it."""

    def __init__(self, spread: Callable[[float, float], float] = random.uniform):
        """`spread` draws a number between two bounds, so that not all clients come at once."""
        self.spread = spread
        self._lock = threading.Lock()
        self._tokens = _MAX_TOKENS
        self._is_failing = False
        self._pause = _FIRST_PAUSE_SECONDS
        self._try_at = 0.0

    def served(self) -> None:
        """A server has answered a call, be it with a refusal."""
        with self._lock:
            self._tokens = min(self._tokens + _TOKENS_OF_A_CALL, _MAX_TOKENS)
            self._is_failing = False

    def failed(self, now: float, said: float | None, again: bool) -> bool:
        """An attempt was not served; `again`: it was not the first one of its call. `said`: seconds
        after which the server wants the next one. Returns whether any call may try again."""
        with self._lock:
            if again:
                self._tokens = max(self._tokens - 1, 0)
            if not self._is_failing:
                self._is_failing, self._pause = True, _FIRST_PAUSE_SECONDS
                self._wait(now)
            if said is not None:
                self._try_at = max(self._try_at, now + said * self.spread(1.0, 1.2))
            return self._tokens >= 1

    def try_now(self, now: float) -> bool:
        """Whether the caller is to try again now: because the server serves again, or because it is
        this caller's turn to find out whether it does."""
        with self._lock:
            if not self._is_failing:
                return True
            if now < self._try_at:
                return False
            self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
            self._wait(now)
            return True

    def _wait(self, now: float) -> None:
        self._try_at = now + self._pause * self.spread(0.5, 1.5)


class Attempts:
    """The attempts of one call."""

    def __init__(self, retries: Retries, give_up_at: float):
        self._retries = retries
        self._deadline = give_up_at
        self._give_up_at: float | None = None
        self._error: EncoderError | None = None  # of the attempt before

    def failed(self, error: EncoderError, now: float) -> None:
        """An attempt has failed with this error, which is raised if it was the last one."""
        said = error.retry_after_seconds
        gives_up = now + (said or 0.0) >= self._deadline
        # What is too long for this call is no word for others, which may have more time.
        may = self._retries.failed(now, None if gives_up else said, again=self._error is not None)
        if self._give_up_at is None:
            self._give_up_at = now + _PATIENCE_SECONDS
        if said is not None:
            self._give_up_at = max(self._give_up_at, now + 1.2 * said + _PATIENCE_SECONDS)
        if not may or gives_up:
            raise error
        self._error = error

    def pause(self, now: float) -> float:
        """Seconds after which this is to be asked again; 0 if the next attempt may be made now.
        Raises the last error once it has taken too long."""
        assert self._error is not None
        assert self._give_up_at is not None
        # An attempt without time would only hide why the one before has failed.
        left = min(self._give_up_at, self._deadline - _LOOK_SECONDS) - now
        if left <= 0:
            raise self._error
        if self._retries.try_now(now):
            return 0.0
        return min(_LOOK_SECONDS * self._retries.spread(0.5, 1.5), left)
