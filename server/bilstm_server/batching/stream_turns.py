"""`StreamTurns`: when streams' sequences, which are never refused, are let into the queue. Pure.

There are three ways in:

- Freely, while less than a batch waits and a batch of calls would still find room.
- As a part: among several callers, each may have its part of a batch and a half in the queue, and
  so it has its part of what is computed, whoever fills the queue.
- In turn: where calls fill the queue, streams may bring half of what each batch takes out, their
  own caller's calls or not. Room for the next of them is kept from calls.

Those that wait are let in in the order in which the queue would offer them to a batch.
"""

from __future__ import annotations

from typing import Generic

from ..settings import QueueLimits
from .forming import Verdict
from .lanes import J
from .queue import BatchQueue, room_of
from .shares import Shares

_STREAMS_SHARE = 0.5  # of a batch, for streams where calls fill the queue
_MOST_CREDIT = 1.0  # batches, while the next of them waits for room only
_PART = 1.5  # batches, of which each of several callers may have its part waiting


class StreamTurns(Generic[J]):
    """The streams' sequences that wait to be let into a queue."""

    def __init__(self, limits: QueueLimits, queue: BatchQueue[J], shares: Shares):
        self._limits = limits
        self._queue = queue
        self._shares = shares
        self._waiting: BatchQueue[J] = BatchQueue(limits, shares)
        self._batch = room_of(1, limits)
        self._credit = _STREAMS_SHARE  # batches that streams may bring in turn
        self.next: J | None = None  # the one whose turn it is once there is room

    def comes_in(self, job: J) -> bool:
        """Whether a sequence may be let in that has just come; otherwise it waits here."""
        if not self._waiting.held(job.caller).sequences and (
            self._lacks_part(job) or (not len(self._waiting) and self._has_space(job))
        ):
            return True
        self._waiting.put([job])
        return False

    def let_in(self) -> list[J]:
        """Put into the queue, and return, the sequences whose turn it is."""
        self.next = None
        return self._waiting.take(self)[0] if len(self._waiting) else []

    def earn(self, batches: float) -> None:
        """Take into account that so many batches were taken out of the queue."""
        most = _STREAMS_SHARE if self.next is None else _MOST_CREDIT
        self._credit = min(self._credit + _STREAMS_SHARE * batches, most)

    def withdraw(self, job: J) -> None:
        """Forget a sequence if it waits here."""
        self._waiting.remove(job)
        if job is self.next:
            self.next = None

    def offer(self, job: J) -> Verdict:
        """Let a sequence that waits into the queue, or say why not, as a forming batch does."""
        if not (self._has_space(job) or self._lacks_part(job)):
            if self._credit <= 0.0 or self._exceeds_share(job):
                return Verdict.LATER
            if not self._queue.fits(1, job.tokens):
                self.next = job
                return Verdict.CLOSED
            limits = self._limits
            self._credit -= max(
                1 / limits.max_batch_sequences, job.tokens / limits.max_batch_tokens
            )
        self._queue.put([job])
        return Verdict.JOINED

    def _has_space(self, job: J) -> bool:
        """Whether the sequence takes no room that calls may need."""
        if not len(self._queue):
            return True
        sequences, tokens = self._batch
        return not self._queue.full and self._queue.fits(1 + sequences, job.tokens + tokens)

    def _lacks_part(self, job: J) -> bool:
        """Whether, among several callers, its caller lacks its part of what comes next without the
        sequence. It leaves half of the room that newcomers may need."""
        part = self._shares.part(job.caller)
        if part == 1.0:
            return False
        held, (sequences, tokens) = self._queue.held(job.caller), self._batch
        lacks = not held.sequences or (
            held.sequences + 1 <= _PART * part * sequences
            and held.tokens + job.tokens <= _PART * part * tokens
        )
        return lacks and self._queue.fits(1 + sequences // 2, job.tokens + tokens // 2)

    def _exceeds_share(self, job: J) -> bool:
        """Whether its caller has more than its part of the whole queue already."""
        held, part = self._queue.held(job.caller), self._shares.part(job.caller)
        return (
            held.sequences > part * self._limits.max_queue_sequences
            or held.tokens > part * self._limits.max_queue_tokens
        )
