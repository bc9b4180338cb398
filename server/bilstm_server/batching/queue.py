"""`BatchQueue`: which sequences wait, and in which order they are offered to the next batch.

Decisions only. It never sees a clock, a thread, an event loop or a tensor: `now` is an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from ..callers import Priority
from ..settings import QueueLimits
from .forming import FormingBatch, Offered, Verdict


class Waiting(Offered, Protocol):
    """What the queue must know of a waiting sequence. Times are seconds of one clock. It is told
    from others by identity.
    """

    @property
    def admitted_at(self) -> float: ...
    @property
    def caller(self) -> str: ...
    @property
    def priority(self) -> Priority: ...


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

    def tokens_ahead(self, caller: str, priority: Priority) -> int:
        """How many of the waiting tokens are computed before a new job of that caller."""
        return self._tokens

    def take(self, forming: FormingBatch) -> tuple[list[J], list[J]]:
        """Remove and return the next batch, as `forming` takes it in, and the hopeless jobs that
        were found before its end."""
        batch: list[J] = []
        hopeless: list[J] = []
        for job in self._waiting:
            verdict = forming.offer(job)
            if verdict is Verdict.JOINED:
                batch.append(job)
            elif verdict is Verdict.HOPELESS:
                hopeless.append(job)
            else:
                break
        for job in (*batch, *hopeless):
            self.remove(job)
        return batch, hopeless
