"""Who is told before the request is read that the result would come too late."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bilstm_server.batching.admission import Admission
from bilstm_server.callers import Priority
from bilstm_server.settings import QueueLimits
from tests.batching.admission.simulation import limits_of
from tests.batching.deadlines.simulation import Job

BATCH_TOKENS, BATCH_SECONDS = 1000, 0.1
NOW = 100.0


def limits() -> QueueLimits:
    return limits_of(BATCH_TOKENS, 100, 100 * BATCH_TOKENS, 10_000)


def busy(waiting: int) -> Admission[Job]:
    """One that knows what batches take, and has so many tokens waiting."""
    policy: Admission[Job] = Admission(limits())
    for number in range(20):
        policy.outlook.end(100, BATCH_TOKENS, BATCH_SECONDS, NOW - 0.01 * (20 - number))
    policy.admit([Job(NOW, 100) for _ in range(waiting // 100)], NOW)
    return policy


def at_door(policy: Admission[Job], seconds: float) -> bool:
    """Whether a call with so many seconds left is told that it would be too late."""
    found = policy.lateness.at_door("", Priority.NORMAL, NOW + seconds, NOW, NOW)
    return found is not None


def test_long_sequences_do_not_wait_for_batches() -> None:
    """Once long sequences have come, a call that is not read may have one, and is let in where that
    would be in time."""
    policy = busy(20 * BATCH_TOKENS)  # of two seconds
    assert at_door(policy, 1.0)
    assert not at_door(policy, 5.0)
    policy.long_work.observe(1000, 0.0001)
    assert not at_door(policy, 1.0)
    policy.long_work.observe(1000, 10.0)
    assert at_door(policy, 1.0)


@given(st.integers(0, 50), st.integers(1, limits().whole_tokens), st.floats(0.001, 10.0))
def test_nobody_is_turned_away_who_would_be_let_in(
    batches: int, tokens: int, seconds: float
) -> None:
    """Whoever is told so would be told the same once the request was read."""
    policy = busy(batches * BATCH_TOKENS)
    if not at_door(policy, seconds):
        return
    deadline = NOW + seconds
    read = policy.lateness.of_call([tokens], "", Priority.NORMAL, deadline, NOW, NOW)
    assert read is not None
