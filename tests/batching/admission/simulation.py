"""A server of `Admission` in a pure simulation: its callers, and the time that it says
has passed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

from hypothesis import strategies as st

from bilstm_server.batching.admission import Admission, ClosedBatch, Kind
from bilstm_server.callers import Priority
from bilstm_server.settings import QueueLimits

SECONDS_PER_TOKEN = 0.001


@dataclass(eq=False)
class Job:
    tokens: int = 1
    kind: Kind = Kind.CALL
    is_long: bool = False
    caller: str = ""
    priority: Priority = Priority.NORMAL
    deadline: float = math.inf
    behind: int = 0
    admitted_at: float = -1.0


def call(tokens: int = 1) -> Job:
    return Job(tokens)


def streamed(tokens: int = 1) -> Job:
    return Job(tokens, Kind.STREAM)


def limits_of(
    batch_tokens: int, batch_sequences: int, tokens: int, sequences: int, **more: Any
) -> QueueLimits:
    """Bounds of a batch, then of the queue."""
    return QueueLimits(
        max_batch_tokens=batch_tokens,
        max_batch_sequences=batch_sequences,
        max_queue_tokens=tokens,
        max_queue_sequences=sequences,
        **{"max_queue_seconds": 1e9} | more,
    )


def admission(
    batch: tuple[int, int] = (10, 4), queue: tuple[int, int] = (40, 16), **more: Any
) -> Admission[Job]:
    """`batch` and `queue` are bounds in tokens and in sequences."""
    return Admission(limits_of(*batch, *queue, **more))


@dataclass
class Server:
    """One model that computes batches one after the other, with callers that never rest."""

    limits: QueueLimits
    calls: Iterator[int] = field(default_factory=lambda: iter(()))  # tokens of one after the other
    streams: Iterator[int] = field(default_factory=lambda: iter(()))
    streams_ahead: int = 0  # sequences that streams have waiting at any time

    def __post_init__(self) -> None:
        self.policy: Admission[Job] = Admission(self.limits)
        self.now = 0.0
        self.batches: list[ClosedBatch[Job]] = []
        self.offered: dict[Job, int] = {}  # streams' sequences that wait to be let in: since when
        self.turns: list[int] = []  # batches for which those waited that were let in
        self.admitted: list[Job] = []  # in order
        self.left_waiting = 0  # batches after which some of the streams' sequences still waited

    def step(self) -> None:
        """All send what they may; then a batch is closed and computed."""
        self.offer_streams()
        while (tokens := next(self.calls, 0)) and not self.policy.refusal(
            1, tokens, "", Priority.NORMAL, self.now
        ):
            self.enter(call(tokens))
        closed = self.policy.close_batch(self.now)
        for job in closed.admitted:
            self.turns.append(len(self.batches) - self.offered.pop(job))
            self.admitted.append(job)
        self.left_waiting += bool(self.offered)
        self.batches.append(closed)
        tokens = sum(job.tokens for job in closed.jobs)
        if closed.jobs:
            longest, seconds = max(job.tokens for job in closed.jobs), tokens * SECONDS_PER_TOKEN
            self.policy.outlook.end(longest, tokens, seconds, self.now + seconds)
        self.now += tokens * SECONDS_PER_TOKEN
        self.check()

    def enter(self, job: Job) -> None:
        self.policy.admit([job], self.now)
        self.admitted.append(job)

    def offer_streams(self) -> None:
        for _ in range(2 * self.streams_ahead):
            if len(self.offered) == self.streams_ahead or not (tokens := next(self.streams, 0)):
                return
            job = streamed(tokens)
            if self.policy.offer(job, self.now):
                self.admitted.append(job)
            else:
                self.offered[job] = len(self.batches)

    def check(self) -> None:
        """No bound is ever exceeded."""
        jobs = self.batches[-1].jobs
        assert len(jobs) <= self.limits.max_batch_sequences
        assert sum(job.tokens for job in jobs) <= self.limits.max_batch_tokens
        assert self.policy.sequences <= self.limits.max_queue_sequences
        assert self.policy.tokens <= self.limits.max_queue_tokens

    def part(self, kind: Kind, first: int = 0) -> float:
        """How many batches those of that kind would have filled by themselves."""
        jobs = [j for closed in self.batches[first:] for j in closed.jobs if j.kind is kind]
        tokens = sum(job.tokens for job in jobs)
        limits = self.limits
        return max(len(jobs) / limits.max_batch_sequences, tokens / limits.max_batch_tokens)


@st.composite
def limits(draw: st.DrawFn) -> QueueLimits:
    """A queue holds two batches at least: in a smaller one a large call may find no room."""
    tokens, sequences = draw(st.integers(8, 64)), draw(st.integers(1, 16))
    times = st.floats(2, 8)
    return limits_of(tokens, sequences, int(tokens * draw(times)), int(sequences * draw(times)))


sizes = st.lists(st.floats(0, 1), min_size=1, max_size=5)  # of sequences; 1 fills a batch


def repeated(limits: QueueLimits, sizes: Iterable[float]) -> Iterator[int]:
    return cycle([max(1, int(size * limits.max_batch_tokens)) for size in sizes])


def server(
    limits: QueueLimits, calls: list[float], streams: list[float], streams_ahead: int
) -> Server:
    """A call's sequence fills half a batch at most."""
    calls = [size / 2 for size in calls]
    return Server(limits, repeated(limits, calls), repeated(limits, streams), streams_ahead)
