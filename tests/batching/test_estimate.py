"""What batches are said to take: right where it is known, little where it is not, and soon right
again where it changes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from bilstm_server.batching.estimate import BatchEstimate

BATCH, PER_STEP, PER_TOKEN = 0.002, 0.00002, 0.00001  # seconds


def takes(longest: int, tokens: int) -> float:
    return BATCH + PER_STEP * longest + PER_TOKEN * tokens


def busy(
    batches: int, slower: float = 1.0, noise: float = 0.0, estimate: BatchEstimate | None = None
) -> BatchEstimate:
    """An estimate that has seen so many batches of many sizes, 10 ms after each other."""
    estimate = estimate or BatchEstimate()
    chance = random.Random(batches)
    for number in range(batches):
        longest = chance.randint(10, 400)
        tokens = longest * chance.randint(1, 40)
        seconds = takes(longest, tokens) * slower * chance.gauss(1.0, noise)
        estimate.observe(longest, tokens, seconds, number * 0.01)
    return estimate


# -- what is known -------------------------------------------------------------------------------


def test_nothing_is_known_before_a_batch() -> None:
    """Before any batch was computed, one of any size is said to take no time, and may be of any
    size."""
    estimate = BatchEstimate()
    assert not estimate.is_known
    assert estimate.seconds(1, 1) == estimate.seconds(10**9, 10**9) == 0.0
    assert estimate.tokens_within(0.001, 10) == float("inf")


def test_one_batch_tells_what_another_like_it_takes() -> None:
    """After one batch, the same again takes the same, and half of it takes half."""
    estimate = BatchEstimate()
    estimate.observe(10, 100, 0.5, 0.0)
    assert estimate.seconds(10, 100) == pytest.approx(0.5)
    assert estimate.seconds(10, 50) == pytest.approx(0.25)


@given(st.floats(0, 0.01), st.floats(0, 1e-4), st.floats(1e-6, 1e-3), st.integers(0, 2**16))
@examples(deadline=None, derandomize=True, max_examples=50)
def test_the_line_is_found(batch: float, per_step: float, per_token: float, seed: int) -> None:
    """Whatever the batch itself, its longest sequence and its tokens cost: what any batch takes of
    the sizes that were seen is known to within a few percent."""
    chance = random.Random(seed)
    sizes = [(longest, longest * chance.randint(1, 40)) for longest in range(10, 410, 4)]
    chance.shuffle(sizes)
    estimate = BatchEstimate()
    for longest, tokens in sizes:
        seconds = batch + per_step * longest + per_token * tokens
        estimate.observe(longest, tokens, seconds, 0.0)
    for longest, tokens in sizes:
        seconds = batch + per_step * longest + per_token * tokens
        assert estimate.seconds(longest, tokens) == pytest.approx(seconds, rel=0.05)


@given(st.lists(st.tuples(st.integers(1, 999), st.floats(1e-6, 9.0)), min_size=1, max_size=40))
@examples(deadline=None, derandomize=True)
def test_more_never_takes_less(batches: list[tuple[int, float]]) -> None:
    """Whatever batches took, even what no line fits: a larger one is never said to take less, and
    none takes less than nothing."""
    estimate = BatchEstimate()
    for tokens, seconds in batches:
        estimate.observe(tokens, tokens, seconds, 0.0)
    said = [estimate.seconds(size, size) for size in (0, 1, 10, 100, 10_000)]
    assert said == sorted(said)
    assert said[0] >= 0.0


def test_small_batches_say_little_of_large_ones() -> None:
    """An idle server's batches cost much a token; a burst after them is not refused for that, but
    its batches are kept small at first."""
    estimate = BatchEstimate()
    for _ in range(100):
        estimate.observe(5, 5, BATCH, 0.0)
    assert estimate.known_seconds(5, 100_000) <= 16 * BATCH * (1 + 1e-9)
    assert estimate.seconds(5, 100_000) >= 16 * BATCH * 100


@given(st.integers(1, 400), st.floats(0.0001, 0.5))
@examples(deadline=None, derandomize=True)
def test_tokens_that_take_so_long(longest: int, seconds: float) -> None:
    """As many tokens as are said to fit into a time take that time, unless not even the batch
    itself fits."""
    estimate = busy(200)
    tokens = estimate.tokens_within(seconds, longest)
    if tokens == 0.0:
        assert estimate.overhead(longest) >= seconds
    elif tokens < float("inf"):
        assert estimate.seconds(longest, tokens) == pytest.approx(seconds)


# -- what changes --------------------------------------------------------------------------------


@pytest.mark.parametrize("slower", [1 / 3, 3.0])
def test_a_device_that_changes_is_followed(slower: float) -> None:
    """A device that becomes three times slower or faster is known within eight batches, and stays
    known."""
    estimate = busy(300)
    for batches in (8, 8, 50, 300):
        busy(batches, slower, estimate=estimate)
        assert estimate.seconds(200, 4000) == pytest.approx(takes(200, 4000) * slower, rel=0.1)


def test_a_batch_that_was_held_up_says_nothing() -> None:
    """One batch that took ten times as long, for whatever reason, changes what is said by little,
    and leaves a margin that is bounded."""
    estimate = busy(100)
    likely = takes(200, 4000)
    estimate.observe(200, 4000, 10 * likely, 1.0)
    assert estimate.seconds(200, 4000) == pytest.approx(likely, rel=0.05)
    assert estimate.latest(1.0) <= 2.0


# -- the margin ----------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.15])
def test_the_margin_is_what_was_misjudged(noise: float) -> None:
    """Of the batches to come hardly any takes longer than the latest, few take less than the
    earliest; the margin has a floor, and is no wider than it must be."""
    estimate = busy(400, noise=noise)
    chance = random.Random(1)
    took = sorted(chance.gauss(1.0, noise) for _ in range(1000))
    assert sum(each > estimate.latest(1.0) for each in took) <= 50
    assert sum(each < estimate.earliest(1.0) for each in took) <= 150
    assert 1.05 <= estimate.latest(1.0) <= 1.06 + 4 * noise
    assert 0.94 - 4 * noise <= estimate.earliest(1.0) <= 0.95


def test_what_was_misjudged_is_forgotten() -> None:
    """A margin that bad times left behind is gone some seconds later, however few batches there are
    meanwhile."""
    estimate = busy(100)
    for _ in range(5):
        estimate.observe(200, 4000, 2 * takes(200, 4000), 1.0)
    assert estimate.latest(1.0) > 1.5
    for second in range(12):
        estimate.observe(200, 4000, takes(200, 4000), 2.0 + second)
    assert estimate.latest(1.0) < 1.2
