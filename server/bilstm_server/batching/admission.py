"""`Admission`: which sequences are let in, and how the device's time is divided. Decisions only.

One policy over all that waits for one model:

- A *call* is let in whole, or refused whole and told when to come again.
- *Callers* have parts of the room and of what is computed, by weight and priority: who has not had
  its part finds room, and comes first (`SharedRoom`, `BatchQueue`).
- With a *deadline* a call is refused if it is known not to be answered in time, and leaves once
  that turns out (`Outlook`, `TimelyBatch`).
- A *stream's* sequence is never refused, it waits for its turn (`StreamTurns`).
- A *long* sequence, a call's or a stream's, is computed in slices between the batches (`LongWork`).
  A call's takes room of the queue until it ends; a stream's is held in the memory of streams.
- Of one caller and kind, whoever comes first is let in first.

It never sees a clock, a thread, an event loop or a tensor: `now` is an argument, and what is to be
done is returned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum, auto
from typing import Generic, NamedTuple, Protocol, TypeVar

from ..callers import Priority
from ..errors import DRAINING, Overloaded, Unavailable
from ..settings import QueueLimits
from .budget import TokenBudget
from .forming import TimelyBatch
from .lanes import Waiting
from .lateness import Lateness
from .long_work import LongWork
from .outlook import LEAST_RETRY_SECONDS, Outlook
from .pace import SliceTime
from .queue import BatchQueue
from .shared_room import SharedRoom
from .shares import Shares
from .stream_turns import StreamTurns

_SLICES_SHARE = 0.25  # of a batch's time, for the slices that follow it
_MAX_SLICES_SECONDS = 0.05  # then callers that left, and other models, have a say


class Kind(Enum):
    """How a sequence came, which decides how it is let in."""

    CALL = auto()
    STREAM = auto()


class Applicant(Waiting, Protocol):
    """What the policy must know of a sequence, in addition to what the queue must."""

    admitted_at: float  # is set when it is let in

    @property
    def kind(self) -> Kind: ...
    @property
    def is_long(self) -> bool: ...


J = TypeVar("J", bound=Applicant)


class ClosedBatch(NamedTuple, Generic[J]):
    """A batch to compute, and what closing it leads to."""

    jobs: list[J]
    expired: list[J]  # jobs whose deadline has passed, to be told so
    admitted: list[J]  # streams' sequences, which wait in the queue from now on


class Admission(Generic[J]):
    """The policy of one model: what its `Batcher` asks before it does anything."""

    def __init__(self, limits: QueueLimits):
        self._limits = limits
        self.shares = shares = Shares({share.name: share.weight for share in limits.caller_share})
        self._queue: BatchQueue[J] = BatchQueue(limits, shares)
        self._max_seconds = limits.max_queue_seconds
        self._streams = StreamTurns(limits, self._queue, shares)
        self._refusing = False
        self._draining = False
        self._closed_because = DRAINING
        self.outlook = Outlook(limits)
        self.long_work: LongWork[J] = LongWork(shares)
        self.budget = TokenBudget(limits.max_batch_tokens)
        self.lateness = Lateness(limits, self._queue, self.long_work, self.outlook)
        self._room = SharedRoom(limits, self._queue, self.long_work, shares)

    # -- what takes room -------------------------------------------------------------------------

    @property
    def sequences(self) -> int:
        """How many sequences take room of the queue."""
        return len(self._queue) + self.long_work.sequences

    @property
    def tokens(self) -> int:
        """How many tokens take room of the queue."""
        return self._queue.tokens + self.long_work.tokens

    @property
    def seconds_of_waiting(self) -> float:
        """About how long all that was let in will take, and at least as long as the last batch."""
        queued = self.outlook.seconds(self._queue.tokens)
        sliced = self.long_work.seconds(self.outlook.estimate)
        return max(queued + sliced, self.outlook.last_seconds, LEAST_RETRY_SECONDS)

    # -- calls -----------------------------------------------------------------------------------

    def refusal_at_door(
        self, caller: str, priority: Priority, now: float
    ) -> Overloaded | Unavailable | None:
        """What any call of that caller is told before it is read, if it is not to be read."""
        if self._refusing:
            return Unavailable(self._closed_because)
        refusal = self._refusal(1, 1, caller, priority, now)
        if refusal is not None:
            self.shares.note(caller, now)
        return refusal  # whoever has room may be another model's caller

    def refusal(
        self, sequences: int, tokens: int, caller: str, priority: Priority, now: float
    ) -> Overloaded | Unavailable | None:
        """What a call of so many sequences is told, if it is not to be let in."""
        self.shares.note(caller, now)
        return self._refusal(sequences, tokens, caller, priority, now)

    def _refusal(
        self, sequences: int, tokens: int, caller: str, priority: Priority, now: float
    ) -> Overloaded | Unavailable | None:
        if self._draining:
            return Unavailable(self._closed_because)
        lack = self._room.lack(sequences, tokens, caller, self._streams.next, now)
        lack = lack or self._lack_of_time(tokens, caller, priority, now)
        if lack is None:
            return None
        return Overloaded(
            f"the queue is full: {self.sequences} sequences with {self.tokens} tokens wait, {lack}",
            self.seconds_of_waiting,
        )

    def _lack_of_time(self, tokens: int, caller: str, priority: Priority, now: float) -> str | None:
        """Why the last of so many tokens may not wait for as long as they would, if they may
        not."""
        at_most = self._max_seconds
        if self._queue.waited(caller, priority, now) <= at_most:
            seconds = self.outlook.seconds
            if self.lateness.most_seconds <= at_most or seconds(self._queue.tokens) <= at_most:
                return None  # all of them, and so do some
            if seconds(self._queue.tokens_ahead(caller, priority, tokens)) <= at_most:
                return None
        return f"for more than the {at_most:g} seconds that they may"

    def admit(self, jobs: Sequence[J], now: float) -> None:
        """Let in the sequences of a call that got no `refusal`, or a stream's whose turn it is."""
        for job in jobs:
            job.admitted_at = now
        if not any(job.is_long for job in jobs):
            self._queue.put(jobs)
            return
        self._queue.put([job for job in jobs if not job.is_long])
        for job in jobs:
            if job.is_long:
                self.long_work.put(job, takes_room=job.kind is Kind.CALL)

    # -- streams ---------------------------------------------------------------------------------

    def refusal_of_stream(self) -> Unavailable | None:
        """What a stream's sequence is told, if nothing may come any more."""
        if self._draining:
            return Unavailable(self._closed_because)
        return None

    def offer(self, job: J, now: float) -> bool:
        """Let a stream's sequence in, or let it wait for its turn: then False, and the job is
        returned when it is let in, by `admit_streams` or in a `ClosedBatch`."""
        self.shares.note(job.caller, now)
        if job.is_long or self._streams.comes_in(job):
            self.admit([job], now)
            return True
        return False

    def admit_streams(self, now: float) -> list[J]:
        """Let in, and return, the streams' sequences whose turn it is."""
        admitted = self._streams.let_in()
        for job in admitted:
            job.admitted_at = now
        return admitted

    # -- batches ---------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether what waits fills a batch, so that waiting longer would not make it larger."""
        return self._queue.full

    def due_at(self) -> float | None:
        """When a batch is to be closed at the latest, or None if nothing waits. If no calls come
        any more, that is at once."""
        due_at = self._queue.due_at()
        return -math.inf if due_at is not None and self._refusing else due_at

    def is_due(self, now: float) -> bool:
        """Whether a batch may be closed now."""
        if not len(self._queue):
            return False
        if not self._limits.max_queue_delay:
            return True
        due_at = self.due_at()
        return due_at is not None and due_at <= now

    def close_batch(self, now: float, free_at: float = -math.inf) -> ClosedBatch[J]:
        """Take the jobs that came first out of the queue, as many as a batch holds that begins when
        the device is free, and let in the streams' sequences that have their turn then."""
        sequences, tokens = len(self._queue), self._queue.tokens
        starts_at = max(now, free_at + self.outlook.gap_seconds)
        forming = TimelyBatch(
            self._limits, self.budget.tokens(now), self.outlook, now, starts_at, tokens
        )
        jobs, expired = self._queue.take(forming)
        limits = self._limits
        self.lateness.learn()
        self._streams.earn(
            max(
                (sequences - len(self._queue)) / limits.max_batch_sequences,
                (tokens - self._queue.tokens) / limits.max_batch_tokens,
            )
        )
        return ClosedBatch(jobs, expired, self.admit_streams(now))

    def withdraw(self, job: J) -> None:
        """Forget a job if it still waits: nobody wants its result any more."""
        if not self._queue.remove(job):
            self._streams.withdraw(job)

    # -- long sequences --------------------------------------------------------------------------

    def slice_time(self, batch_seconds: float) -> SliceTime:
        """How long slices may have the device after a batch that took so long, 0 for none."""
        return SliceTime(
            min(_SLICES_SHARE * batch_seconds, _MAX_SLICES_SECONDS), _MAX_SLICES_SECONDS
        )

    # -- the end ---------------------------------------------------------------------------------

    def refuse(self) -> None:
        """Let no more calls in at the door. Those that are past it still come, and streams do."""
        self._refusing = True

    def drain(self, because: str = DRAINING) -> None:
        """Let nothing in any more, but what waits already. What comes is told why, `because`."""
        self._closed_because = because
        self._refusing = self._draining = True

    @property
    def is_drained(self) -> bool:
        """Whether nothing comes any more."""
        return self._draining
