"""`BatchQueue`: which sequences wait, which form the next batch, which have expired.

Decisions only. It never sees a clock, a thread, an event loop or a tensor: `now` is an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from ..settings import QueueLimits


class Job(Protocol):
    """What the queue must know of a waiting sequence. Times are seconds of one clock."""

    @property
    def tokens(self) -> int: ...
    @property
    def admitted_at(self) -> float: ...
    @property
    def deadline(self) -> float: ...


J = TypeVar("J", bound=Job)


class BatchQueue(Generic[J]):
    """First in, first out; the queue and its batches are bounded in tokens and in sequences."""

    def __init__(self, limits: QueueLimits):
        self._limits = limits
        self._waiting: dict[int, J] = {}  # by identity, in order of arrival
        self._tokens = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def tokens(self) -> int:
        """Tokens of all waiting sequences."""
        return self._tokens

    def fits(self, sequences: int, tokens: int) -> bool:
        """Whether that many more sequences, with that many tokens in all, may wait."""
        return (
            len(self._waiting) + sequences <= self._limits.max_queue_sequences
            and self._tokens + tokens <= self._limits.max_queue_tokens
        )

    def waited(self, now: float) -> float:
        """Seconds that the one which came first has waited."""
        first = next(iter(self._waiting.values()), None)
        return 0.0 if first is None else now - first.admitted_at

    def put(self, jobs: Sequence[J]) -> None:
        """Let `jobs` wait. The caller has asked `fits`."""
        for job in jobs:
            self._waiting[id(job)] = job
            self._tokens += job.tokens

    def remove(self, job: J) -> bool:
        """Forget a waiting job; False if it no longer waits."""
        if self._waiting.pop(id(job), None) is None:
            return False
        self._tokens -= job.tokens
        return True

    @property
    def full(self) -> bool:
        """Whether what waits fills a batch, so that waiting longer would not make it larger."""
        return (
            len(self._waiting) >= self._limits.max_batch_sequences
            or self._tokens >= self._limits.max_batch_tokens
        )

    def due_at(self) -> float | None:
        """When a batch may form at the latest: at once if full; None if nothing waits."""
        if not self._waiting:
            return None
        oldest = next(iter(self._waiting.values())).admitted_at
        return oldest if self.full else oldest + self._limits.max_queue_delay

    def take(self, now: float) -> tuple[list[J], list[J]]:
        """Remove and return the next batch, and the jobs before its end that have expired.

        The batch is the longest prefix of the live jobs within the bounds.
        """
        batch: list[J] = []
        expired: list[J] = []
        tokens = 0
        max_tokens, max_sequences = self._limits.max_batch_tokens, self._limits.max_batch_sequences
        for job in self._waiting.values():
            if job.deadline <= now:
                expired.append(job)
            elif batch and tokens + job.tokens > max_tokens:
                break
            else:
                batch.append(job)
                tokens += job.tokens
            if len(batch) == max_sequences:
                break
        for job in (*batch, *expired):
            self.remove(job)
        return batch, expired
