"""`Silence`: when a server that owes something is asked for a sign of life, and when it is given
up. No I/O, threads or clock.

A stream may rightly be quiet for long: one long sequence is computed, or others have their turn. So
it ends where for its timeout nothing comes, and the server does not answer a health check either:
it is frozen, or cut off, or something that took the connection and says nothing.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum, auto

_LOOKS = 20  # in the time that a silence may last; the end may be late by the time between two
_SHORTEST_LOOK_SECONDS, _LONGEST_LOOK_SECONDS = 0.02, 1.0


class Action(Enum):
    """What to do about the server now."""

    WAIT = auto()
    ASK = auto()  # for a sign of life, which may take `ask_seconds`
    GIVE_UP = auto()


class Silence:
    """How long the server of one stream has been silent, while it owes something."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.ask_seconds = seconds / 2
        self.look_seconds = min(
            max(seconds / _LOOKS, _SHORTEST_LOOK_SECONDS), _LONGEST_LOOK_SECONDS
        )
        self._owed: Hashable | None = None
        self._since = 0.0
        self._asked = False

    def look(self, owed: Hashable | None, now: float, since: float | None) -> Action:
        """What to do at the time `now`. `owed`: what the server owes, another value after each
        progress; None: nothing. `since`: when it began to owe that; None: now, if it is new."""
        if owed != self._owed:
            self._owed = owed
            self.heard(now if since is None else since)
        silent = now - self._since
        if owed is None or silent < self.ask_seconds:
            return Action.WAIT
        if not self._asked:  # however late it is: who runs this may have been held up
            self._asked = True
            return Action.ASK
        return Action.WAIT if silent < self.seconds else Action.GIVE_UP

    def heard(self, now: float) -> None:
        """The server has given a sign of life."""
        self._since, self._asked = now, False
