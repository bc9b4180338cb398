"""What joins a batch while it forms: each waiting sequence is offered once, in the queue's order.

Decisions only. It never sees a clock, a thread, an event loop or a tensor: `now` is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum, auto
from functools import cached_property
from typing import Protocol, TypeVar

from ..settings import QueueLimits
from .outlook import Outlook

_FEW = 0.1  # of a batch's tokens


class Verdict(Enum):
    """What becomes of a sequence that was offered to a batch."""

    JOINED = auto()  # it leaves the queue and is computed with the batch
    LATER = auto()  # it does not fit into this batch and goes on waiting
    CLOSED = auto()  # nothing more can join, it goes on waiting
    HOPELESS = auto()  # it can't be answered in time and leaves the queue


class Offered(Protocol):
    """What a forming batch must know of a sequence. Times are seconds of one clock."""

    @property
    def tokens(self) -> int: ...
    @property
    def deadline(self) -> float: ...
    @property
    def admitted_at(self) -> float: ...
    @property
    def behind(self) -> int:
        """Tokens of its call's sequences that are offered after it: it has its results with
        theirs."""
        ...


J = TypeVar("J", bound=Offered)
J_contra = TypeVar("J_contra", bound=Offered, contravariant=True)


class FormingBatch(Protocol[J_contra]):
    """A batch that the queue fills."""

    def offer(self, job: J_contra) -> Verdict:
        """Take the job in, or say why not. Whoever comes first to an empty batch joins it, if there
        is hope: however large, it must be computed some time."""
        ...


class BoundedBatch:
    """A batch that is bounded in tokens and in sequences, and takes no expired ones."""

    def __init__(self, limits: QueueLimits, max_tokens: int, now: float):
        """`max_tokens` are those that it may have now, and no more than the limit of tokens."""
        self._max_tokens = max_tokens
        self._max_sequences = limits.max_batch_sequences
        self._now = now
        self._tokens = 0
        self._sequences = 0

    def offer(self, job: Offered) -> Verdict:
        """Take the job in if it is within the bounds. Expired ones count for none of them."""
        if self._sequences == self._max_sequences:
            return Verdict.CLOSED
        if job.deadline <= self._now:
            return Verdict.HOPELESS
        if self._sequences and self._tokens + job.tokens > self._max_tokens:
            return Verdict.LATER
        verdict = self._judge(job)
        if verdict is Verdict.JOINED:
            self._sequences += 1
            self._tokens += job.tokens
        return verdict

    def _judge(self, job: Offered) -> Verdict:
        """Say of a job within the bounds whether it joins."""
        return Verdict.JOINED


class TimelyBatch(BoundedBatch):
    """A batch that ends in time for each of its members, as far as is known what it takes. Whoever
    would be too late in it is hopeless: in a later one it would be later.
    """

    def __init__(
        self,
        limits: QueueLimits,
        max_tokens: int,
        outlook: Outlook,
        now: float,
        starts_at: float,
        waiting: int,
    ):
        """It is formed now, of `waiting` tokens, and begins to be computed at `starts_at`."""
        super().__init__(limits, max_tokens, now)
        self._outlook = outlook
        self._estimate = outlook.estimate
        self._starts_at = starts_at
        self._longest = 0
        self._due_at = starts_at + outlook.batch_seconds(waiting)
        self._in_a_hurry = self._due_at < math.inf  # whether it has to end by some time
        self._is_trial = outlook.is_stale(now)
        self._waiting = waiting
        self._most_steps = min(waiting, limits.whole_tokens)

    def _judge(self, job: Offered) -> Verdict:
        longest, tokens = max(self._longest, job.tokens), self._tokens + job.tokens
        if not self._in_a_hurry and job.deadline == math.inf:
            self._longest = longest
            return Verdict.JOINED
        due_at = self._outlook.due_at(job.deadline, job.admitted_at)
        if self._is_trial:
            due_at = math.inf
        elif min(due_at, self._due_at) < self._slowest_at:  # it may be too late in this one
            if due_at < self._efficient_at or due_at < self._ends_at(
                self._estimate.known_seconds(longest, tokens + job.behind)
            ):
                return Verdict.HOPELESS
            if self._sequences and min(due_at, self._due_at) < self._ends_at(
                self._estimate.seconds(longest, tokens)
            ):
                return Verdict.LATER
        self._is_trial = False
        self._longest = longest
        self._due_at = min(self._due_at, due_at)
        self._in_a_hurry = self._in_a_hurry or due_at < math.inf
        return Verdict.JOINED

    @cached_property
    def _slowest_at(self) -> float:
        """When it ends at the latest, whatever of what waits comes into it."""
        longest = max(self._estimate.longest, float(self._most_steps))
        return self._ends_at(self._estimate.seconds(longest, self._waiting))

    @cached_property
    def _efficient_at(self) -> float:
        """Before which no member has it end: the device would compute too little, if more waits."""
        return self._starts_at + self._outlook.efficient_seconds(self._waiting)

    def _ends_at(self, seconds: float) -> float:
        """When a batch ends at the latest that is likely to take so long."""
        return self._starts_at + self._estimate.latest(seconds)


def hopeless(jobs: Sequence[J], outlook: Outlook, now: float) -> list[J]:
    """Those of a batch, closed some time ago and computed now, that can't be answered in time. None
    where they are so few that to compute the others without them would not pay."""
    tokens = sum(job.tokens for job in jobs)
    longest = max((job.tokens for job in jobs), default=0)
    ends_at = now + outlook.estimate.known_seconds(longest, tokens)
    late = [job for job in jobs if outlook.due_at(job.deadline, job.admitted_at) < ends_at]
    return late if sum(job.tokens for job in late) > _FEW * tokens else []
