"""What a thread is at, and for how long it has been at the same.

Time is what whoever looks has seen pass, from one look to the next. While the process is stopped,
in a debugger for instance, or the machine sleeps, nobody looks, and so no thread is late for it.
Pure: `now` is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """Something that a thread has begun and is to end. It is told from others by identity."""

    what: str
    model: str = ""
    sequences: int = 0
    tokens: int = 0
    expected_seconds: float = 0.0  # 0 where that is not known


class Progress:
    """What one thread is at. That thread writes it, and others may read it meanwhile."""

    def __init__(self) -> None:
        self.work: Work | None = None

    @contextmanager
    def at(self, work: Work) -> Iterator[None]:
        """Be at this work for as long as the block lasts."""
        self.work = work
        try:
            yield
        finally:
            self.work = None


@dataclass(frozen=True, slots=True)
class Overdue:
    """Work that has lasted for longer than it may."""

    progress: Progress
    work: Work
    seconds: float  # that it has lasted


class Patience:
    """Judges who is late, by looking again and again."""

    def __init__(self, bounds: Mapping[Progress, Callable[[Work], float]], step_seconds: float):
        """`bounds` say for how many seconds a work may last. From one look to the next no more
        than `step_seconds` have passed for the others, whatever the clock says."""
        self._bounds = bounds
        self._step_seconds = step_seconds
        self._looked_at = math.inf
        self._seen: dict[Progress, tuple[Work | None, float]] = {}  # and for how long so far

    def look(self, now: float) -> Overdue | None:
        """Look at all of them, and return the first that is late."""
        passed = min(max(now - self._looked_at, 0.0), self._step_seconds)
        self._looked_at = now
        for progress, bound in self._bounds.items():
            work = progress.work
            before, seconds = self._seen.get(progress, (None, 0.0))
            seconds = seconds + passed if work is before else 0.0
            self._seen[progress] = (work, seconds)
            if work is not None and seconds > bound(work):
                return Overdue(progress, work, seconds)
        return None
