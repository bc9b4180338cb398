"""When what comes would be answered: what `Outlook` learns beside the cost of batches."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilstm_server.batching.outlook import Outlook
from tests.batching.admission.simulation import limits_of

TOKENS = 100  # of a full batch


def outlook(base: float = 0.0, per_token: float = 0.001) -> Outlook:
    """One that has seen batches of many sizes; nothing has come yet."""
    known = Outlook(limits_of(TOKENS, 10**6, 10**6, 10**6))
    for number in range(200):
        tokens = 5 + 19 * number % 96
        known.end(5, tokens, base + per_token * tokens, float(number))
    return known


def test_nothing_is_known_at_first() -> None:
    """Before any batch a job takes no time, a batch may be of any length, and one is tried."""
    new = Outlook(limits_of(TOKENS, 10, 10**6, 10))
    assert new.seconds(10**6, 5, 5) == 0.0
    assert new.batch_seconds(10**6) == math.inf
    assert new.is_stale(0.0)


def test_the_queue_is_computed_in_batches() -> None:
    """What waits goes in full batches, each with what it costs beside its tokens; the job is in the
    last one with what is left, or in its own where it does not fit."""
    known = outlook(base=0.05)
    for ahead, tokens, batches in [(0, 10, 1), (250, 10, 3), (290, 20, 4), (300, 10, 4)]:
        took = batches * 0.05 + (ahead + tokens) * 0.001
        if batches == 4 and ahead == 290:
            took = 3 * (0.05 + 0.1) + 0.05 + 0.02  # the third is taken for a full one
        assert known.seconds(ahead, 5, tokens) == pytest.approx(took, rel=0.02)


def test_what_passes_between_batches_counts() -> None:
    """Slices and other models' turns after each batch count for what waits, where something had
    waited for them; time in which nothing waited does not."""
    known = outlook()
    idle_since = 199.0
    known.begin(idle_since + 50.0, idle_since + 60.0)
    assert known.gap_seconds == 0.0
    for _ in range(5):
        known.end(5, 100, 0.1, 300.0)
        known.begin(299.0, 300.04)
    assert known.gap_seconds == pytest.approx(0.04)
    assert known.seconds(200, 5, 10) == pytest.approx(2 * (0.1 + 0.04) + 0.01, rel=0.01)


def test_replies_and_their_way_take_time() -> None:
    """A batch has to end before its deadline by what replies took, and by what clocks differ, which
    is up to a hundredth of the time that a caller has. Without a deadline it need not end."""
    known = outlook()
    assert known.due_at(110.0, 10.0) == pytest.approx(109.0, abs=0.002)
    known.reply(0.25, 199.0)
    assert known.due_at(110.0, 10.0) == pytest.approx(108.75, abs=0.002)
    assert known.due_at(math.inf, 10.0) == math.inf


def test_batches_are_as_long_as_callers_allow() -> None:
    """Half of the time that callers come with, but for a few; for ten seconds that nobody comes
    with a deadline, as long as they may."""
    known = outlook()
    for number in range(40):
        known.arrive(0.06 if number else 0.0001, 200.0)
    known.begin(200.0, 200.0)
    assert known.batch_seconds(10**6) == pytest.approx(0.03)
    known.begin(210.0, 210.0)
    assert known.batch_seconds(10**6) == math.inf


def test_no_batch_is_too_short_to_be_efficient() -> None:
    """However little time callers have, a batch is so long that the device computes nine tenths of
    what it could; where so much does not wait, it is as long as all of that."""
    known = outlook(base=0.01)
    known.arrive(0.0001, 200.0)
    seconds = known.batch_seconds(10**6)
    assert (seconds - 0.01) / seconds == pytest.approx(0.9 * 0.1 / 0.11, rel=0.02)
    assert known.batch_seconds(10) <= 0.01 + 10 * 0.001 * 1.01


def test_one_is_tried_where_nothing_was_computed_for_a_while() -> None:
    """Half a second after a batch ended, or failed; not while one is computed, however long."""
    known = outlook()
    assert not known.is_stale(199.4)
    assert known.is_stale(199.6)
    known.begin(199.0, 200.0)
    assert not known.is_stale(300.0)
    known.fail(300.0)
    assert not known.is_stale(300.4)
    assert known.is_stale(300.6)


def test_words_say_what_it_takes_and_what_is_left() -> None:
    """A caller is told only if it would be too late even if all goes well."""
    known = outlook()
    assert not known.is_late(0.1, 1.1, 1.0)
    assert known.is_late(0.2, 1.1, 1.0)
    words = "would take about 200 ms, 100 ms are left: allow at least 204 ms"
    assert str(known.lateness(0.2, 0.2, 1.1, 1.0)) == words
    assert str(known.lateness(0.2, 0.05, 1.1, 1.0)) == f"{words}, or try again in 102 ms"


@given(st.floats(0.001, 100.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 0.5))
def test_what_is_advised_would_do(took: float, own: float, left: float, reply: float) -> None:
    """With the time that a caller is told to allow it would not be refused. Nor would it be with as
    much as it has, once it has waited as long as it is told to; that is said only where it is not
    late with nothing before it."""
    known, now = outlook(), 1_000.0
    known.reply(reply, now)
    deadline = now + left * took
    if not known.is_late(took, deadline, now):
        return
    told = known.lateness(took, own * took, deadline, now)
    milliseconds = re.search(r"allow at least (\d+) ms", str(told))
    assert milliseconds
    assert not known.is_late(took, now + int(milliseconds[1]) / 1e3, now)
    pause = told.retry_after_seconds
    assert (pause is None) == known.is_late(own * took, deadline, now)
    if pause is not None:
        assert pause > 0.0
        assert not known.is_late(took - pause, deadline, now)
