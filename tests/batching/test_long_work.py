"""What long sequences are said to take: by the slices that were computed, and only as far as these
say anything."""

from __future__ import annotations

from bilstm_server.batching.admission import Admission
from bilstm_server.callers import Priority
from tests.batching.admission.simulation import limits_of
from tests.batching.deadlines.simulation import Job

BATCH_TOKENS = 1000
LONG = 2 * BATCH_TOKENS
SECONDS = 3e-6  # that a token takes in a slice
NOW = 100.0


def sliced(now: float = NOW) -> Admission[Job]:
    """A model of which slices were computed until then, and batches are all the time."""
    policy: Admission[Job] = Admission(limits_of(BATCH_TOKENS, 100, 100 * BATCH_TOKENS, 10_000))
    for _ in range(8):
        policy.long_work.observe(500, 500 * SECONDS, now)
    policy.outlook.end(100, BATCH_TOKENS, 0.01, now)
    return policy


def is_refused(policy: Admission[Job], now: float, seconds: float = 1.0) -> bool:
    """Whether a long call with so many seconds left is."""
    policy.outlook.end(100, BATCH_TOKENS, 0.01, now)
    deadline = now + seconds
    told = policy.lateness.of_call([LONG], "", Priority.NORMAL, deadline, now, now)
    return told is not None


def test_one_odd_slice_has_nobody_refused() -> None:
    """The last steps of a sequence, few and dear, and a slice that was held up, say little of the
    next ones: nobody is refused for them, and nobody leaves."""
    for tokens, seconds in ((2, 0.01), (500, 2.0)):
        policy = sliced()
        policy.long_work.observe(tokens, seconds, NOW)
        job = Job(NOW, LONG, NOW + 1.0, is_long=True)
        policy.long_work.put(job, takes_room=True)
        assert not policy.long_work.is_hopeless(job, NOW)
        assert not is_refused(policy, NOW)


def test_slices_that_become_slow_are_followed() -> None:
    """Once most tokens are slow, whoever can't be in time is refused, and leaves."""
    policy = sliced()
    for _ in range(9):
        policy.long_work.observe(500, 2.0, NOW)
    job = Job(NOW, LONG, NOW + 1.0, is_long=True)
    policy.long_work.put(job, takes_room=True)
    assert policy.long_work.is_hopeless(job, NOW)
    assert is_refused(policy, NOW)


def test_one_is_let_in_where_no_slice_tells() -> None:
    """Where all were slow, and none was computed for a while, one is let in and computed, whatever
    batches are computed meanwhile; others come in when its slices were fast."""
    policy: Admission[Job] = Admission(limits_of(BATCH_TOKENS, 100, 100 * BATCH_TOKENS, 10_000))
    for _ in range(16):
        policy.long_work.observe(500, 2.0, NOW)
    assert is_refused(policy, NOW + 0.1)
    later = NOW + 1.0
    assert not is_refused(policy, later)
    trial = Job(later, LONG, later + 1.0, is_long=True)
    policy.long_work.put(trial, takes_room=True)
    assert not policy.long_work.is_hopeless(trial, later)
    assert is_refused(policy, later)
    for _ in range(17):
        policy.long_work.observe(500, 500 * SECONDS, later)
    assert not policy.long_work.is_hopeless(trial, later)
    assert not is_refused(policy, later)
