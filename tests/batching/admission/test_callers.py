"""Callers have their shares, whatever the others send. Time is what the simulation says; all send as
much as they may.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from bilstm_server.batching.admission import Kind
from bilstm_server.callers import Priority
from bilstm_server.settings import QueueLimits
from tests.batching.admission.callers import Caller, Shared
from tests.batching.admission.simulation import admission, call, limits_of

BATCHES = 400
BEGUN = 100  # batches after which everyone has what it will have

POLITE = [f"polite {n}" for n in range(9)]


def of(caller: str, tokens: int, priority: Priority = Priority.NORMAL) -> list[tuple[int, ...]]:
    raise NotImplementedError


# -- the greedy and the polite --------------------------------------------------------------------


@pytest.mark.parametrize("staging", [False, True])
@pytest.mark.parametrize("kind", Kind)
def test_many_calls_get_no_more(kind: Kind, staging: bool) -> None:
    """One caller with 64 calls, or streams, among nine with one call each: these have nine tenths
    of the device at least, less a tenth."""
    greedy = Caller("greedy", [(10,)], 64, kind=kind)
    polite = [Caller(name, [(10,)]) for name in POLITE]
    shared = Shared(limits_of(30, 3, 640, 64), [greedy, *polite], staging=staging)
    shared.run(BATCHES)
    assert min(caller.part(BEGUN) for caller in polite) >= 0.9 * 30 / 10
    assert all(sum(job.tokens for job in batch) == 30 for batch in shared.batches)


@pytest.mark.parametrize("kind", Kind)
def test_the_largest_requests_get_no_more(kind: Kind) -> None:
    """Nor does one whose calls have a whole batch each, in large sequences or in small ones."""
    for sequences in ((100,), (50, 50), (5,) * 20):
        greedy = Caller("greedy", [sequences], 64)
        polite = [Caller(name, [(10,)], 3, kind=kind) for name in POLITE]
        shared = Shared(limits_of(100, 50, 800, 400), [greedy, *polite])
        shared.run(BATCHES)
        assert min(caller.part(BEGUN) for caller in polite) >= 0.9 * 100 / 10
        assert sum(caller.part(BEGUN) for caller in shared.callers) >= 0.9 * 100
