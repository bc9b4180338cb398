"""Callers have their shares, whatever the others send. Time is what the simulation says; all send
as much as they may.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from bilstm_server.batching.admission import Kind
from bilstm_server.callers import Priority
from bilstm_server.errors import Overloaded
from tests.batching.admission.callers import Caller, Shared
from tests.batching.admission.simulation import Job, admission, limits_of

BATCHES = 400
BEGUN = 100  # batches after which everyone has what it will have
POLITE = [f"polite {n}" for n in range(9)]


# -- the greedy and the polite -------------------------------------------------------------------


@pytest.mark.parametrize("places", [3, 48])
@pytest.mark.parametrize("kind", Kind)
def test_many_calls_get_no_more(kind: Kind, places: int) -> None:
    """Beside one caller with 64 calls, or streams, each of nine with one call has nine tenths of
    its equal part at least, and no batch is the smaller for it."""
    greedy = Caller("greedy", [(10,)], 64, kind=kind)
    polite = [Caller(name, [(10,)]) for name in POLITE]
    shared = Shared(limits_of(30, places, 640, 64), [greedy, *polite])
    shared.run(BATCHES)
    assert min(caller.part(BEGUN) for caller in polite) >= 0.9 * 30 / 10
    assert all(len(batch) == 3 for batch in shared.batches)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("sequences", [(100,), (50, 50), (5,) * 20])
def test_the_largest_requests_get_no_more(sequences: tuple[int, ...], kind: Kind) -> None:
    """Nor has one more whose calls fill a batch each, with large sequences or with small ones,
    whether the others send calls or streams."""
    greedy = Caller("greedy", [sequences], 64)
    polite = [Caller(name, [(5,)], 6, kind=kind) for name in POLITE]
    shared = Shared(limits_of(100, 50, 800, 400), [greedy, *polite])
    shared.run(BATCHES)
    assert min(caller.part(BEGUN) for caller in polite) >= 0.9 * 100 / 10


def test_many_names_are_the_only_way_to_more() -> None:
    """Tiny sequences are no way to more: each costs at least its place in a batch."""
    greedy = Caller("greedy", [(1,) * 20], 64)
    other = Caller("other", [(10,)] * 2, 20)
    shared = Shared(limits_of(100, 10, 800, 80), [greedy, other])
    shared.run(BATCHES)
    assert other.part(BEGUN) >= 0.9 * 100 / 2


callers = st.lists(
    st.tuples(
        st.lists(st.lists(st.integers(1, 10), min_size=1, max_size=4).map(tuple), min_size=1),
        st.sampled_from([1.0, 2.0]),  # its weight
    ),
    min_size=2,
    max_size=4,
)


@given(callers)
@examples(deadline=None, derandomize=True, max_examples=10)
def test_everyone_has_its_share(drawn: list[tuple[list[tuple[int, ...]], float]]) -> None:
    """Where all send more than they can have, each has nine tenths of its share of what is computed
    at least, by its weight, whatever the sizes of their calls."""
    names = [f"caller {n}" for n in range(len(drawn))]
    shares = [f"{name}={weight}" for name, (_, weight) in zip(names, drawn, strict=True)]
    limits = limits_of(40, 40, 1200, 1200, caller_share=shares)
    senders = [Caller(name, calls, 100) for name, (calls, _) in zip(names, drawn, strict=True)]
    shared = Shared(limits, senders)
    shared.run(150)
    total = sum(caller.part(50) for caller in senders)
    weights = sum(weight for _, weight in drawn)
    for caller, (_, weight) in zip(senders, drawn, strict=True):
        assert caller.part(50) >= 0.9 * total * weight / weights, caller.name


# -- room in the queue ---------------------------------------------------------------------------


def test_a_newcomer_finds_room() -> None:
    """Once there are several callers, none fills the queue for all: each newcomer's call is let in,
    up to a batch of them."""
    first, greedy = Caller("first", [(10,)]), Caller("greedy", [(10,)], 1000)
    shared = Shared(limits_of(100, 100, 800, 800), [first, greedy])
    shared.run(5)
    assert greedy.refused[-1]
    for number in range(10):
        name = f"newcomer {number}"
        assert shared.policy.refusal(1, 10, name, Priority.NORMAL, 0.0) is None
        shared.policy.admit([Job(10, caller=name)], 0.0)


def test_who_passes_the_door_leaves_no_trace() -> None:
    """Whoever is let past the door may call another model; whoever is refused there wants room."""
    policy = admission(batch=(10, 10), queue=(40, 40))
    assert policy.refusal(1, 1, "lone", Priority.NORMAL, 0.0) is None
    assert policy.refusal_at_door("other", Priority.NORMAL, 0.0) is None
    assert not policy.shares.are_wanted(0.0)
    while policy.refusal(1, 1, "lone", Priority.NORMAL, 0.0) is None:
        policy.admit([Job(caller="lone")], 0.0)
    assert policy.refusal_at_door("other", Priority.NORMAL, 0.0) is not None
    assert policy.shares.are_wanted(0.0)


def test_a_lone_caller_fills_the_queue() -> None:
    """One caller has all of the queue; a second one that finds it full is refused once, and finds
    room when it comes again."""
    policy = admission(batch=(10, 10), queue=(40, 40))
    while policy.refusal(1, 1, "lone", Priority.NORMAL, 0.0) is None:
        policy.admit([Job(caller="lone")], 0.0)
    assert policy.tokens == 40
    assert isinstance(policy.refusal(1, 1, "second", Priority.NORMAL, 1.0), Overloaded)
    policy.close_batch(1.0)
    refusal = policy.refusal(1, 1, "lone", Priority.NORMAL, 1.0)
    assert refusal is not None
    assert "is kept for others" in str(refusal)
    assert policy.refusal(10, 10, "second", Priority.NORMAL, 2.0) is None
    assert policy.refusal(10, 10, "lone", Priority.NORMAL, 3.0) is not None
    assert policy.refusal(10, 10, "lone", Priority.NORMAL, 14.0) is None  # it was alone for long


def test_waiting_is_bounded_for_each_caller() -> None:
    """A caller is refused for what it would wait, by its share, and not for what others have
    waiting."""
    policy = admission(batch=(100, 100), queue=(1000, 1000), max_queue_seconds=1.0)
    policy.outlook.end(1, 100, 0.5, 0.0)
    policy.admit([Job(caller="greedy") for _ in range(400)], 0.0)
    assert isinstance(policy.refusal(1, 1, "greedy", Priority.NORMAL, 0.0), Overloaded)
    assert policy.refusal(1, 1, "polite", Priority.NORMAL, 0.0) is None
    policy.admit([Job(caller="polite")], 0.0)
    assert policy.refusal(50, 50, "polite", Priority.NORMAL, 0.0) is None
    assert isinstance(policy.refusal(300, 300, "polite", Priority.NORMAL, 0.0), Overloaded)


# -- priorities ----------------------------------------------------------------------------------


def test_priorities_order_and_starve_nobody() -> None:
    """What is urgent comes first, eight times as much of it as of what is not; that goes on."""
    levels = {
        priority: Caller(priority.name, [(5,)], 400, priority=priority) for priority in Priority
    }
    shared = Shared(limits_of(100, 100, 2000, 2000), levels.values())
    shared.run(BATCHES)
    low, normal, high = (levels[priority].part(BEGUN) for priority in Priority)
    assert high == pytest.approx(8 * normal, rel=0.1)
    assert normal == pytest.approx(8 * low, rel=0.1)


def test_an_urgent_call_is_in_the_next_batch() -> None:
    """However much of lower priority waits."""
    others = [Caller(name, [(5,)], 100) for name in POLITE]
    urgent = Caller("urgent", [(5, 5)], priority=Priority.HIGH)
    shared = Shared(limits_of(100, 100, 800, 800), [*others, urgent])
    shared.run(BATCHES)
    assert urgent.part(BEGUN) == 10 / 2  # in one batch, and absent while that is computed


@pytest.mark.parametrize("others", [1, 9])
def test_nobody_gains_by_a_lower_priority(others: int) -> None:
    """One that asks for less than it may has no more than an eighth of what each other one has."""
    low = Caller("low", [(5,)], 100, priority=Priority.LOW)
    normal = [Caller(name, [(5,)], 100) for name in POLITE[:others]]
    shared = Shared(limits_of(100, 100, 2000, 2000), [low, *normal])
    shared.run(BATCHES)
    assert 0 < low.part(BEGUN) <= 1.1 * min(caller.part(BEGUN) for caller in normal) / 8


# -- what comes before ---------------------------------------------------------------------------

waiting = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c", "d"]), st.sampled_from(Priority), st.integers(1, 30)),
    max_size=60,
)


@given(waiting, st.sampled_from(["a", "b"]), st.sampled_from(Priority), st.integers(1, 100))
@examples(deadline=None, derandomize=True, max_examples=200)
def test_what_is_ahead_is_known(
    jobs: list[tuple[str, Priority, int]], caller: str, priority: Priority, tokens: int
) -> None:
    """As many tokens as `tokens_ahead` says, give or take a turn of everyone, are computed before
    the last of a call; and never more than wait."""
    policy = admission(batch=(40, 40), queue=(10_000, 10_000), caller_share="b=3")
    queue = policy._queue
    for name, level, size in jobs:
        policy.admit([Job(size, caller=name, priority=level)], 0.0)
    told = queue.tokens_ahead(caller, priority, tokens)
    assert told <= queue.tokens
    call = [Job(1, caller=caller, priority=priority) for _ in range(tokens)]
    policy.admit(call, 0.0)
    ahead, left = 0, set(call)
    while left:
        for job in policy.close_batch(0.0).jobs:
            if job in left:
                left.discard(job)
            elif left:
                ahead += job.tokens
    assert abs(told - ahead) <= 100 + 0.35 * queue.tokens + 0.35 * ahead
