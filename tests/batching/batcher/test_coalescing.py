"""Who is computed together: `Batcher` forms batches of what waits, bounded in sequences, tokens and
time.
"""

from __future__ import annotations

import asyncio

import pytest

from bilstm_server.batching.batcher import Batcher
from bilstm_server.batching.device import Device
from tests.batching.batcher.echoing import Callers, Engine, Sliced, batching, outcomes


async def test_idle_server_computes_at_once() -> None:
    """A lone request is computed without anything else arriving."""
    async with batching(Engine()) as callers:
        task = await callers.call(7)
        await callers.engine.computing()
        callers.engine.go_on()
        assert await outcomes(task) == [[7]]


async def test_requests_that_arrive_during_a_computation_form_one_batch() -> None:
    """Whatever arrives while a batch computes is the next batch, in order of arrival."""
    async with batching(Engine()) as callers:
        first = await callers.busy(0)
        rest = [await callers.call(n) for n in (1, 2, 3)]
        callers.engine.go_on()
        assert await outcomes(first, *rest) == [[0], [1], [2], [3]]
        assert callers.engine.batches == [[0], [1, 2, 3]]


async def test_timing_tells_the_batch_of_each_caller() -> None:
    """Each result carries the size of the batch it was computed in."""
    async with batching(Engine()) as callers:
        first = await callers.busy(0)
        others = [await callers.call(n, tokens=n) for n in (2, 3)]
        callers.engine.go_on()
        results = [task.result()[0] for task in (first, *others) if await task]
    sizes = [(r.timing.batch_sequences, r.timing.batch_tokens) for r in results]
    assert sizes == [(1, 1), (2, 5), (2, 5)]
    assert all(r.timing.queue_seconds >= 0 and r.timing.compute_seconds > 0 for r in results)
    assert results[1].timing.queue_seconds >= results[2].timing.queue_seconds


async def test_full_batch_is_staged_while_one_computes() -> None:
    """A batch that can't grow is staged before the one before it has finished, and is computed
    from that staging."""
    async with batching(Engine(), max_batch_sequences=2) as callers:
        engine = callers.engine
        tasks = [await callers.busy(0), await callers.call(1), await callers.call(2)]
        await engine.staged()
        assert engine.log == [("compute", [0]), ("stage", [1, 2])]  # and 0 has not finished
        engine.go_on()
        assert await outcomes(*tasks) == [[0], [1], [2]]
        assert engine.computed_stagings == engine.stagings
        assert engine.batches == [[0], [1, 2]]


async def test_batch_that_can_grow_is_not_staged_ahead() -> None:
    """While a batch computes and the next is not full, newcomers still join it."""
    async with batching(Engine(), max_batch_sequences=3) as callers:
        tasks = [await callers.busy(0), await callers.call(1), await callers.call(2)]
        assert callers.engine.stagings == []
        tasks.append(await callers.call(3))
        await callers.engine.staged()
        callers.engine.go_on()
        assert await outcomes(*tasks) == [[0], [1], [2], [3]]
        assert callers.engine.batches == [[0], [1, 2, 3]]


def teach(callers: Callers, batch_seconds: float) -> None:
    """As if all batches had taken so long, and hardly any time to be staged."""
    assert isinstance(callers.batcher, Batcher)
    outlook = callers.batcher._admission.outlook
    now = asyncio.get_running_loop().time()
    for _ in range(20):
        outlook.end(1, 1, batch_seconds, now)
        outlook.end(1, 2, batch_seconds, now)
    outlook.stage(0.0, now)


async def test_a_batch_is_staged_as_late_as_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is closed when the one before is about to end, so that whoever comes until then has
    its turn, whatever others have waiting."""
    async with batching(Engine(), max_batch_sequences=2) as callers:
        teach(callers, 8.0)
        tasks = [await callers.busy(0), *[await callers.call(n) for n in (1, 2, 3)]]
        tasks.append(await callers.call(4, caller="late"))
        assert callers.engine.stagings == []
        loop = asyncio.get_running_loop()
        clock = loop.time
        monkeypatch.setattr(loop, "time", lambda: clock() + 7.9)
        tasks.append(await callers.call(5))
        await callers.engine.staged()
        assert callers.engine.log[-1] == ("stage", [1, 4])
        callers.engine.go_on()
        assert await outcomes(*tasks) == [[0], [1], [2], [3], [4], [5]]


async def test_a_batch_is_staged_in_time_if_nobody_comes() -> None:
    """A full batch is staged before the one before it has finished, by itself."""
    async with batching(Engine(), max_batch_sequences=2) as callers:
        teach(callers, 0.05)
        tasks = [await callers.busy(0), *[await callers.call(n) for n in (1, 2)]]
        await callers.engine.staged()
        assert callers.engine.log == [("compute", [0]), ("stage", [1, 2])]
        callers.engine.go_on()
        assert await outcomes(*tasks) == [[0], [1], [2]]


async def test_at_most_one_batch_is_staged_ahead() -> None:
    """What waits beyond the staged batch stays in the queue, where it can still be refused."""
    async with batching(Engine(), max_batch_sequences=1) as callers:
        tasks = [await callers.busy(0), *[await callers.call(n) for n in (1, 2, 3)]]
        await callers.engine.staged()
        assert callers.gauge("sequences") == 2
        callers.engine.go_on()
        assert await outcomes(*tasks) == [[0], [1], [2], [3]]
        assert callers.engine.batches == [[0], [1], [2], [3]]


async def test_failed_staging_ahead_harms_no_one() -> None:
    """If staging ahead fails, the batch is staged anew when its turn comes."""
    async with batching(Engine(staging_fails=True), max_batch_sequences=2) as callers:
        tasks = [await callers.busy(0), await callers.call(1), await callers.call(2)]
        await callers.engine.staged()
        callers.engine.go_on()
        assert await outcomes(*tasks) == [[0], [1], [2]]


async def test_large_request_is_split_over_batches() -> None:
    """A request of more sequences than a batch holds gets all results, in its own order."""
    async with batching(Engine(gate_open=True), max_batch_sequences=4) as callers:
        task = await callers.call(*range(10))
        assert await outcomes(task) == [list(range(10))]
        assert callers.engine.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


async def test_batches_are_bounded_in_tokens() -> None:
    """No batch holds more tokens than allowed; a sequence that alone has more is sliced."""
    async with batching(Engine(gate_open=True), max_batch_tokens=10) as callers:
        task = await callers.call(*range(7), tokens=3)
        longer = await callers.call(7, tokens=12)
        results, sliced = await outcomes(task, longer)
        assert results == list(range(7))
        assert isinstance(sliced, Sliced)
        assert callers.engine.batches == [[0, 1, 2], [3, 4, 5], [6]]


async def test_queue_delay_gathers_until_full() -> None:
    """With a queue delay, a batch waits for more and begins as soon as it is full."""
    async with batching(Engine(), max_batch_sequences=3, max_queue_delay=3600) as callers:
        tasks = [await callers.call(n) for n in (0, 1)]
        assert callers.gauge("sequences") == 2
        tasks.append(await callers.call(2))
        await callers.engine.computing()
        callers.engine.go_on()
        assert await outcomes(*tasks) == [[0], [1], [2]]
        assert callers.engine.batches == [[0, 1, 2]]


async def test_queue_delay_ends() -> None:
    """A batch that never fills is computed when its delay is over."""
    async with batching(Engine(gate_open=True), max_queue_delay=0.01) as callers:
        assert await outcomes(await callers.call(0)) == [[0]]


async def test_drain_cuts_the_queue_delay_short() -> None:
    """While draining no one will join, so what waits is computed now."""
    async with batching(Engine(gate_open=True), max_queue_delay=3600) as callers:
        task = await callers.call(0)
        callers.batcher.drain()
        assert await outcomes(task) == [[0]]


async def test_two_models_take_turns() -> None:
    """Two models on one device alternate batch by batch, however much one of them has waiting."""
    engine = Engine()
    with Device() as device:
        async with (
            batching(engine, max_batch_sequences=1, device=device) as first,
            batching(engine, max_batch_sequences=1, device=device) as second,
        ):
            tasks = [await first.busy(0), *[await first.call(n) for n in (1, 2, 3)]]
            tasks += [await second.call(n) for n in (10, 11)]
            engine.go_on()
            assert await outcomes(*tasks) == [[0], [1], [2], [3], [10], [11]]
    assert engine.batches == [[0], [10], [1], [11], [2], [3]]
