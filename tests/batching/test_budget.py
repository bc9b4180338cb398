"""How many tokens a batch may have once memory ran out: fewer for a while, and never too few."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bilstm_server.batching.budget import TokenBudget

FULL = 16_384
failures = st.lists(st.tuples(st.floats(0.0, 100.0), st.integers(1, FULL)), max_size=30)


def test_a_failure_halves_it_and_it_grows_back_in_steps() -> None:
    """It holds for half a minute, and then doubles every ten seconds."""
    budget = TokenBudget(FULL)
    assert budget.tokens(0.0) == FULL
    budget.lower(FULL, 0.0)
    budget.lower(FULL // 2, 0.1)
    expected = {0.2: FULL // 4, 30.0: FULL // 4, 30.2: FULL // 2, 40.2: FULL, 1e9: FULL}
    assert {now: budget.tokens(now) for now in expected} == expected


def test_a_batch_that_was_closed_before_lowers_nothing_more() -> None:
    """The next batch was staged while the first one failed, and is as large."""
    budget = TokenBudget(FULL)
    budget.lower(FULL, 0.0)
    budget.lower(FULL, 0.1)
    assert budget.tokens(0.2) == FULL // 2


def test_a_small_batch_that_fails_lowers_it_below_that() -> None:
    budget = TokenBudget(FULL)
    budget.lower(4_000, 0.0)
    assert budget.tokens(0.0) == 2_000


def test_it_is_full_again_once_one_sequence_was_at_fault() -> None:
    """The batches that it was in failed for it alone."""
    budget = TokenBudget(FULL)
    budget.lower(FULL, 0.0)
    budget.restore()
    assert budget.tokens(0.0) == FULL


@given(st.integers(1, FULL), failures)
def test_it_is_bounded_and_recovers(full: int, failed: list[tuple[float, int]]) -> None:
    """It never is below a sixteenth, nor grows before its time, and in the end is full again."""
    budget, now = TokenBudget(full), 0.0
    for pause, tokens in failed:
        now += pause
        before = budget.tokens(now)
        budget.lower(tokens, now)
        assert max(1, full // 16) <= budget.tokens(now) <= max(before, full // 16, 1)
        assert budget.tokens(now + 29.0) == budget.tokens(now)
        rising = [budget.tokens(now + later) for later in range(0, 100, 5)]
        assert rising == sorted(rising)
        assert rising[-1] == full
