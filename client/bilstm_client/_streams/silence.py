"""`Silence`: when the server of a stream that owes something is asked for a sign of life, and when
it is given up. No I/O, threads or clock.

A stream may rightly be quiet for long: one long sequence is computed, or others have their turn. So
what ends it is that for its timeout nothing comes, and that the server does not answer as to its
health either: it is frozen, or cut off, or something that took the connection and says nothing.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum, auto

_LOOKS = 20  # in the time that a silence may last: by so much of it the end may be late
_SHORTEST_LOOK_SECONDS, _LONGEST_LOOK_SECONDS = 0.02, 1.0


class Step(Enum):
    """What to do now."""

    WAIT = auto()
    ASK = auto()  # for a sign of life, for `ask_seconds`
    GIVE_UP = auto()


class Silence:
    """See the module."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.ask_seconds = seconds / 2
        self.look_seconds = min(
            max(seconds / _LOOKS, _SHORTEST_LOOK_SECONDS), _LONGEST_LOOK_SECONDS
        )
        self._owed: Hashable | None = None
        self._since = 0.0
        self._asked = False

    def look(self, owed: Hashable | None, now: float, since: float | None) -> Step:
        """`owed`: what the server owes, another after each progress; None: nothing. `since`: when
        it began to owe it, if that is known; else that is now, when it is first seen."""
        if owed != self._owed:
            self._owed = owed
            self.heard(now if since is None else since)
        silent = now - self._since
        if owed is None or silent < self.ask_seconds:
            return Step.WAIT
        if not self._asked:  # however late it is: whoever runs this may have been held up
            self._asked = True
            return Step.ASK
        return Step.WAIT if silent < self.seconds else Step.GIVE_UP

    def heard(self, now: float) -> None:
        """It has given a sign of life."""
        self._since, self._asked = now, False
