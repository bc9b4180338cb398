"""An engine that fails, or runs out of memory, fails nobody but the guilty."""

from __future__ import annotations

import asyncio
import gc
import math
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from bilstm_server.batching.batcher import Batcher
from bilstm_server.batching.device import Device
from bilstm_server.engine.sequences import Input, SequenceOutput
from bilstm_server.errors import (
    DeadlineExpired,
    DeviceLost,
    EngineHung,
    OutOfMemory,
    Unavailable,
)
from bilstm_server.metrics import Metrics
from bilstm_server.settings import QueueLimits
from tests.batching.batcher.echoing import (
    POSITIONS,
    Callers,
    Engine,
    Guilty,
    batching,
    outcomes,
    sequence,
)
from tests.support.waiting import HANGS_AFTER_SECONDS


@pytest.mark.parametrize("position", POSITIONS)
async def test_only_the_guilty_fails(position: int) -> None:
    """A sequence that the engine fails on fails alone; its batch mates are computed apart."""
    async with batching(Engine(guilty=[position])) as callers:
        first = await callers.busy(99)
        tasks = [await callers.call(n) for n in POSITIONS]
        callers.engine.go_on()
        ended = await outcomes(first, *tasks)
        guilty = ended.pop(position + 1)
        assert isinstance(guilty, Guilty)
        assert guilty.args == ([position],)
        assert ended == [[99], *([n] for n in POSITIONS if n != position)]
        assert callers.engine.batches[:2] == [[99], list(POSITIONS)]


async def test_the_guilty_is_found_in_few_batches() -> None:
    """One bad sequence among 64 costs two batches for each halving, not one for each mate."""
    async with batching(Engine(guilty=[13])) as callers:
        first = await callers.busy(99)
        tasks = [await callers.call(n) for n in range(64)]
        callers.engine.go_on()
        await outcomes(first, *tasks)
        assert len(callers.engine.batches) == 2 + 2 * int(math.log2(64))


async def test_other_models_have_their_turns_while_the_guilty_is_sought() -> None:
    """A batch that fails holds up another model on the device by one attempt, not by all."""
    engine = Engine(guilty=[0])
    with Device() as device:
        async with (
            batching(engine, device=device) as bad,
            batching(engine, max_batch_sequences=1, device=device) as good,
        ):
            tasks = [await bad.busy(99), *[await bad.call(n) for n in range(4)]]
            tasks += [await good.call(n) for n in (50, 51, 52)]
            engine.go_on()
            await outcomes(*tasks)
    assert engine.batches[:6] == [[99], [50], [0, 1, 2, 3], [51], [0, 1], [52]]


async def test_engine_that_always_fails_fails_everyone() -> None:
    """Each caller of a batch that fails throughout gets its own error, and the batcher goes on."""
    async with batching(Engine(guilty=POSITIONS)) as callers:
        first = await callers.busy(99)
        tasks = [await callers.call(n) for n in POSITIONS]
        callers.engine.go_on()
        ended = await outcomes(first, *tasks)
        assert [error.args for error in ended[1:] if isinstance(error, Guilty)] == [
            ([n],) for n in POSITIONS
        ]
        assert await outcomes(await callers.call(100)) == [[100]]


async def test_lost_device_ends_the_batcher() -> None:
    """If the device computes no more, its batch is told so, not halved, and the server ends."""

    class LosingEngine(Engine):
        def _compute(self, sequences: Sequence[Input]) -> list[SequenceOutput]:
            super()._compute(sequences)
            raise DeviceLost("the GPU is lost")

    engine = LosingEngine()
    own = Device()
    batcher = Batcher(engine, QueueLimits(), own, Metrics().model("m"))
    callers = Callers(batcher, engine, Metrics())
    running = asyncio.create_task(batcher.run())
    call = await callers.call(1, 2)
    await engine.computing()
    engine.go_on()
    (ended,) = await outcomes(call)
    assert isinstance(ended, DeviceLost)
    with pytest.raises(DeviceLost):
        await asyncio.wait_for(running, HANGS_AFTER_SECONDS)
    assert engine.batches == [[1, 2]]
    own.__exit__(None, None, None)


async def test_failed_server_ends_all_that_it_has() -> None:
    """What is computed, what is staged, what waits, and what streams would bring end with the
    server's error, at once, and what comes then is told that it is Unavailable."""
    async with batching(Engine(), max_batch_sequences=2, max_queue_sequences=4) as callers:
        calls = [await callers.busy(0)]
        calls += [await callers.call(number) for number in range(1, 5)]
        streamed = asyncio.create_task(callers.batcher.enqueue(sequence(5)))
        await callers.engine.staged()
        hung = EngineHung("the engine does not return")
        callers.batcher.fail(hung)
        assert await outcomes(*calls) == [hung] * 5
        future = await asyncio.wait_for(streamed, HANGS_AFTER_SECONDS)
        assert future.exception() is hung
        assert callers.batcher.idle
        for late in (callers.batcher.submit([sequence(6)]), callers.batcher.enqueue(sequence(7))):
            with pytest.raises(Unavailable, match="the engine does not return"):
                await late


async def test_failing_sequence_takes_its_request_along() -> None:
    """A request of several fails with the error of the first to fail; other requests succeed."""
    async with batching(Engine(guilty=[2, 3])) as callers:
        first = await callers.busy(0)
        failing = await callers.call(1, 2, 3)
        other = await callers.call(4, 5)
        callers.engine.go_on()
        ended = await outcomes(first, failing, other)
        assert isinstance(ended.pop(1), Guilty)
        assert ended == [[0], [4, 5]]


@pytest.mark.parametrize("memory", [1, 2, 3, 7])
async def test_out_of_memory_halves_the_batch(memory: int) -> None:
    """A batch that does not fit into memory is halved until it does, and everyone succeeds."""
    async with batching(Engine(memory=memory)) as callers:
        first = await callers.busy(99)
        tasks = [await callers.call(n) for n in range(8)]
        callers.engine.go_on()
        assert await outcomes(first, *tasks) == [[99], *([n] for n in range(8))]
        sizes = [len(batch) for batch in callers.engine.batches[1:]]
        smallest = 2 ** int(math.log2(memory))
        assert Counter(sizes) == {2**k: 8 // 2**k for k in range(4) if 2**k >= smallest}


class Scratch:
    """What an engine allocates for a batch."""


class WastefulEngine(Engine):
    """Notes how much of what earlier batches allocated is still there when one is computed."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self._scratches: list[weakref.ref[Scratch]] = []
        self.kept: list[int] = []

    def _compute(self, sequences: Sequence[Input]) -> list[SequenceOutput]:
        self.kept.append(sum(scratch() is not None for scratch in self._scratches))
        scratch = Scratch()
        self._scratches.append(weakref.ref(scratch))
        return super()._compute(sequences)


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_garbage_collection")
async def test_memory_of_a_batch_that_failed_is_free_for_its_halves() -> None:
    """Memory of a batch that failed is free at once, or its halves would not fit either."""
    engine = WastefulEngine(memory=1)
    async with batching(engine) as callers:
        first = await callers.busy(99)
        tasks = [await callers.call(n) for n in range(8)]
        engine.go_on()
        assert await outcomes(first, *tasks) == [[99], *([n] for n in range(8))]
    assert len(engine.kept) == 1 + 15
    assert set(engine.kept) == {0}


@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("fails", ["computed", "expired"])
async def test_request_that_failed_is_let_go(fails: str) -> None:
    """Once its caller has the error, nothing holds its sequences."""
    async with batching(Engine(gate_open=True, guilty=[0])) as callers:
        bad = sequence(0)
        steps = weakref.ref(bad.inputs[0])
        deadline = asyncio.get_running_loop().time() if fails == "expired" else math.inf
        try:
            await callers.batcher.submit([bad], deadline)
        except (Guilty, DeadlineExpired):
            del bad
        # The loop holds what woke this task, and the compute thread its last work, until the next.
        assert await outcomes(await callers.call(5)) == [[5]]
        assert steps() is None


async def test_out_of_memory_lowers_the_budget_of_batches_and_is_counted() -> None:
    """What comes next is computed in batches of half the tokens that did not fit, at once."""
    async with batching(Engine(gate_open=True, memory=4), max_batch_tokens=8) as callers:
        assert await outcomes(await callers.call(*range(16))) == [list(range(16))]
        assert [len(batch) for batch in callers.engine.batches] == [8, 4, 4, 8, 4, 4]
        later = [await callers.call(n) for n in range(8)]
        assert await outcomes(*later) == [[n] for n in range(8)]
        assert max(map(len, callers.engine.batches[6:])) <= 4
        assert callers.sample("batch_limit_tokens") == 4
        assert callers.sample("out_of_memory_total") == 2


async def test_a_lone_sequence_without_memory_lowers_nothing() -> None:
    """It says nothing of the others, whose batches stay as they are."""
    async with batching(Engine(memory=8)) as callers:
        callers.engine.go_on()
        (ended,) = await outcomes(await callers.call(0, tokens=9))
        assert isinstance(ended, OutOfMemory)
        assert callers.sample("batch_limit_tokens") == 100
        assert callers.sample("out_of_memory_total") == 1


@pytest.mark.parametrize("position", POSITIONS)
async def test_sequence_that_never_fits_fails_alone(position: int) -> None:
    """A sequence too large for the memory alone is told so; its mates succeed, and later batches
    are as large as ever."""
    async with batching(Engine(memory=10)) as callers:
        first = await callers.busy(99)
        tasks = [await callers.call(n, tokens=11 if n == position else 1) for n in POSITIONS]
        callers.engine.go_on()
        ended = await outcomes(first, *tasks)
        assert isinstance(ended.pop(position + 1), OutOfMemory)
        assert ended == [[99], *([n] for n in POSITIONS if n != position)]
        assert callers.sample("batch_limit_tokens") == 100


async def test_cancelled_while_its_batch_is_retried_is_not_computed_again() -> None:
    """Between the attempts at a batch that fails, whoever left is left out."""
    async with batching(Engine(guilty=[0])) as callers:
        first = await callers.busy(99)
        tasks = [await callers.call(n) for n in (0, 1, 2)]
        callers.engine.go_on(1)
        await callers.engine.computing()
        tasks[1].cancel()
        callers.engine.go_on()
        ended = await outcomes(first, *tasks)
        assert isinstance(ended[1], Guilty)
        assert isinstance(ended[2], asyncio.CancelledError)
        assert ended[3] == [2]
        assert callers.engine.batches == [[99], [0, 1, 2], [0], [2]]


@pytest.mark.parametrize("surplus", [-1, 1], ids=["too few", "too many"])
async def test_wrong_number_of_outputs_fails_the_callers(surplus: int) -> None:
    """An engine that returns more or fewer outputs than sequences leaves no caller waiting."""
    async with batching(Engine(gate_open=True, surplus=surplus)) as callers:
        tasks = [await callers.call(1, 2), await callers.call(3)]
        assert [type(error) for error in await outcomes(*tasks)] == [RuntimeError, RuntimeError]
