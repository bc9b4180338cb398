"""Short runs of what `make faults` does for long: the same claims, but for those of speed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from benchmarks.faults import cancellations, killed, restart, swaps
from benchmarks.faults.findings import Finding
from benchmarks.faults.fuzz import calls, connections
from benchmarks.faults.pairs import PLAIN

Trial = Callable[[int], Iterator[Finding]]


def missed(findings: Iterator[Finding]) -> list[Finding]:
    """Those that missed their limits, but for what depends on the machine's speed, or concerns a
    client that tries no call again."""
    return [
        f for f in findings if f.limit and not f.held and f.unit != "ms" and PLAIN not in f.sent
    ]


def test_a_server_stands_damaged_calls() -> None:
    """Every call has an answer, none is INTERNAL, the log has no error, and nothing grows."""
    assert not missed(calls.trial(300))


def test_a_server_stands_damaged_connections() -> None:
    """It takes every connection, and gRPC's core writes no line about any of them."""
    assert not missed(connections.trial(300))


def test_neighbours_of_cancelled_calls_have_the_same_bits() -> None:
    """Calls and streams that are cancelled at random leave the others' results as they are, and
    nothing in flight."""
    assert not missed(cancellations.trial(60))


def test_certificate_and_token_are_swapped_under_load() -> None:
    """No call fails while both are swapped, whichever of them it has begun with."""
    assert not missed(swaps.trial(2))


@pytest.mark.slow
@pytest.mark.parametrize("trial", [restart.trial, killed.trial])
def test_no_call_of_the_client_is_lost_with_one_of_two_servers(trial: Trial) -> None:
    """Of two servers one is restarted, or killed, and then the other: the client's calls are all
    answered."""
    assert not missed(trial(2))
