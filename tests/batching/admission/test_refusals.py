"""Whom `Admission` refuses, what that changes, and when it says to come again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from bilstm_server.batching.admission import Kind
from bilstm_server.callers import Priority
from bilstm_server.errors import Overloaded, Unavailable
from bilstm_server.settings import QueueLimits
from tests.batching.admission.simulation import (
    SECONDS_PER_TOKEN,
    Job,
    admission,
    call,
    limits,
    server,
    sizes,
)


def long_call(tokens: int) -> Job:
    return Job(tokens, is_long=True)


# -- who is refused, and what that changes -------------------------------------------------------


@given(limits(), sizes, sizes, st.integers(0, 8))
@examples(deadline=None, derandomize=True, max_examples=50)
def test_a_refused_call_changes_nothing(
    limits: QueueLimits, calls: list[float], streams: list[float], ahead: int
) -> None:
    """A refused call changes nothing, for those that wait and for those that come."""

    def batches(refused_calls: int) -> list[list[tuple[Kind, int]]]:
        busy = server(limits, calls, streams, ahead)
        for _ in range(20):
            busy.step()
            for _ in range(refused_calls):
                assert busy.policy.refusal(
                    1, limits.max_queue_tokens + 1, "", Priority.NORMAL, busy.now
                )
        return [[(job.kind, job.tokens) for job in closed.jobs] for closed in busy.batches]

    assert batches(3) == batches(0)


@pytest.mark.parametrize(
    ("sequences", "tokens", "refused"),
    [(6, 30, False), (7, 30, True), (6, 31, True)],
)
def test_calls_are_bounded_with_the_long_ones(sequences: int, tokens: int, refused: bool) -> None:
    """Calls are bounded in sequences and tokens, whether they wait for batches or for slices."""
    policy = admission(queue=(60, 10))
    policy.admit([long_call(20), call(4), call(3), call(3)], 0.0)
    policy.admit([Job(100, Kind.STREAM, is_long=True)], 0.0)  # takes memory of streams
    assert (policy.sequences, policy.tokens) == (4, 30)
    assert (policy.refusal(sequences, tokens, "", Priority.NORMAL, 0.0) is not None) == refused


def test_long_sequences_give_back_their_room() -> None:
    """Long sequences that have ended leave neither sequences nor tokens behind."""
    policy = admission()
    ended = [long_call(15), Job(100, Kind.STREAM, is_long=True)]
    policy.admit(ended, 0.0)
    assert (policy.sequences, policy.tokens) == (1, 15)
    for job in ended:
        policy.long_work.end(job)
    assert (policy.sequences, policy.tokens) == (0, 0)


def test_calls_are_refused_that_would_wait_for_too_long() -> None:
    """Calls are refused where the first has waited, or the queue will take, for too long."""
    policy = admission(max_queue_seconds=2.0)
    policy.admit([call(10)], 0.0)
    assert policy.refusal(1, 1, "", Priority.NORMAL, 2.0) is None
    assert isinstance(policy.refusal(1, 1, "", Priority.NORMAL, 2.1), Overloaded)
    policy.outlook.end(10, 10, 2.0, 0.0)
    assert policy.refusal(1, 1, "", Priority.NORMAL, 0.0) is None
    policy.admit([call(1)], 0.0)
    assert isinstance(policy.refusal(1, 1, "", Priority.NORMAL, 0.0), Overloaded)


def test_refusing_is_for_those_at_the_door() -> None:
    """Those behind it, and streams, still come until it is drained; what waits is due at once."""
    policy = admission(max_queue_delay=5.0)
    policy.admit([call()], 1.0)
    assert policy.due_at() == 6.0
    assert policy.refusal_at_door("", Priority.NORMAL, 0.0) is None
    policy.refuse()
    assert isinstance(policy.refusal_at_door("", Priority.NORMAL, 0.0), Unavailable)
    assert policy.refusal(1, 1, "", Priority.NORMAL, 0.0) is None
    assert policy.refusal_of_stream() is None
    assert not policy.is_drained
    due_at = policy.due_at()
    assert due_at is not None
    assert due_at <= 0.0
    policy.drain()
    assert isinstance(policy.refusal(1, 1, "", Priority.NORMAL, 0.0), Unavailable)
    assert isinstance(policy.refusal_of_stream(), Unavailable)
    assert policy.is_drained


# -- how long it will take -----------------------------------------------------------------------


@given(limits(), sizes, sizes, st.integers(0, 8))
@examples(deadline=None, derandomize=True, max_examples=50)
def test_refusal_says_when_the_queue_is_computed(
    limits: QueueLimits, calls: list[float], streams: list[float], ahead: int
) -> None:
    """Who comes again then finds computed all that waited, and not much earlier."""
    busy = server(limits, calls, streams, ahead)
    for _ in range(20):
        busy.step()
    refusal = busy.policy.refusal(1, limits.max_queue_tokens + 1, "", Priority.NORMAL, busy.now)
    assert isinstance(refusal, Overloaded)
    expected = busy.policy.tokens * SECONDS_PER_TOKEN
    last = sum(job.tokens for job in busy.batches[-1].jobs) * SECONDS_PER_TOKEN
    assert refusal.retry_after_seconds == pytest.approx(max(expected, last, 0.01))


def test_long_sequences_take_their_time() -> None:
    """Before a slice was computed as in a batch, then as slices do, and only for what is left."""
    policy = admission(queue=(10_000, 16))
    first, second = long_call(1000), Job(500, Kind.STREAM, is_long=True)
    policy.admit([first, second, call(10)], 0.0)
    policy.outlook.end(100, 100, 1.0, 0.0)
    assert policy.seconds_of_waiting == pytest.approx((1000 + 500 + 10) * 0.01)
    policy.long_work.progress(first, 1200, layers=2)
    assert policy.seconds_of_waiting == pytest.approx((1200 + 2 * 500) * 0.01 / 2 + 10 * 0.01)
    policy.long_work.observe(50, 1.0, 0.0)
    policy.long_work.observe(0, 1.0, 0.0)  # one that failed
    assert policy.seconds_of_waiting == pytest.approx((1200 + 2 * 500) * 0.02 + 10 * 0.01)
    policy.long_work.end(first)
    assert policy.seconds_of_waiting == pytest.approx(2 * 500 * 0.02 + 10 * 0.01)


def test_retry_is_never_at_once() -> None:
    """Before anything was computed it is a guess; and however fast the device is, a little."""
    policy = admission()
    assert policy.seconds_of_waiting == 0.5
    policy.outlook.end(100, 100, 1e-6, 0.0)
    assert policy.seconds_of_waiting == 0.01
