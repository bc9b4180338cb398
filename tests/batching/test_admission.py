"""`Admission`: fairness between calls, streams and long sequences, in a pure simulation.

Time is whatever the simulation says. Calls and streams send as much as they may, so that whoever
gets too little shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from bilstm_server.batching.admission import Admission, ClosedBatch, Kind
from bilstm_server.errors import Overloaded, Unavailable
from bilstm_server.settings import QueueLimits

NEVER = 1e9
SECONDS_PER_TOKEN = 0.001
SLICE_SECONDS = 0.002


@dataclass(eq=False)
class Job:
    tokens: int = 1
    kind: Kind = Kind.CALL
    is_long: bool = False
    caller: str = ""
    deadline: float = NEVER
    admitted_at: float = -1.0


def call(tokens: int = 1) -> Job:
    return Job(tokens)


def streamed(tokens: int = 1) -> Job:
    return Job(tokens, Kind.STREAM)


def long_call(tokens: int) -> Job:
    return Job(tokens, is_long=True)


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

    def step(self) -> None:
        """All send what they may; then a batch is closed and computed."""
        self.offer_streams()
        while (tokens := next(self.calls, 0)) and not self.policy.refusal(1, tokens, self.now):
            self.enter(call(tokens))
        closed = self.policy.close_batch(self.now)
        for job in closed.admitted:
            self.turns.append(len(self.batches) - self.offered.pop(job))
            self.admitted.append(job)
        self.batches.append(closed)
        tokens = sum(job.tokens for job in closed.jobs)
        if closed.jobs:
            self.policy.batch_cost.observe(tokens, tokens * SECONDS_PER_TOKEN)
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


BATCHES = 200


def server(
    limits: QueueLimits, calls: list[float], streams: list[float], streams_ahead: int
) -> Server:
    """A call's sequence fills half a batch at most."""
    calls = [size / 2 for size in calls]
    return Server(limits, repeated(limits, calls), repeated(limits, streams), streams_ahead)


# -- calls beside streams ---------------------------------------------------------------------


@given(limits(), sizes, sizes, st.integers(1, 40))
@examples(deadline=None, derandomize=True, max_examples=100)
def test_nobody_starves(
    limits: QueueLimits, calls: list[float], streams: list[float], ahead: int
) -> None:
    """Where both send as much as they may, calls and streams have a quarter of all batches at least
    (streams, unless they never wait), and a stream's sequence waits for a few batches for each of
    those before it."""
    busy = server(limits, calls, streams, ahead)
    for _ in range(BATCHES):
        busy.step()
    assert busy.part(Kind.CALL) >= BATCHES / 4
    assert busy.part(Kind.STREAM) >= BATCHES / 4 or max(busy.turns, default=0) <= 1
    assert max(busy.turns, default=0) <= 3 * ahead + 3


@given(limits(), sizes, st.integers(1, 40))
@examples(deadline=None, derandomize=True, max_examples=50)
def test_alone_each_kind_fills_the_batches(
    limits: QueueLimits, of_sizes: list[float], ahead: int
) -> None:
    """What is kept for others is not missed where there are none: a stream's sequences that wait
    come in as soon as they fit."""
    calls = server(limits, of_sizes, [], 0)
    streams = Server(limits, streams=repeated(limits, of_sizes), streams_ahead=ahead)
    for one in (calls, streams):
        for _ in range(20):
            one.step()
        assert all(closed.jobs for closed in one.batches)
    assert max(streams.turns, default=0) <= ahead


@given(limits(), sizes, sizes, st.integers(0, 40))
@examples(deadline=None, derandomize=True, max_examples=50)
def test_first_come_first_served_within_a_kind(
    limits: QueueLimits, calls: list[float], streams: list[float], ahead: int
) -> None:
    """Nobody is overtaken by one of the same kind, when let in and when computed, nor computed
    twice."""
    busy = server(limits, calls, streams, ahead)
    came: list[Job] = []
    for _ in range(40):
        busy.step()
        came += [job for job in busy.offered if job not in came]
    computed = [job for closed in busy.batches for job in closed.jobs]
    assert computed == busy.admitted[: len(computed)]
    waited = [job for job in busy.admitted if job in set(came)]
    assert waited == came[: len(waited)]


def test_streams_have_their_turns_where_calls_fill_every_batch() -> None:
    """With each batch half as much of theirs comes in, and not more."""
    policy = admission(batch=(100, 4), queue=(1000, 16))
    policy.admit([call() for _ in range(16)], 0.0)
    waiting = [streamed() for _ in range(5)]
    assert not any(policy.offer(job, 0.0) for job in waiting)
    assert policy.close_batch(0.0).admitted == waiting[:2]
    policy.admit([call(), call()], 0.0)
    assert policy.close_batch(0.0).admitted == waiting[2:4]


def test_streams_share_is_counted_in_tokens() -> None:
    """A few large sequences have no more of the device than many small ones."""
    policy = admission(batch=(100, 50), queue=(1000, 500))
    policy.admit([call(10) for _ in range(100)], 0.0)
    waiting = [streamed(25) for _ in range(8)]
    assert not any(policy.offer(job, 0.0) for job in waiting)
    assert policy.close_batch(0.0).admitted == waiting[:2]


def test_room_is_kept_for_a_large_sequence_of_a_stream() -> None:
    """It is not for small calls to take what room there is before it: its turn comes."""
    policy = admission(batch=(10, 2), queue=(20, 100))
    policy.admit([call() for _ in range(20)], 0.0)
    large = streamed(5)
    assert not policy.offer(large, 0.0)
    admitted = []
    for _ in range(3):
        admitted.append(policy.close_batch(0.0).admitted)
        while policy.refusal(1, 1, 0.0) is None:
            policy.admit([call()], 0.0)
    assert admitted == [[], [], [large]]


def test_streams_that_wait_are_not_overtaken() -> None:
    """Not even by one that comes when all those before it have left."""
    policy = admission()
    calls = [call() for _ in range(16)]
    policy.admit(calls, 0.0)
    first, second = streamed(), streamed()
    assert not policy.offer(first, 0.0)
    for job in calls:
        policy.withdraw(job)
    assert not policy.offer(second, 0.0)
    assert policy.admit_streams(0.0) == [first, second]


@pytest.mark.parametrize("left", ["waiting", "let in"])
def test_stream_that_left_keeps_no_room(left: str) -> None:
    policy = admission(batch=(10, 2), queue=(20, 100))
    policy.admit([call() for _ in range(20)], 0.0)
    large, small = streamed(5), streamed(1)
    policy.offer(large, 0.0)
    if left == "waiting":
        assert not policy.close_batch(0.0).admitted  # its turn has come, but there is no room
        assert policy.refusal(1, 1, 0.0) is not None
    else:
        admitted = [policy.close_batch(0.0).admitted for _ in range(3)]
        assert admitted == [[], [], [large]]
    tokens = policy.tokens
    policy.withdraw(large)
    assert policy.tokens == tokens - (5 if left == "let in" else 0)
    assert policy.refusal(1, 20 - policy.tokens, 0.0) is None
    assert policy.offer(small, 0.0) == (not policy.close_batch(0.0).admitted)


# -- who is refused, and what that changes ----------------------------------------------------


@given(limits(), sizes, sizes, st.integers(0, 8))
@examples(deadline=None, derandomize=True, max_examples=50)
def test_a_refused_call_changes_nothing(
    limits: QueueLimits, calls: list[float], streams: list[float], ahead: int
) -> None:
    """Not for those that wait, nor for those that come."""

    def batches(refused_calls: int) -> list[list[tuple[Kind, int]]]:
        busy = server(limits, calls, streams, ahead)
        for _ in range(20):
            busy.step()
            for _ in range(refused_calls):
                assert busy.policy.refusal(1, limits.max_queue_tokens + 1, busy.now)
        return [[(job.kind, job.tokens) for job in closed.jobs] for closed in busy.batches]

    assert batches(3) == batches(0)


@pytest.mark.parametrize(
    ("sequences", "tokens", "refused"),
    [(6, 30, False), (7, 30, True), (6, 31, True)],
)
def test_calls_are_bounded_with_the_long_ones(sequences: int, tokens: int, refused: bool) -> None:
    """In sequences and in tokens, whether they wait for batches or for slices."""
    policy = admission(queue=(60, 10))
    policy.admit([long_call(20), call(4), call(3), call(3)], 0.0)
    policy.admit([Job(100, Kind.STREAM, is_long=True)], 0.0)  # takes memory of streams
    assert (policy.sequences, policy.tokens) == (4, 30)
    assert (policy.refusal(sequences, tokens, 0.0) is not None) == refused


def test_long_sequences_give_back_their_room() -> None:
    policy = admission()
    ended = [long_call(15), Job(100, Kind.STREAM, is_long=True)]
    policy.admit(ended, 0.0)
    assert (policy.sequences, policy.tokens) == (1, 15)
    for job in ended:
        policy.long_work.end(job)
    assert (policy.sequences, policy.tokens) == (0, 0)


def test_calls_are_refused_that_would_wait_for_too_long() -> None:
    """Because the first one has waited for so long, or as the queue will take so long."""
    policy = admission(max_queue_seconds=2.0)
    policy.admit([call(10)], 0.0)
    assert policy.refusal(1, 1, 2.0) is None
    assert isinstance(policy.refusal(1, 1, 2.1), Overloaded)
    policy.batch_cost.observe(10, 2.0)
    assert policy.refusal(1, 1, 0.0) is None
    policy.admit([call(1)], 0.0)
    assert isinstance(policy.refusal(1, 1, 0.0), Overloaded)


def test_refusing_is_for_those_at_the_door() -> None:
    """Those behind it, and streams, still come until it is drained; what waits is due at once."""
    policy = admission(max_queue_delay=5.0)
    policy.admit([call()], 1.0)
    assert policy.due_at() == 6.0
    assert policy.refusal_at_door(0.0) is None
    policy.refuse()
    assert isinstance(policy.refusal_at_door(0.0), Unavailable)
    assert policy.refusal(1, 1, 0.0) is None
    assert policy.refusal_of_stream() is None
    assert not policy.is_drained
    due_at = policy.due_at()
    assert due_at is not None
    assert due_at <= 0.0
    policy.drain()
    assert isinstance(policy.refusal(1, 1, 0.0), Unavailable)
    assert isinstance(policy.refusal_of_stream(), Unavailable)
    assert policy.is_drained


# -- how long it will take --------------------------------------------------------------------


@given(limits(), sizes, sizes, st.integers(0, 8))
@examples(deadline=None, derandomize=True, max_examples=50)
def test_refusal_says_when_the_queue_is_computed(
    limits: QueueLimits, calls: list[float], streams: list[float], ahead: int
) -> None:
    """Who comes again then finds computed all that waited, and not much earlier."""
    busy = server(limits, calls, streams, ahead)
    for _ in range(20):
        busy.step()
    refusal = busy.policy.refusal(1, limits.max_queue_tokens + 1, busy.now)
    assert isinstance(refusal, Overloaded)
    expected = busy.policy.tokens * SECONDS_PER_TOKEN
    last = sum(job.tokens for job in busy.batches[-1].jobs) * SECONDS_PER_TOKEN
    assert refusal.retry_after_seconds == pytest.approx(max(expected, last, 0.01))


def test_long_sequences_take_their_time() -> None:
    """Before a slice was computed as in a batch, then as slices do, and only for what is left."""
    policy = admission(queue=(10_000, 16))
    first, second = long_call(1000), Job(500, Kind.STREAM, is_long=True)
    policy.admit([first, second, call(10)], 0.0)
    policy.batch_cost.observe(100, 1.0)
    assert policy.seconds_of_waiting == pytest.approx((1000 + 500 + 10) * 0.01)
    policy.long_work.progress(first, 1200, layers=2)
    assert policy.seconds_of_waiting == pytest.approx((1200 + 2 * 500) * 0.01 / 2 + 10 * 0.01)
    policy.long_work.observe(50, 1.0)
    policy.long_work.observe(0, 1.0)  # one that failed
    assert policy.seconds_of_waiting == pytest.approx((1200 + 2 * 500) * 0.02 + 10 * 0.01)
    policy.long_work.end(first)
    assert policy.seconds_of_waiting == pytest.approx(2 * 500 * 0.02 + 10 * 0.01)


def test_retry_is_never_at_once() -> None:
    """Before anything was computed it is a guess; and however fast the device is, a little."""
    policy = admission()
    assert policy.seconds_of_waiting == 0.5
    policy.batch_cost.observe(100, 1e-6)
    assert policy.seconds_of_waiting == 0.01


# -- slices beside batches --------------------------------------------------------------------


def slices_seconds(policy: Admission[Job], batch_seconds: float, slice_seconds: float) -> float:
    """How long slices have the device after a batch, if another one waits."""
    slice_time = policy.slice_time(batch_seconds)
    elapsed = slice_seconds
    while not slice_time.is_over(elapsed, wanted=True):
        elapsed += slice_seconds
    return elapsed


@given(st.floats(1e-4, 10), st.floats(1e-5, 0.1))
@examples(deadline=None, derandomize=True)
def test_slices_have_their_share(batch_seconds: float, slice_seconds: float) -> None:
    """Where batches wait, slices have a fifth of the time, as far as that is no more than 50 ms in
    a row; they end with the first slice that reaches it."""
    seconds = slices_seconds(admission(), batch_seconds, slice_seconds)
    share = min(batch_seconds / 4, 0.05)
    assert share <= seconds < share + slice_seconds * (1 + 1e-6) + 1e-9


def test_slices_give_way() -> None:
    """If no batch went before, one slice is all they have where something else wants the device;
    where nothing does, they have it, but not so long that nobody could leave."""
    slice_time = admission().slice_time(0.0)
    assert slice_time.is_over(0.000001, wanted=True)
    assert not slice_time.is_over(0.049, wanted=False)
    assert slice_time.is_over(0.05, wanted=False)
