"""What batches are said to cost: right where it is known, and silent where it is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from bilstm_server.batching.estimate import BatchCost

FIXED, PER_TOKEN = 0.002, 0.00001  # seconds


def test_nothing_is_known_before_a_batch() -> None:
    """Before any batch was computed, a batch of any size is said to take no time."""
    cost = BatchCost()
    assert cost.seconds(1) == 0.0
    assert cost.seconds(10**9) == 0.0


def test_small_batches_say_nothing_of_a_long_queue() -> None:
    """An idle server's batches cost much a token; a burst after them is not refused for that."""
    cost = BatchCost()
    for _ in range(100):
        cost.observe(5, FIXED)
    assert cost.seconds(100_000) == 0.0


@given(st.lists(st.integers(1, 16_384), min_size=1, max_size=30), st.integers(1, 131_072))
@examples(deadline=None, derandomize=True)
def test_never_much_more_than_it_takes(batches: list[int], tokens: int) -> None:
    """Whatever came before: at most what the larger batches cost a token, so that no queue is taken
    for longer than one of such batches would be."""
    cost = BatchCost()
    for size in batches:
        cost.observe(size, FIXED + PER_TOKEN * size)
    worst = max(FIXED / size + PER_TOKEN for size in batches)
    assert 0.0 <= cost.seconds(tokens) <= tokens * worst * (1 + 1e-9)


def test_full_batches_tell_how_long_a_queue_is() -> None:
    """Under load the estimate is what the queue takes, small batches between or not."""
    cost = BatchCost()
    for _ in range(20):
        cost.observe(16_384, FIXED + PER_TOKEN * 16_384)
        cost.observe(10, FIXED)
    assert cost.seconds(131_072) == pytest.approx(8 * (FIXED + PER_TOKEN * 16_384), rel=0.01)


def test_follows_a_device_that_slows_down() -> None:
    """A device that takes ten times as long is known to within twenty batches."""
    cost = BatchCost()
    for seconds in (0.1, 0.1, *[1.0] * 20):
        cost.observe(1000, seconds)
    assert cost.seconds(1000) == pytest.approx(1.0, rel=0.01)
