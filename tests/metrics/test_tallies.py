"""Counters and histograms of ours, judged by prometheus_client's own."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from bilstm_server.metrics.tallies import Counters, Histograms

BOUNDS = (0.0001, 0.5, 1.0, 16.0, 131_072.0)


def scraped(registry: CollectorRegistry) -> list[str]:
    """What a scrape reads, but for the times at which series were made: ours don't tell them."""
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if "_created" not in line]


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(0, 2**40)),
    values=st.lists(st.floats(0, 1e6) | st.sampled_from(BOUNDS)),
)
def test_same_text(counts: list[int], values: list[float]) -> None:
    """A scrape reads the same as of prometheus_client's counters and histograms, on the bounds
    too."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    for counter in (
        Counters("c_total", "Counts.", ("a", "b"), ours).labels("x", 'y"'),
        Counter("c_total", "Counts.", ("a", "b"), registry=theirs).labels("x", 'y"'),
    ):
        for count in counts:
            counter.inc(count)
    for histogram in (
        Histograms("h", "Spreads.", ("a",), ours, BOUNDS).labels("x"),
        Histogram("h", "Spreads.", ("a",), registry=theirs, buckets=BOUNDS).labels("x"),
    ):
        for value in values:
            histogram.observe(value)
    assert scraped(ours) == scraped(theirs)


def test_labels() -> None:
    """A child is made once; values that do not fit the labels are refused."""
    counters = Counters("c_total", "Counts.", ("a", "b"), CollectorRegistry())
    assert counters.labels("x", "y") is counters.labels("x", "y")
    with pytest.raises(ValueError, match="c_total has the labels"):
        counters.labels("x")


def test_name_is_taken_once() -> None:
    """A second metric of the same name is refused by the registry."""
    registry = CollectorRegistry()
    Counters("c_total", "Counts.", (), registry)
    with pytest.raises(ValueError, match="Duplicated"):
        Counter("c", "Counts.", registry=registry)
