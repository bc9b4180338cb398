"""What can't be answered in time is not computed, whole calls at a time, and what was computed for
nobody is counted."""

from __future__ import annotations

import asyncio
import math

import pytest

from bilstm_server.batching.batcher import Batcher
from bilstm_server.errors import DeadlineExpired
from tests.batching.batcher.echoing import Callers, Engine, batching, outcomes
from tests.support.waiting import HANGS_AFTER_SECONDS

TOKEN_SECONDS = 1.0  # so that nothing that this machine does matters beside it


def now() -> float:
    return asyncio.get_running_loop().time()


def teach(callers: Callers, tokens: int = 100) -> None:
    """As if batches had taken a second for each token, and the last one had begun just now."""
    batcher = callers.batcher
    assert isinstance(batcher, Batcher)
    outlook = batcher._admission.outlook
    for _ in range(20):
        outlook.begin(now(), now())
        outlook.end(tokens, tokens, tokens * TOKEN_SECONDS, now())


async def test_who_would_be_too_late_is_refused_on_arrival() -> None:
    """A call is told at once, and how long it would take; one that has the time is let in, and so
    is one without a deadline."""
    async with batching(Engine(gate_open=True)) as callers:
        teach(callers)
        late = await callers.call(1, tokens=10, deadline=now() + 5)
        assert late.done()
        words = "would take about 10000 ms, 5000 ms are left: allow at least 101.. ms$"
        with pytest.raises(DeadlineExpired, match=words) as refused:
            late.result()
        assert refused.value.retry_after_seconds is None  # it would never have the time
        calls = [
            await callers.call(2, tokens=10, deadline=now() + 30),
            await callers.call(3, tokens=10),
        ]
        assert await outcomes(*calls) == [[2], [3]]
        assert callers.count("spared_tokens") == 10


async def test_what_computes_and_waits_comes_before() -> None:
    """What a call has to wait for counts: the rest of the batch that is computed, the one that was
    closed already, and what waits in the queue."""
    async with batching(Engine(), max_batch_tokens=10) as callers:
        teach(callers)
        running = await callers.call(0, tokens=10)
        await callers.engine.computing()
        ahead = [await callers.call(number, tokens=10) for number in (1, 2)]
        await callers.engine.staged()
        late = await callers.call(3, tokens=10, deadline=now() + 33)
        assert late.done()
        in_time = await callers.call(4, tokens=10, deadline=now() + 60)
        callers.engine.go_on()
        ended = await outcomes(running, *ahead, late, in_time)
        assert isinstance(ended.pop(3), DeadlineExpired)
        assert ended == [[0], [1], [2], [4]]


async def test_nobody_is_refused_before_anything_is_known() -> None:
    """Where no batch was computed, a call with any time left is let in."""
    async with batching(Engine(gate_open=True)) as callers:
        call = await callers.call(1, tokens=100, deadline=now() + HANGS_AFTER_SECONDS)
        assert await outcomes(call) == [[1]]


async def test_who_became_too_late_leaves_before_its_batch() -> None:
    """Who seemed to have the time when it came, and has not when the device is free, is not
    computed, and its mates are."""
    async with batching(Engine()) as callers:
        running = await callers.busy(0)
        late = await callers.call(1, tokens=10, deadline=now() + 5)
        mates = [await callers.call(2, tokens=10), await callers.call(3, deadline=now() + 60)]
        teach(callers)
        callers.engine.go_on()
        ended = await outcomes(running, late, *mates)
        assert isinstance(ended.pop(1), DeadlineExpired)
        assert ended == [[0], [2], [3]]
        assert callers.engine.batches[0] == [0]
        assert 1 not in {number for batch in callers.engine.batches for number in batch}


async def test_a_batch_leaves_time_for_the_next() -> None:
    """A batch takes half of the time that callers come with, and no more."""
    async with batching(Engine()) as callers:
        teach(callers)
        calls = [await callers.call(0, tokens=5)]
        await callers.engine.computing()
        calls.append(await callers.call(1, tokens=5, deadline=now() + 40))
        calls += [await callers.call(number, tokens=5) for number in (2, 3, 4)]
        callers.engine.go_on()
        assert await outcomes(*calls) == [[0], [1], [2], [3], [4]]
        assert callers.engine.batches == [[0], [1, 2, 3], [4]]


async def test_a_call_that_is_too_late_leaves_whole() -> None:
    """Where one sequence of a call would be too late, none of them is computed."""
    async with batching(Engine(), max_batch_tokens=30) as callers:
        running = await callers.busy(0)
        late = await callers.call(1, 2, 3, tokens=10, deadline=now() + 25)
        mate = await callers.call(4, tokens=10)
        teach(callers)
        callers.engine.go_on()
        ended = await outcomes(running, late, mate)
        assert isinstance(ended.pop(1), DeadlineExpired)
        assert ended == [[0], [4]]
        assert callers.engine.batches == [[0], [4]]
        assert callers.count("spared_tokens") == 30
        assert (callers.gauge("sequences"), callers.gauge("tokens")) == (0, 0)


@pytest.mark.parametrize(("tokens", "staged_anew"), [(1, False), (10, True)])
async def test_a_staged_batch_is_looked_at_again(
    tokens: int, staged_anew: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a batch that was staged ahead is computed late, those of its members leave who can't be
    in time any more, if they are more than a few of its tokens: otherwise it is computed as it is
    staged."""
    async with batching(Engine(), max_batch_tokens=40) as callers:
        running = await callers.busy(0)
        late = await callers.call(1, tokens=tokens, deadline=now() + 80)
        mate = await callers.call(2, tokens=40 - tokens)
        await callers.engine.staged()
        teach(callers)
        loop = asyncio.get_running_loop()
        clock = loop.time
        monkeypatch.setattr(loop, "time", lambda: clock() + 60)
        callers.engine.go_on()
        ended = await outcomes(running, late, mate)
        assert isinstance(ended[1], DeadlineExpired) == staged_anew
        assert callers.engine.batches == [[0], [2] if staged_anew else [1, 2]]
        assert bool(callers.engine.computed_stagings) != staged_anew


@pytest.mark.parametrize("why", ["late", "left"])
async def test_what_was_computed_for_nobody_is_counted(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens of those whose deadline passes while they are computed, and of those who leave then;
    only the former were misjudged."""
    async with batching(Engine()) as callers:
        deadline = now() + 1000 if why == "late" else math.inf
        first = await callers.call(1, tokens=7, deadline=deadline)
        await callers.engine.computing()
        if why == "late":
            loop = asyncio.get_running_loop()
            clock = loop.time
            monkeypatch.setattr(loop, "time", lambda: clock() + 2000)
        else:
            first.cancel()
        callers.engine.go_on()
        await outcomes(first, await callers.call(2, tokens=3))
        assert callers.count("wasted_tokens") == 7
        assert callers.count("misjudged") == (1 if why == "late" else 0)
