"""Who is late: judged by what the one who looks has seen pass, and never for time in which it did
not look.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bilstm_server.process.progress import Patience, Progress, Work

BOUND, STEP = 4.0, 0.5
times = st.floats(0.01, STEP)
LONG = st.floats(STEP, 1e6)


def watching(*progresses: Progress) -> Patience:
    patience = Patience(dict.fromkeys(progresses, lambda _: BOUND), STEP)
    assert patience.look(0.0) is None
    return patience


@given(st.lists(times, min_size=1, max_size=40))
def test_work_is_late_once_it_was_seen_for_longer_than_its_bound(steps: list[float]) -> None:
    """The first look counts nothing: the work may have begun just before it."""
    progress = Progress()
    with progress.at(work := Work("a batch")):
        patience, now = watching(progress), 0.0
        for step in steps:
            now += step
            overdue = patience.look(now)
            assert (overdue is not None) == (now > BOUND)
            if overdue is not None:
                assert (overdue.progress, overdue.work, overdue.seconds) == (progress, work, now)


@given(st.lists(st.tuples(times, st.booleans()), max_size=100))
def test_work_that_ends_in_time_is_never_late(looks: list[tuple[float, bool]]) -> None:
    """Each work has its own time, and no work at all may last for ever."""
    progress = Progress()
    patience, now, spent = watching(progress), 0.0, 0.0
    for step, begins in looks:
        now += step
        spent += step
        if begins or spent > BOUND:
            progress.work, spent = (Work("the next") if begins else None), 0.0
        assert patience.look(now) is None


@given(st.integers(1, 7), LONG)
def test_a_stop_counts_as_one_step(steps: int, stopped: float) -> None:
    """However long the process stood still: what did not look has seen nothing of it."""
    progress = Progress()
    with progress.at(Work("a batch")):
        patience = watching(progress)
        looks = [patience.look(number * STEP) for number in range(1, steps + 1)]
        assert looks == [None] * steps
        assert patience.look(steps * STEP + stopped) is None  # at most eight steps, the bound


def test_bounds_are_each_works_own() -> None:
    """A bound is asked of the work; the others go on being looked at."""
    slow, fast = Progress(), Progress()
    bounds = {slow: lambda work: 10 * work.expected_seconds, fast: lambda _: BOUND}
    patience = Patience(bounds, 1.0)
    with slow.at(Work("a large batch", expected_seconds=1.0)), fast.at(Work("a batch")):
        late = [patience.look(float(now)) for now in range(11)]
    assert late[:5] == [None] * 5
    assert {overdue.work.what for overdue in late[5:] if overdue} == {"a batch"}


def test_progress_is_at_nothing_once_work_has_ended_however() -> None:
    progress = Progress()
    try:
        with progress.at(Work("a batch")):
            raise ValueError
    except ValueError:
        assert progress.work is None
