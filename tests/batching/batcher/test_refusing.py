"""What the batcher refuses and when that is to come again, its drain, and its gauges."""

from __future__ import annotations

import asyncio

import pytest

from bilstm_server.batching.batcher import Batcher
from bilstm_server.batching.device import Device
from bilstm_server.errors import (
    Overloaded,
    Unavailable,
)
from bilstm_server.metrics import Metrics
from bilstm_server.settings import QueueLimits
from tests.batching.batcher.echoing import Callers, Engine, batching, doubled, outcomes
from tests.support.waiting import HANGS_AFTER_SECONDS

# -- admission and drain -------------------------------------------------------------------------


async def test_admission_is_all_or_nothing() -> None:
    """A request of which not every sequence fits is refused whole, at once, and what waits is
    not disturbed."""
    async with batching(Engine(), max_queue_tokens=10) as callers:
        tasks = [await callers.busy(0), await callers.call(1, tokens=8)]
        refused = await callers.call(2, 3, 4)
        assert refused.done()
        assert isinstance(refused.exception(), Overloaded)
        assert (callers.gauge("sequences"), callers.gauge("tokens")) == (1, 8)
        tasks.append(await callers.call(5, 6))
        callers.engine.go_on()
        assert await outcomes(*tasks) == [[0], [1], [5, 6]]
        assert callers.engine.batches == [[0], [1, 5, 6]]


async def test_refusal_says_when_to_come_again() -> None:
    """The time to wait is what the queue takes at the pace of the batches so far."""
    async with batching(Engine(), max_batch_tokens=2000) as callers:
        await callers.busy(1)
        await callers.call(2, tokens=1000)
        callers.batcher._admission.outlook.end(100, 100, 2.0, 0.0)  # as if one had taken so long
        refused = (await callers.call(3)).exception()
        assert isinstance(refused, Overloaded)
        assert refused.retry_after_seconds == pytest.approx(20.0)


async def test_batches_tell_what_they_cost() -> None:
    """The last one's time is what the caller is told of it, and what a refusal goes by."""
    async with batching(Engine(gate_open=True)) as callers:
        (result,) = await (await callers.call(0, tokens=7))
        outlook = callers.batcher._admission.outlook
        assert outlook.last_seconds == result.timing.compute_seconds
        assert outlook.seconds(7) == pytest.approx(result.timing.compute_seconds)


async def test_refusal_before_any_batch_names_a_positive_time() -> None:
    """Before anything was computed the time to wait is a guess, and not zero."""
    async with batching(Engine(), max_queue_tokens=1) as callers:
        await callers.busy(0)
        await callers.call(1)
        refused = (await callers.call(2)).exception()
        assert isinstance(refused, Overloaded)
        assert refused.retry_after_seconds > 0


async def test_drain_refuses_the_new_and_finishes_the_admitted() -> None:
    """After `drain`, newcomers are told to go elsewhere, and `run` returns only when everyone
    admitted has a result."""
    engine = Engine()
    with Device() as device:
        limits = QueueLimits(max_batch_sequences=2)
        batcher = Batcher(engine, limits, device, Metrics().model("m"))
        running = asyncio.create_task(batcher.run())
        callers = Callers(batcher, engine, Metrics())
        tasks = [await callers.busy(0), *[await callers.call(n) for n in range(1, 6)]]
        batcher.drain()
        refused = await callers.call(9)
        assert isinstance(refused.exception(), Unavailable)
        assert not running.done()
        engine.go_on()
        await asyncio.wait_for(running, HANGS_AFTER_SECONDS)
        assert [[doubled(r) for r in task.result()] for task in tasks] == [[n] for n in range(6)]


async def test_drain_of_an_idle_batcher_ends() -> None:
    """With nothing admitted, `run` returns when drained."""
    async with batching(Engine()) as callers:
        callers.batcher.drain()


# -- metrics -------------------------------------------------------------------------------------


async def test_queue_gauges_follow_the_queue_and_return_to_zero() -> None:
    """The gauges show what waits, not what computes, and end at zero whatever ended the jobs."""
    async with batching(Engine(guilty=[3])) as callers:
        first = await callers.busy(0)
        tasks = [await callers.call(n, n + 10, tokens=n) for n in (1, 2, 3)]
        assert (callers.gauge("sequences"), callers.gauge("tokens")) == (6, 12)
        tasks[0].cancel()
        await outcomes(tasks[0])
        assert (callers.gauge("sequences"), callers.gauge("tokens")) == (4, 10)
        callers.engine.go_on()
        await outcomes(first, *tasks)
        assert (callers.gauge("sequences"), callers.gauge("tokens")) == (0, 0)
