"""Callers with deadlines of 100 ms, in virtual time: what is answered in time, what is computed for
nobody, who is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from bilstm_server.settings import QueueLimits
from tests.batching.admission.simulation import limits_of
from tests.batching.deadlines.simulation import Engine, Server, Tally, arrivals, together

BATCH_TOKENS, BATCH_SECONDS = 4096, 0.025
CAPACITY = BATCH_TOKENS / BATCH_SECONDS  # tokens a second
SIZES = (60, 180)
TIMEOUT = 0.1
DEEP = 10**9  # tokens: a queue that is never full
OF_500_MS = int(0.5 * CAPACITY)


def engine(noise: float = 0.05, base: float = 0.002, **more: object) -> Engine:
    """One whose full batches take 25 ms."""
    per_step = 2e-6
    per_token = (BATCH_SECONDS - base - SIZES[1] * per_step) / BATCH_TOKENS
    return Engine(per_token, base, per_step, noise, **more)  # type: ignore[arg-type]


def limits(queue_tokens: int = DEEP, batch_tokens: int = BATCH_TOKENS) -> QueueLimits:
    return limits_of(batch_tokens, 10**6, queue_tokens, 10**6)


def goodput(tally: Tally, seconds: float) -> float:
    """Of the capacity."""
    return tally.in_time / seconds / CAPACITY


# -- above the capacity --------------------------------------------------------------------------


@pytest.mark.parametrize("stages_ahead", [False, True], ids=["late", "ahead"])
@pytest.mark.parametrize(
    ("load", "least"), [(0.8, 0.98 * 0.8), (1.2, 0.88), (1.5, 0.85), (3.0, 0.8), (10.0, 0.75)]
)
def test_goodput_stays(load: float, least: float, stages_ahead: bool) -> None:
    """However many come, nearly as much is answered in time as can be computed, and hardly anything
    is computed for nobody. Below the capacity nearly all are answered."""
    server = Server(limits(), engine(), stages_ahead=stages_ahead)
    jobs = arrivals(load * CAPACITY, SIZES, TIMEOUT)
    server.run(jobs, 1.0)
    tally = server.run(jobs, 5.0)
    assert goodput(tally, 4.0) >= least
    assert tally.wasted < 0.01


@pytest.mark.parametrize("noise", [0.0, 0.15])
@pytest.mark.parametrize("batch_tokens", [BATCH_TOKENS, 16 * BATCH_TOKENS])
def test_goodput_stays_whatever_a_batch_may_be(noise: float, batch_tokens: int) -> None:
    """Also where batches take as long as chance has it, and where deadlines bound them and nothing
    else does."""
    server = Server(limits(batch_tokens=batch_tokens), engine(noise))
    jobs = arrivals(1.5 * CAPACITY, SIZES, TIMEOUT)
    server.run(jobs, 1.0)
    tally = server.run(jobs, 5.0)
    assert goodput(tally, 4.0) >= 0.85
    assert tally.wasted < 0.01


def test_hardly_anything_is_computed_for_nobody_behind_a_long_queue() -> None:
    """Where others, of the same caller, have filled the queue with 500 ms of work, callers with
    deadlines of 100 ms are refused, nearly all at once and hardly any that could have made it."""
    server = Server(limits(OF_500_MS), engine())
    jobs = together(
        arrivals(3 * CAPACITY, SIZES, group="patient"),
        arrivals(0.3 * CAPACITY, SIZES, TIMEOUT, group="hurried", seed=2),
    )
    server.run(jobs, 2.0)
    tally = server.run(jobs, 8.0)
    hurried = server.by_group["hurried"]
    assert tally.wasted < 0.01
    assert hurried.refused > 1000
    assert hurried.refused_wrongly < 0.05 * hurried.refused
    assert hurried.at_door > 0.9 * hurried.refused


def test_a_queue_that_deadlines_bound_is_as_good() -> None:
    """Where all have deadlines of 100 ms the queue never holds the 500 ms that it may."""
    server = Server(limits(OF_500_MS), engine())
    jobs = arrivals(10 * CAPACITY, SIZES, TIMEOUT)
    server.run(jobs, 1.0)
    tally = server.run(jobs, 4.0)
    assert tally.wasted < 0.01
    assert tally.refused_wrongly < 0.05 * tally.refused
    assert server.policy.tokens < 0.15 * CAPACITY


# -- what changes --------------------------------------------------------------------------------


def test_a_cold_server_lets_in() -> None:
    """Before anything was computed nobody is refused: nothing is known."""
    server = Server(limits(), engine(0.0))
    first = server.run(arrivals(100 * CAPACITY, SIZES, TIMEOUT), 0.001)
    assert first.refused == 0


@pytest.mark.parametrize("slower", [3.0, 1 / 3])
def test_an_engine_that_changes_is_followed(slower: float) -> None:
    """One second after the engine has become three times slower or faster, goodput is that of the
    new capacity; and what was computed for nobody meanwhile is a batch or two."""
    server = Server(limits(), engine(speed=lambda now: 1.0 if now < 2.0 else slower))
    jobs = arrivals(1.5 * CAPACITY * max(1.0, 1 / slower), SIZES, TIMEOUT)
    server.run(jobs, 2.0)
    assert server.run(jobs, 3.0).for_nobody <= 4 * BATCH_TOKENS
    tally = server.run(jobs, 7.0)
    assert goodput(tally, 4.0) >= 0.8 / slower
    assert tally.wasted < 0.01


def test_it_never_starves_itself() -> None:
    """While the engine is so slow that nobody can be answered, trials go on, and are few; once it
    is as fast as before, that is found out within two seconds."""
    server = Server(limits(), engine(speed=lambda now: 60.0 if 2.0 <= now < 6.0 else 1.0))
    jobs = arrivals(1.5 * CAPACITY, SIZES, TIMEOUT)
    server.run(jobs, 4.0)
    assert server.run(jobs, 6.0).computed <= 8 * SIZES[1]
    server.run(jobs, 8.0)
    assert goodput(server.run(jobs, 10.0), 2.0) >= 0.85


# -- neighbours ----------------------------------------------------------------------------------


def test_the_patient_are_not_harmed() -> None:
    """Beside callers with deadlines, one without gets what it asks for, as long as it asks for less
    than its share; and they get theirs, although its batches could take half a second."""
    server = Server(limits(batch_tokens=20 * BATCH_TOKENS), engine())
    jobs = together(
        arrivals(0.4 * CAPACITY, SIZES, group="patient", caller="patient"),
        arrivals(2.0 * CAPACITY, SIZES, TIMEOUT, group="hurried", caller="hurried", seed=2),
    )
    server.run(jobs, 1.0)
    server.run(jobs, 6.0)
    assert goodput(server.by_group["patient"], 5.0) >= 0.98 * 0.4
    assert goodput(server.by_group["hurried"], 5.0) >= 0.45


def test_the_patient_do_no_harm() -> None:
    """Beside one that asks for more than there is, callers with deadlines get what they ask for, as
    long as it is less than their share."""
    server = Server(limits(20 * BATCH_TOKENS, 20 * BATCH_TOKENS), engine())
    jobs = together(
        arrivals(3.0 * CAPACITY, SIZES, group="patient", caller="patient"),
        arrivals(0.3 * CAPACITY, SIZES, TIMEOUT, group="hurried", caller="hurried", seed=2),
    )
    server.run(jobs, 1.0)
    server.run(jobs, 6.0)
    assert goodput(server.by_group["hurried"], 5.0) >= 0.9 * 0.3
    assert goodput(server.by_group["patient"], 5.0) >= 0.5


@pytest.mark.parametrize("timeout", [0.0001, 0.004, 0.008])
def test_whoever_has_no_time_takes_none_from_others(timeout: float) -> None:
    """A caller whose deadlines are shorter than a good batch does not make batches short: the
    others get nearly what they would without it."""
    server = Server(limits(), engine())
    jobs = together(
        arrivals(1.5 * CAPACITY, SIZES, TIMEOUT, group="hurried"),
        arrivals(0.1 * CAPACITY, SIZES, timeout, group="hasty", caller="hasty", seed=2),
    )
    server.run(jobs, 1.0)
    tally = server.run(jobs, 5.0)
    assert goodput(tally, 4.0) >= 0.8
    assert tally.wasted < 0.01


@given(
    st.floats(0.0, 0.01),
    st.floats(0.0, 0.2),
    st.floats(1.1, 5.0),
    st.floats(0.05, 1.0),
    st.booleans(),
)
@examples(deadline=None, derandomize=True, max_examples=8)
def test_any_engine_and_any_deadline(
    base: float, noise: float, load: float, timeout: float, stages_ahead: bool
) -> None:
    """Whatever batches take and whenever answers are due, the device does not idle while there is
    work, and what it computes is for somebody."""
    server = Server(limits(), engine(noise, base), stages_ahead=stages_ahead)
    jobs = arrivals(load * CAPACITY, SIZES, timeout)
    server.run(jobs, 1.0)
    tally = server.run(jobs, 4.0)
    assert goodput(tally, 3.0) >= 0.7
    assert tally.wasted < 0.03
    assert math.isclose(tally.computed, tally.in_time + tally.for_nobody)
