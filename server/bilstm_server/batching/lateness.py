"""`Lateness`: whether a call would be answered by its deadline. Pure.

It goes by what waits before it and by what batches take. In doubt a call is let in: it is judged
again when its batch is closed, and when that is computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Generic

from ..callers import Priority
from ..errors import DeadlineExpired
from ..settings import QueueLimits
from .lanes import J
from .long_work import LongWork
from .outlook import Outlook
from .queue import BatchQueue


class Lateness(Generic[J]):
    """What calls are told that would be too late."""

    def __init__(
        self,
        limits: QueueLimits,
        queue: BatchQueue[J],
        long_work: LongWork[J],
        outlook: Outlook,
    ):
        self._max_tokens = limits.max_queue_tokens
        self._whole_tokens = limits.whole_tokens
        self._queue = queue
        self._long_work = long_work
        self._outlook = outlook
        # That it would take to compute all that may wait, so that most calls need no closer look.
        self.most_seconds = math.inf

    def learn(self) -> None:
        """Take into account what batches have taken since."""
        if self._outlook.estimate.is_known:
            self.most_seconds = self._outlook.seconds(self._max_tokens, self._whole_tokens, 1)

    def of_call(
        self,
        tokens: Sequence[int],
        caller: str,
        priority: Priority,
        deadline: float,
        free_at: float,
        now: float,
    ) -> DeadlineExpired | None:
        """What a call is told, of sequences of so many tokens each, that is known not to be
        answered by its deadline. The device is free at `free_at`.

        Where nothing was computed for a while nothing is known: a call is let in as a trial.
        """
        outlook = self._outlook
        outlook.arrive(deadline - now, now)
        is_all_whole = max(tokens) <= self._whole_tokens
        if is_all_whole and free_at + self.most_seconds <= outlook.due_at(deadline, now):
            return None  # whatever comes first
        if not len(self._queue) and outlook.is_stale(now):
            return None
        whole = [each for each in tokens if each <= self._whole_tokens]
        in_batches = sum(whole)
        expected = 0.0
        if whole:
            ahead = self._queue.tokens_ahead(caller, priority, in_batches)
            expected = free_at - now + outlook.seconds(ahead, max(whole), in_batches)
        in_slices = sum(tokens) - in_batches
        if in_slices:
            expected = max(expected, self._long_work.seconds_with(in_slices, now))
        if not outlook.is_late(expected, deadline, now):
            return None
        alone = max(
            outlook.seconds(0, max(whole, default=0), in_batches),
            self._long_work.seconds_alone(in_slices),
        )
        return outlook.lateness(expected, alone, deadline, now)
