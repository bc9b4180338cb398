"""`Admission`: which sequences are let in, and how the device's time is divided. Decisions only.

One policy over all that waits for one model:

- A *call* is let in whole, or refused whole and told when to come again.
- A *stream's* sequence is never refused, it waits for its turn. Streams may come in while less than
  a batch waits and a batch of calls would still find room. Where calls fill the queue, streams may
  bring half of what each batch takes out; room for the next of them is kept from calls.
- A *long* sequence, a call's or a stream's, is computed in slices between the batches. A call's
  takes room of the queue until it ends; a stream's is held in the memory of streams.
- Within a kind, whoever comes first is let in first.

It never sees a clock, a thread, an event loop or a tensor: `now` is an argument, and what is to be
done is returned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Generic, NamedTuple, Protocol, TypeVar

from ..errors import DRAINING, DeadlineExpired, Overloaded, Unavailable
from ..settings import QueueLimits
from .forming import TimelyBatch
from .long_work import LongWork
from .outlook import Outlook
from .queue import BatchQueue, Waiting

_LEAST_RETRY_SECONDS = 0.01
_STREAMS_SHARE = 0.5  # of a batch, for streams where calls fill the queue
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


@dataclass(frozen=True, slots=True)
class SliceTime:
    """How long slices of long sequences may have the device, in seconds."""

    at_least: float  # whoever else wants it
    at_most: float

    def is_over(self, elapsed: float, wanted: bool) -> bool:
        """Whether to compute no further slice now; `wanted`: something else wants the device."""
        return elapsed >= self.at_most or (wanted and elapsed >= self.at_least)


class Admission(Generic[J]):
    """The policy of one model: what its `Batcher` asks before it does anything."""

    def __init__(self, limits: QueueLimits):
        self._limits = limits
        self._queue: BatchQueue[J] = BatchQueue(limits)
        # Streams leave to calls so many sequences and tokens: a batch, or half the queue if less.
        self._left_to_calls = (
            min(limits.max_batch_sequences, limits.max_queue_sequences // 2),
            min(limits.max_batch_tokens, limits.max_queue_tokens // 2),
        )
        self._streamed: dict[J, None] = {}  # streams' sequences that wait to be let in, in order
        self._credit = _STREAMS_SHARE  # batches that streams may bring although calls need the room
        self._next: J | None = None  # the one of these whose turn it is once there is room
        self._refusing = False
        self._draining = False
        self._closed_because = DRAINING
        self.outlook = Outlook(limits)
        self.long_work: LongWork[J] = LongWork()

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
        return max(queued + sliced, self.outlook.last_seconds, _LEAST_RETRY_SECONDS)

    # -- calls -----------------------------------------------------------------------------------

    def refusal_at_door(self, now: float) -> Overloaded | Unavailable | None:
        """What any call is told before it is read, if it is not to be read."""
        if self._refusing:
            return Unavailable(self._closed_because)
        return self.refusal(1, 1, now)

    def refusal(self, sequences: int, tokens: int, now: float) -> Overloaded | Unavailable | None:
        """What a call of so many sequences is told, if it is not to be let in."""
        if self._draining:
            return Unavailable(self._closed_because)
        lack = self._lack_of_room(sequences, tokens, now)
        if lack is None:
            return None
        return Overloaded(
            f"the queue is full: {self.sequences} sequences with {self.tokens} tokens wait, {lack}",
            self.seconds_of_waiting,
        )

    def _lack_of_room(self, sequences: int, tokens: int, now: float) -> str | None:
        """Why so many more may not wait, if they may not."""
        beside = (self.long_work.sequences, self.long_work.tokens)
        if self._next is not None:
            beside = (beside[0] + 1, beside[1] + self._next.tokens)
        if not self._queue.fits(sequences + beside[0], tokens + beside[1]):
            return f"no room for {sequences} more with {tokens}"
        waits = max(self._queue.waited(now), self.outlook.seconds(self._queue.tokens))
        if waits <= self._limits.max_queue_seconds:
            return None
        return f"for more than the {self._limits.max_queue_seconds:g} seconds that they may"

    def lateness(
        self, tokens: Sequence[int], deadline: float, free_at: float, now: float
    ) -> DeadlineExpired | None:
        """What a call is told, of sequences of so many tokens each, that is known not to be
        answered by its deadline. The device is free at `free_at`.

        Where nothing was computed for a while nothing is known: a call is let in as a trial.
        """
        outlook = self.outlook
        outlook.arrive(deadline - now, now)
        if not len(self._queue) and outlook.is_stale(now):
            return None
        whole = [each for each in tokens if each <= self._limits.whole_tokens]
        expected = self.long_work.seconds_with(sum(tokens) - sum(whole))
        if whole:
            seconds = outlook.seconds(self._queue.tokens, max(whole), sum(whole))
            expected = max(expected, free_at - now + seconds)
        if now + outlook.estimate.earliest(expected) <= outlook.due_at(deadline, now):
            return None
        return DeadlineExpired(
            f"would take about {1e3 * expected:.0f} ms, {1e3 * (deadline - now):.0f} ms are left"
        )

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
        if job.is_long or (not self._streamed and self._has_space(job)):
            self.admit([job], now)
            return True
        self._streamed[job] = None
        return False

    def admit_streams(self, now: float) -> list[J]:
        """Let in, and return, the streams' sequences whose turn it is."""
        admitted: list[J] = []
        if not self._streamed:
            return admitted
        self._next = None
        for job in self._streamed:
            if not self._has_space(job):
                if self._credit <= 0.0:
                    break
                if not self._queue.fits(1, job.tokens):
                    self._next = job
                    break
                self._credit -= self._batches(1, job.tokens)
            self.admit([job], now)
            admitted.append(job)
        for job in admitted:
            del self._streamed[job]
        return admitted

    def _has_space(self, job: J) -> bool:
        """Whether a stream's sequence takes no room that calls may need."""
        if not len(self._queue):
            return True
        sequences, tokens = self._left_to_calls
        return not self._queue.full and self._queue.fits(1 + sequences, job.tokens + tokens)

    def _batches(self, sequences: int, tokens: int) -> float:
        """What part of a batch so much is."""
        limits = self._limits
        return max(sequences / limits.max_batch_sequences, tokens / limits.max_batch_tokens)

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

    def close_batch(self, now: float, free_at: float = -math.inf) -> ClosedBatch[J]:
        """Take the jobs that came first out of the queue, as many as a batch holds that begins when
        the device is free, and let in the streams' sequences that have their turn then."""
        sequences, tokens = len(self._queue), self._queue.tokens
        starts_at = max(now, free_at + self.outlook.gap_seconds)
        forming = TimelyBatch(self._limits, self.outlook, now, starts_at, tokens)
        jobs, expired = self._queue.take(forming)
        taken = self._batches(sequences - len(self._queue), tokens - self._queue.tokens)
        self._credit = min(self._credit + _STREAMS_SHARE * taken, _STREAMS_SHARE)
        return ClosedBatch(jobs, expired, self.admit_streams(now))

    def withdraw(self, job: J) -> None:
        """Forget a job if it still waits: nobody wants its result any more."""
        if self._queue.remove(job):
            return
        self._streamed.pop(job, None)
        if job is self._next:
            self._next = None

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
