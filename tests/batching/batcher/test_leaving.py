"""Whoever leaves, or whose deadline passes, is not computed, and harms nobody in its batch."""

from __future__ import annotations

import asyncio

import pytest

from bilstm_server.errors import (
    DeadlineExpired,
)
from tests.batching.batcher.echoing import POSITIONS, Engine, batching, outcomes
from tests.support.waiting import HANGS_AFTER_SECONDS


@pytest.mark.parametrize("position", POSITIONS)
async def test_cancelled_while_queued_is_not_computed(position: int) -> None:
    """Whoever leaves while waiting is not computed, and all others get their results."""
    async with batching(Engine()) as callers:
        first = await callers.busy(99)
        tasks = [await callers.call(n) for n in POSITIONS]
        tasks[position].cancel()
        callers.engine.go_on()
        ended = await outcomes(first, *tasks)
        rest = [n for n in POSITIONS if n != position]
        assert isinstance(ended.pop(position + 1), asyncio.CancelledError)
        assert ended == [[99], *([n] for n in rest)]
        assert callers.engine.batches == [[99], rest]


@pytest.mark.parametrize("position", POSITIONS)
async def test_cancelled_while_computed_harms_no_mate(position: int) -> None:
    """Whoever leaves while its batch computes leaves its mates' results as they are."""
    async with batching(Engine()) as callers:
        first = await callers.busy(99)
        tasks = [await callers.call(n) for n in POSITIONS]
        callers.engine.go_on(1)
        await callers.engine.computing()
        tasks[position].cancel()
        with pytest.raises(asyncio.CancelledError):  # it need not wait for the batch
            await asyncio.wait_for(tasks[position], HANGS_AFTER_SECONDS)
        callers.engine.go_on()
        ended = await outcomes(first, *tasks)
        del ended[position + 1]
        assert ended == [[99], *([n] for n in POSITIONS if n != position)]
        assert callers.engine.batches == [[99], list(POSITIONS)]


@pytest.mark.parametrize("position", POSITIONS)
async def test_cancelled_while_staged_is_not_computed(position: int) -> None:
    """Whoever leaves after its batch was staged ahead is not computed."""
    async with batching(Engine(), max_batch_sequences=len(POSITIONS)) as callers:
        first = await callers.busy(99)
        tasks = [await callers.call(n) for n in POSITIONS]
        await callers.engine.staged()
        tasks[position].cancel()
        callers.engine.go_on()
        ended = await outcomes(first, *tasks)
        rest = [n for n in POSITIONS if n != position]
        assert isinstance(ended.pop(position + 1), asyncio.CancelledError)
        assert ended == [[99], *([n] for n in rest)]
        assert callers.engine.batches == [[99], rest]


@pytest.mark.parametrize("staged", [False, True], ids=["queued", "staged"])
async def test_all_cancelled_leaves_nothing_to_compute(staged: bool) -> None:
    """If all callers of a batch leave, it is not computed, and the next one is."""
    async with batching(Engine(), max_batch_sequences=2 if staged else 100) as callers:
        first = await callers.busy(0)
        tasks = [await callers.call(n) for n in (1, 2)]
        if staged:
            await callers.engine.staged()
        for task in tasks:
            task.cancel()
        await outcomes(*tasks)
        last = await callers.call(3)
        callers.engine.go_on()
        assert await outcomes(first, last) == [[0], [3]]
        assert callers.engine.batches == [[0], [3]]


async def test_cancelled_on_arrival_is_not_computed() -> None:
    """Whoever leaves between admission and the forming of the batch is not in it, even where
    nothing else was waiting."""
    async with batching(Engine(gate_open=True)) as callers:
        leaving = await callers.call(1)
        leaving.cancel()
        staying = await callers.call(2)
        ended = await outcomes(leaving, staying)
        assert isinstance(ended[0], asyncio.CancelledError)
        assert ended[1] == [2]
        assert callers.engine.batches == [[2]]


async def test_cancelled_request_frees_the_queue() -> None:
    """All sequences of a caller that leaves make room for another's."""
    async with batching(Engine(), max_queue_tokens=4) as callers:
        first = await callers.busy(0)
        leaving = await callers.call(1, 2, tokens=2)
        leaving.cancel()
        await outcomes(leaving)
        assert (callers.gauge("sequences"), callers.gauge("tokens")) == (0, 0)
        coming = await callers.call(3, 4, tokens=2)
        callers.engine.go_on()
        assert await outcomes(first, coming) == [[0], [3, 4]]


@pytest.mark.parametrize("staged", [False, True], ids=["queued", "staged"])
async def test_deadline_that_passes_while_waiting_is_never_computed(
    staged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose deadline passes while it waits, even when staged, is told so and never computed."""
    async with batching(Engine(), max_batch_sequences=3 if staged else 100) as callers:
        loop = asyncio.get_running_loop()
        now = loop.time
        first = await callers.busy(0)
        late = await callers.call(1, deadline=now() + 3600)
        mates = [await callers.call(n, deadline=now() + 7200) for n in (2, 3)]
        if staged:
            await callers.engine.staged()
        monkeypatch.setattr(loop, "time", lambda: now() + 3600)
        callers.engine.go_on()
        ended = await outcomes(first, late, *mates)
        assert isinstance(ended.pop(1), DeadlineExpired)
        assert ended == [[0], [2], [3]]
        assert callers.engine.batches == [[0], [2, 3]]


async def test_deadline_in_the_past_is_not_computed() -> None:
    """A request that comes too late is not computed even by an idle server."""
    async with batching(Engine(gate_open=True)) as callers:
        late = await callers.call(1, deadline=asyncio.get_running_loop().time())
        (ended,) = await outcomes(late)
        assert isinstance(ended, DeadlineExpired)
        assert callers.engine.batches == []
