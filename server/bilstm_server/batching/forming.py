"""What joins a batch while it forms: each waiting sequence is offered once, in the queue's order.

Decisions only. It never sees a clock, a thread, an event loop or a tensor: `now` is an argument.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Protocol, TypeVar

from ..settings import QueueLimits


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
        self._sequences += 1
        self._tokens += job.tokens
        return Verdict.JOINED
