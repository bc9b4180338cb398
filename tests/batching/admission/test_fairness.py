"""`Admission` is fair between calls, streams and long sequences. Time is whatever the simulation
says; calls and streams send as much as they may, so that whoever gets too little shows.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from bilstm_server.batching.admission import Admission, Kind
from bilstm_server.callers import Priority
from bilstm_server.settings import QueueLimits
from tests.batching.admission.simulation import (
    Job,
    Server,
    admission,
    call,
    limits,
    repeated,
    server,
    sizes,
    streamed,
)

BATCHES = 200


# -- calls beside streams ------------------------------------------------------------------------


@given(limits(), sizes, sizes, st.integers(1, 40))
@examples(deadline=None, derandomize=True, max_examples=100)
def test_nobody_starves(
    limits: QueueLimits, calls: list[float], streams: list[float], ahead: int
) -> None:
    """Where both send as much as they may, calls have a quarter of all batches at least, and
    streams of those that left some of them waiting; and a stream's sequence waits for a few batches
    for each of those before it."""
    busy = server(limits, calls, streams, ahead)
    for _ in range(BATCHES):
        busy.step()
    assert busy.part(Kind.CALL) >= BATCHES / 4
    assert busy.part(Kind.STREAM) >= busy.left_waiting / 4
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
    """Where calls fill every batch, half a batch of streams' sequences comes in with each, no
    more."""
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
    """Small calls do not take the room before a stream's large sequence for ever: its turn
    comes."""
    policy = admission(batch=(10, 2), queue=(20, 100))
    policy.admit([call() for _ in range(20)], 0.0)
    large = streamed(5)
    assert not policy.offer(large, 0.0)
    admitted = []
    for _ in range(3):
        admitted.append(policy.close_batch(0.0).admitted)
        while policy.refusal(1, 1, "", Priority.NORMAL, 0.0) is None:
            policy.admit([call()], 0.0)
    assert admitted == [[], [], [large]]


def test_streams_that_wait_are_not_overtaken() -> None:
    """A stream that waits is overtaken by none, not even once all those before it have left."""
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
    """A stream's sequence that leaves, while it waits or once it was let in, keeps no room for
    itself."""
    policy = admission(batch=(10, 2), queue=(20, 100))
    policy.admit([call() for _ in range(20)], 0.0)
    large, small = streamed(5), streamed(1)
    policy.offer(large, 0.0)
    if left == "waiting":
        assert not policy.close_batch(0.0).admitted  # its turn has come, but there is no room
        assert policy.refusal(1, 1, "", Priority.NORMAL, 0.0) is not None
    else:
        admitted = [policy.close_batch(0.0).admitted for _ in range(3)]
        assert admitted == [[], [], [large]]
    tokens = policy.tokens
    policy.withdraw(large)
    assert policy.tokens == tokens - (5 if left == "let in" else 0)
    assert policy.refusal(1, 20 - policy.tokens, "", Priority.NORMAL, 0.0) is None
    assert policy.offer(small, 0.0) == (not policy.close_batch(0.0).admitted)


# -- slices beside batches -----------------------------------------------------------------------


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
