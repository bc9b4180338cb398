"""`BatchQueue`, all decisions and no clock: time is whatever the test says it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from bilstm_server.batching.forming import BoundedBatch
from bilstm_server.batching.queue import BatchQueue
from bilstm_server.batching.shares import Shares
from bilstm_server.callers import Priority
from bilstm_server.settings import QueueLimits

NEVER = 1e9


@dataclass(frozen=True, eq=False)
class Job:
    tokens: int = 1
    admitted_at: float = 0.0
    deadline: float = NEVER
    behind: int = 0
    caller: str = ""
    priority: Priority = Priority.NORMAL


limits = st.builds(
    QueueLimits,
    max_batch_tokens=st.integers(1, 12),
    max_batch_sequences=st.integers(1, 5),
    max_queue_tokens=st.integers(12, 40),
    max_queue_sequences=st.integers(5, 20),
    max_queue_delay=st.sampled_from([0.0, 0.5, 3.0]),
)


LIMITS = QueueLimits(
    max_batch_tokens=10, max_batch_sequences=3, max_queue_tokens=100, max_queue_sequences=100
)


def take(
    queue: BatchQueue[Job], now: float, limits: QueueLimits = LIMITS
) -> tuple[list[Job], list[Job]]:
    return queue.take(BoundedBatch(limits, limits.max_batch_tokens, now))


def model_of_take(
    waiting: Sequence[Job], limits: QueueLimits, now: float
) -> tuple[list[Job], list[Job]]:
    """What `take` must return, the slow way: try ever longer prefixes of the queue."""
    best = 0
    for end in range(len(waiting) + 1):
        live = [job for job in waiting[:end] if job.deadline > now]
        fits = len(live) <= limits.max_batch_sequences and (
            len(live) <= 1 or sum(job.tokens for job in live) <= limits.max_batch_tokens
        )
        if fits:
            best = end
    prefix = waiting[:best]
    batch = [job for job in prefix if job.deadline > now]
    expired = [job for job in prefix if job.deadline <= now]
    if len(batch) == limits.max_batch_sequences:  # full: what stands behind is not looked at
        last = prefix.index(batch[-1])
        expired = [job for job in expired if prefix.index(job) < last]
    return batch, expired


class QueueMachine(RuleBasedStateMachine):
    """Jobs come, leave and are taken in any order; a plain list says what must be."""

    jobs: Bundle[Job] = Bundle("jobs")

    @rule(chosen=limits)
    def restart(self, chosen: QueueLimits) -> None:
        self.limits = chosen
        self.queue: BatchQueue[Job] = BatchQueue(chosen, Shares({}))
        self.waiting: list[Job] = []

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.ended: list[Job] = []
        self.restart(
            QueueLimits(
                max_batch_tokens=8,
                max_batch_sequences=3,
                max_queue_tokens=20,
                max_queue_sequences=6,
                max_queue_delay=1.0,
            )
        )

    @rule(
        target=jobs,
        shapes=st.lists(
            st.tuples(st.integers(1, 14), st.sampled_from([0.0, 1.0, 4.0, NEVER])), max_size=5
        ),
    )
    def put(self, shapes: list[tuple[int, float]]) -> MultipleResults[Job]:
        new = [Job(tokens, self.now, self.now + left) for tokens, left in shapes]
        tokens = sum(job.tokens for job in new)
        total = sum(job.tokens for job in self.waiting) + tokens
        room = len(self.waiting) + len(new) <= self.limits.max_queue_sequences
        room = room and total <= self.limits.max_queue_tokens
        assert self.queue.fits(len(new), tokens) == room
        if not room:
            return multiple()
        self.queue.put(new)
        self.waiting += new
        return multiple(*new)

    @rule(job=consumes(jobs))
    def remove(self, job: Job) -> None:
        waits = any(job is other for other in self.waiting)
        assert self.queue.remove(job) == waits
        assert not self.queue.remove(job)
        self.waiting = [other for other in self.waiting if other is not job]

    @rule(passed=st.sampled_from([0.0, 0.5, 1.0, 5.0]))
    def take(self, passed: float) -> None:
        self.now += passed
        batch, expired = take(self.queue, self.now, self.limits)
        assert (batch, expired) == model_of_take(self.waiting, self.limits, self.now)
        assert all(job.deadline <= self.now for job in expired)
        assert all(job.deadline > self.now for job in batch)
        assert len(batch) <= self.limits.max_batch_sequences
        assert len(batch) <= 1 or sum(j.tokens for j in batch) <= self.limits.max_batch_tokens
        assert bool(batch or expired) == bool(self.waiting)
        gone = {id(job) for job in (*batch, *expired)}
        assert len(gone) == len(batch) + len(expired)
        assert gone <= {id(job) for job in self.waiting}
        self.ended += [*batch, *expired]
        self.waiting = [job for job in self.waiting if id(job) not in gone]

    @invariant()
    def counts_are_exact(self) -> None:
        assert len(self.queue) == len(self.waiting)
        assert self.queue.tokens == sum(job.tokens for job in self.waiting)
        assert self.queue.tokens <= self.limits.max_queue_tokens

    @invariant()
    def due_when_it_must_be(self) -> None:
        tokens = sum(job.tokens for job in self.waiting)
        full = (
            len(self.waiting) >= self.limits.max_batch_sequences
            or tokens >= self.limits.max_batch_tokens
        )
        assert self.queue.full == full
        if not self.waiting:
            assert self.queue.due_at() is None
        else:
            delay = 0.0 if full else self.limits.max_queue_delay
            assert self.queue.due_at() == self.waiting[0].admitted_at + delay

    def teardown(self) -> None:
        """Nothing is lost and nothing comes twice: emptying the queue gives what still waits."""
        rest: list[Job] = []
        while len(self.queue):
            batch, expired = take(self.queue, self.now, self.limits)
            assert batch or expired
            rest += [*batch, *expired]
        assert {id(job) for job in rest} == {id(job) for job in self.waiting}
        assert len(rest) == len(self.waiting)
        assert len({id(job) for job in self.ended}) == len(self.ended)
        assert self.queue.tokens == 0


TestQueueMachine = QueueMachine.TestCase
QueueMachine.TestCase.settings = examples(
    deadline=None, derandomize=True, max_examples=100, stateful_step_count=25
)


def waiting(*jobs: Job, **changed: float) -> BatchQueue[Job]:
    queue: BatchQueue[Job] = BatchQueue(LIMITS.model_copy(update=changed), Shares({}))
    queue.put(jobs)
    return queue


@given(
    jobs=st.lists(st.builds(Job, tokens=st.integers(1, 14)), max_size=20),
    limits=limits,
)
@examples(deadline=None, derandomize=True)
def test_first_in_first_out(jobs: list[Job], limits: QueueLimits) -> None:
    """Batch after batch, the jobs leave in the order in which they came, each one once."""
    queue: BatchQueue[Job] = BatchQueue(limits, Shares({}))
    queue.put(jobs)
    left: list[Job] = []
    while len(queue):
        batch, expired = take(queue, 0.0, limits)
        assert batch
        assert not expired
        left += batch
    assert left == jobs


@pytest.mark.parametrize("tokens", [10, 11, 1000])
def test_one_job_always_fits_a_batch(tokens: int) -> None:
    """A job as large as a batch, or larger, is taken alone instead of waiting for ever."""
    large, small = Job(tokens), Job(1)
    queue = waiting(large, small)
    assert take(queue, 0.0) == ([large], [])
    assert take(queue, 0.0) == ([small], [])


def test_large_job_does_not_let_others_pass() -> None:
    """Those behind a job that does not fit into the batch wait with it."""
    first, large, last = Job(4), Job(9), Job(1)
    queue = waiting(first, large, last)
    assert take(queue, 0.0) == ([first], [])
    assert take(queue, 0.0) == ([large, last], [])


def test_expired_make_room_in_the_batch() -> None:
    """Expired jobs come out with the batch and count for none of its bounds."""
    dead = [Job(9, deadline=1.0) for _ in range(4)]
    live = [Job(5), Job(5)]
    queue = waiting(dead[0], live[0], dead[1], dead[2], live[1], dead[3])
    assert take(queue, 1.0) == (live, dead)
    assert (len(queue), queue.tokens) == (0, 0)


def test_deadline_is_over_when_it_is_reached() -> None:
    """At its deadline a job has expired; before, it has not."""
    job = Job(deadline=2.0)
    assert take(waiting(job), 1.999) == ([job], [])
    assert take(waiting(job), 2.0) == ([], [job])


def test_equal_jobs_are_told_apart() -> None:
    """Removing a job leaves another that looks the same."""
    first, second = Job(3), Job(3)
    queue = waiting(first, second)
    assert queue.remove(first)
    assert not queue.remove(first)
    assert take(queue, 0.0) == ([second], [])


def test_batch_is_bounded_in_sequences() -> None:
    """However few tokens they have."""
    jobs = [Job() for _ in range(4)]
    queue = waiting(*jobs)
    assert take(queue, 0.0) == (jobs[:3], [])
    assert take(queue, 0.0) == (jobs[3:], [])


def test_job_that_left_makes_room() -> None:
    """A job that left makes room, in sequences and in tokens."""
    job = Job(10)
    queue = waiting(job, max_queue_tokens=10, max_queue_sequences=1)
    assert not queue.fits(1, 1)
    assert queue.remove(job)
    assert queue.fits(1, 10)


def test_empty_queue_is_never_due() -> None:
    """An empty queue is never due: without jobs there is no batch to wait for."""
    assert waiting().due_at() is None
    assert take(waiting(), 0.0) == ([], [])


@pytest.mark.parametrize(
    ("jobs", "due_at"),
    [
        ([Job(1, 5.0)], 9.0),
        ([Job(1, 5.0), Job(1, 8.0)], 9.0),
        ([Job(1, 5.0), Job(1, 6.0), Job(1, 7.0)], 5.0),
        ([Job(5, 5.0), Job(5, 6.0)], 5.0),
        ([Job(5, 5.0), Job(4, 6.0)], 9.0),
    ],
    ids=["alone", "the oldest counts", "full of sequences", "full of tokens", "not quite full"],
)
def test_due(jobs: list[Job], due_at: float) -> None:
    """A batch is due when the oldest has waited for the delay, or at once if it is full."""
    assert waiting(*jobs, max_queue_delay=4.0).due_at() == due_at


@pytest.mark.parametrize(("tokens", "fits"), [(0, True), (7, True), (8, False)])
def test_queue_is_bounded_in_tokens(tokens: int, fits: bool) -> None:
    """What would exceed the bound does not fit; what just reaches it does."""
    assert waiting(Job(3), max_queue_tokens=10).fits(1, tokens) is fits


@pytest.mark.parametrize(("sequences", "fits"), [(0, True), (2, True), (3, False)])
def test_queue_is_bounded_in_sequences(sequences: int, fits: bool) -> None:
    """However few tokens they have."""
    assert waiting(Job(3), max_queue_sequences=3).fits(sequences, sequences) is fits
