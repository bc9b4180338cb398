"""`BatchQueue`: which sequences wait, which form the next batch, which have expired.

Decisions only. It never sees a clock, a thread, an event loop or a tensor: `now` is an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from ..settings import QueueLimits


class Waiting(Protocol):
    """What the queue must know of a waiting sequence. Times are seconds of one clock. It is told
    from others by identity.
    """

    @property
    def tokens(self) -> int: ...
    @property
    def admitted_at(self) -> float: ...
    @property
    def deadline(self) -> float: ...


J = TypeVar("J", bound=Waiting)


class BatchQueue(Generic[J]):
    """First in, first out; the queue and its batches are bounded in tokens and in sequences."""

    def __init__(self, limits: QueueLimits):
        self._limits = limits
        self._waiting: dict[J, None] = {}  # in order of arrival
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
        """Seconds for which the sequence that came first has waited, or 0 if none waits."""
        first = next(iter(self._waiting), None)
        return 0.0 if first is None else now - first.admitted_at

    def put(self, jobs: Sequence[J]) -> None:
        """Let `jobs` wait. The caller has asked `fits`."""
        self._waiting |= dict.fromkeys(jobs)
        self._tokens += sum(job.tokens for job in jobs)

    def remove(self, job: J) -> bool:
        """Forget a waiting job; False if it no longer waits."""
        if job not in self._waiting:
            return False
        del self._waiting[job]
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
        """When a batch may form at the latest: at once if it is full; None if nothing waits."""
        first = next(iter(self._waiting), None)
        if first is None:
            return None
        return first.admitted_at + (0.0 if self.full else self._limits.max_queue_delay)

    def take(self, now: float) -> tuple[list[J], list[J]]:
        """Remove and return the next batch, and the jobs before its end that have expired.

        The batch is the longest prefix, of the jobs that have not expired, within the bounds.
        """
        batch: list[J] = []
        expired: list[J] = []
        tokens = 0
        max_tokens, max_sequences = self._limits.max_batch_tokens, self._limits.max_batch_sequences
        for job in self._waiting:
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
            del self._waiting[job]
        self._tokens -= tokens + sum(job.tokens for job in expired)
        return batch, expired
