"""Who has the device when: batches, slices of long sequences, other models, streams. Real
`Batcher`s over one small engine, which stops at its gate until the test says go on; time is what
the engine says that its work took.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bilstm_server.batching.batcher import Batcher
from bilstm_server.batching.device import Device
from bilstm_server.batching.jobs import Result
from bilstm_server.batching.pace import SliceTime
from bilstm_server.callers import Priority
from bilstm_server.engine.sequences import Input, SequenceInput, SequenceOutput
from bilstm_server.engine.staging import StagedBatch
from bilstm_server.errors import Unavailable
from bilstm_server.metrics import Metrics
from bilstm_server.settings import QueueLimits
from tests.support.waiting import HANGS_AFTER_SECONDS

PLENTY = 10_000
LONG = 100  # tokens; more than any batch has
BATCH_SECONDS = 0.04
SLICE_SECONDS = 0.001


class Run:
    """A long sequence of one layer, of which each slice computes one token."""

    stage = ("lstm", 0)
    stages = 1

    def __init__(self, number: int, tokens: int):
        self.number = number
        self.tokens_left = tokens

    @property
    def done(self) -> bool:
        return self.tokens_left == 0


class Engine:
    """Keeps a log of what it computes, in order; each piece stops at the gate."""

    def __init__(self) -> None:
        self.log: list[tuple[str, list[int]]] = []
        self.now = 0.0
        self._gate = threading.Semaphore(0)
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Semaphore(0)

    async def arrival(self) -> None:
        """Wait until one more piece of work stands at the gate."""
        await asyncio.wait_for(self._arrived.acquire(), HANGS_AFTER_SECONDS)

    def go_on(self, pieces: int = PLENTY) -> None:
        self._gate.release(pieces)

    def slices_between_batches(self) -> list[int]:
        """How many slices there were before the first batch, between it and the second, …"""
        counts = [0]
        for what, _ in self.log:
            if what == "batch":
                counts.append(0)
            else:
                counts[-1] += 1
        return counts

    def _pass(self, what: str, numbers: list[int], seconds: float) -> None:
        self.log.append((what, numbers))
        self._loop.call_soon_threadsafe(self._arrived.release)
        assert self._gate.acquire(timeout=HANGS_AFTER_SECONDS)
        self.now += seconds

    def run(self, sequences: Sequence[Input]) -> list[SequenceOutput]:
        self._pass("batch", [int(s.steps_between(0, 1)[0][0]) for s in sequences], BATCH_SECONDS)
        return [SequenceOutput() for _ in sequences]

    def stage(self, sequences: Sequence[Input]) -> StagedBatch:
        return StagedBatch(sequences, None, None)

    def compute(self, staged: StagedBatch) -> list[SequenceOutput]:
        return self.run(staged.sequences)

    def begin(self, sequence: SequenceInput) -> Any:
        return Run(int(sequence.steps_between(0, 1)[0][0]), sequence.tokens)

    def advance(self, runs: Sequence[Any], steps: int) -> None:
        self._pass("slice", [run.number for run in runs], SLICE_SECONDS)
        for run in runs:
            run.tokens_left -= 1

    def finish(self, run: Any, sequence: SequenceInput) -> SequenceOutput:
        return SequenceOutput()


@pytest.fixture
async def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """With a clock of its own, which what measures computations reads."""
    engine = Engine()
    for module in ("computing", "slice_lane"):
        clock = SimpleNamespace(perf_counter=lambda: engine.now)
        monkeypatch.setattr(f"bilstm_server.batching.{module}.time", clock)
    return engine


@asynccontextmanager
async def model(engine: Engine, device: Device, **limits: int) -> AsyncIterator[Batcher]:
    defaults = {
        "max_batch_tokens": LONG,
        "max_batch_sequences": 100,
        "max_queue_tokens": 10 * LONG,
        "max_queue_sequences": 1000,
        "max_whole_tokens": LONG - 1,
    }
    batcher = Batcher(
        engine, QueueLimits.model_validate(defaults | limits), device, Metrics().model("m")
    )
    running = asyncio.create_task(batcher.run())
    try:
        yield batcher
    finally:
        engine.go_on()
        batcher.drain()
        await asyncio.wait_for(running, HANGS_AFTER_SECONDS)


async def settled() -> None:
    """Whatever can run without the compute thread has run."""
    for _ in range(10):
        await asyncio.sleep(0)


async def call(batcher: Batcher, number: int, tokens: int = 1) -> asyncio.Task[list[Result]]:
    """A caller that waits by now for its result, or for the device."""
    sequence = SequenceInput((np.full(tokens, number),), frozenset({"states"}))
    task = asyncio.create_task(batcher.submit([sequence]))
    await settled()
    return task


async def stream(batcher: Batcher, number: int) -> asyncio.Task[asyncio.Future[Result]]:
    """A stream whose sequence is let in, or waits to be."""
    sequence = SequenceInput((np.full(1, number),), frozenset({"states"}))
    task = asyncio.create_task(batcher.enqueue(sequence))
    await settled()
    return task


# -- slices --------------------------------------------------------------------------------------


async def test_slices_give_way_to_what_comes(engine: Engine) -> None:
    """Something short of the same model waits for one slice, and no more."""
    with Device() as device:
        async with model(engine, device) as one:
            long = await call(one, 0, LONG)
            await engine.arrival()
            short = await call(one, 1)
            engine.go_on()
            await asyncio.gather(long, short)
    assert engine.log[:2] == [("slice", [0]), ("batch", [1])]


async def test_slices_give_way_to_another_model(engine: Engine) -> None:
    """What comes to another model on the device waits for one slice, and no more."""
    with Device() as device:
        async with model(engine, device) as one, model(engine, device) as other:
            long = await call(one, 0, LONG)
            await engine.arrival()
            short = await call(other, 1)
            engine.go_on()
            await asyncio.gather(long, short)
    assert engine.log[:2] == [("slice", [0]), ("batch", [1])]


async def test_slices_give_way_to_a_model_that_waits_already(engine: Engine) -> None:
    """Slices give way to a model that waited for the device before the long sequence had it."""
    with Device() as device:
        async with (
            model(engine, device) as busy,
            model(engine, device) as one,
            model(engine, device) as other,
        ):
            calls = [await call(busy, 0)]
            await engine.arrival()
            calls += [await call(one, 1, LONG), await call(other, 2)]
            engine.go_on()
            await asyncio.gather(*calls)
    assert engine.log[:3] == [("batch", [0]), ("slice", [1]), ("batch", [2])]


async def test_slices_go_on_while_nothing_else_comes(engine: Engine) -> None:
    """A long sequence that is alone has the device for 50 ms in a row, slice after slice."""
    with Device() as device:
        async with model(engine, device) as one:
            turns = 0
            advance = one._lane.advance

            async def counted(slice_time: SliceTime) -> None:
                nonlocal turns
                turns += 1
                await advance(slice_time)

            one._lane.advance = counted  # type: ignore[method-assign]
            engine.go_on()
            await (await call(one, 0, LONG))
    assert engine.slices_between_batches() == [LONG]
    assert turns == 2


async def test_slices_have_their_share_of_a_busy_device(engine: Engine) -> None:
    """Where batches always wait, slices have a quarter of each one's time."""
    with Device() as device:
        async with model(engine, device, max_batch_sequences=1) as one:
            short = [await call(one, number) for number in range(4)]
            long = await call(one, 100, LONG)
            engine.go_on()
            await asyncio.gather(*short, long)
    share = round(BATCH_SECONDS / 4 / SLICE_SECONDS)
    assert engine.slices_between_batches()[:4] == [0, share, share, share]


async def test_slices_tell_what_they_cost(engine: Engine) -> None:
    """What slices cost is known, so that a refusal says how long the rest of a long sequence
    takes."""
    with Device() as device:
        async with model(engine, device) as one:
            long = await call(one, 0, LONG)
            await engine.arrival()
            short = await call(one, 1)
            engine.go_on(1)
            await engine.arrival()
            assert one._admission.seconds_of_waiting == pytest.approx(0.5)  # a guessed batch's
            one._admission.outlook.last_seconds = 0.0
            left = (LONG - 1) * SLICE_SECONDS
            assert one._admission.seconds_of_waiting == pytest.approx(left)
            engine.go_on()
            await asyncio.gather(long, short)


# -- streams -------------------------------------------------------------------------------------


async def test_streams_have_their_turns_while_calls_fill_the_queue(engine: Engine) -> None:
    """A stream's sequence waits until a batch is closed, not until the calls have gone; and
    whoever leaves meanwhile leaves no trace."""
    with Device() as device:
        async with model(engine, device, max_batch_sequences=2) as one:
            calls = [await call(one, number) for number in range(9)]
            await engine.arrival()
            streams = [await stream(one, 100 + number) for number in range(3)]
            assert not any(task.done() for task in streams)
            streams[0].cancel()
            await settled()
            engine.go_on(1)
            await engine.arrival()
            await settled()
            assert streams[1].done()
            assert not streams[2].done()
            engine.go_on()
            await asyncio.gather(*calls)
            await asyncio.gather(*[await task for task in streams[1:]])
            assert not one._turns
    numbers = [number for _, batch in engine.log for number in batch]
    assert sorted(numbers) == [*range(9), 101, 102]
    assert numbers.index(101) < numbers.index(102)


async def test_nothing_comes_in_after_the_drain(engine: Engine) -> None:
    """Neither calls nor streams' sequences, while those that are at the door are told before."""
    with Device() as device:
        async with model(engine, device) as one:
            engine.go_on()
            assert one.refusal("", Priority.NORMAL) is None
            one.refuse()
            assert isinstance(one.refusal("", Priority.NORMAL), Unavailable)
            await (await call(one, 0))  # it was past the door
            await (await (await stream(one, 1)))
            one.drain()
            with pytest.raises(Unavailable):
                await (await call(one, 2))
            with pytest.raises(Unavailable):
                await (await stream(one, 3))
    assert engine.log == [("batch", [0]), ("batch", [1])]
