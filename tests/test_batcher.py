"""`Batcher` over small engines that echo, wait at a gate, fail, or run out of memory.

One event loop, no wire. An engine stops at its gate until the test says go on, so every order of
events here is forced; the one timeout is a guard against hanging.
"""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from bilstm_server.batching.batcher import Batcher
from bilstm_server.batching.device import Device
from bilstm_server.batching.jobs import Result
from bilstm_server.engine.sequences import Input, SequenceInput, SequenceOutput
from bilstm_server.engine.staging import StagedBatch
from bilstm_server.errors import (
    DeadlineExpired,
    DeviceLost,
    OutOfMemory,
    Overloaded,
    Unavailable,
)
from bilstm_server.metrics import Metrics
from bilstm_server.model.config import Output
from bilstm_server.model.incremental.slices import SlicedRun
from bilstm_server.settings import QueueLimits

HANGS_AFTER_SECONDS = 60
PLENTY = 1000  # more batches than any test has
POSITIONS = range(5)


class Guilty(Exception):
    """What an engine raises of a sequence it can't compute."""


class Engine:
    """Echoes each sequence doubled, and keeps a log of what it was asked to do.

    Each batch stops at the gate when it begins to be computed; each staging that is not part of
    `run` is announced. `guilty` are sequences that make their whole batch fail; more than
    `memory` tokens are out of memory; `surplus` outputs are returned too many (or too few).
    """

    def __init__(
        self,
        *,
        gate_open: bool = False,
        guilty: Collection[int] = (),
        memory: float = math.inf,
        surplus: int = 0,
        staging_fails: bool = False,
    ):
        self.log: list[tuple[str, list[int]]] = []
        self.stagings: list[StagedBatch] = []
        self.computed_stagings: list[StagedBatch] = []
        self._guilty = guilty
        self._memory = memory
        self._surplus = surplus
        self._staging_fails = staging_fails
        self._gate = threading.Semaphore(PLENTY if gate_open else 0)
        self._loop = asyncio.get_running_loop()
        self._staged = asyncio.Semaphore(0)
        self._computing = asyncio.Semaphore(0)

    @property
    def batches(self) -> list[list[int]]:
        """The sequences of each batch that began to be computed."""
        return [sequences for what, sequences in self.log if what == "compute"]

    async def staged(self) -> None:
        """Wait until one more batch is staged ahead."""
        await asyncio.wait_for(self._staged.acquire(), HANGS_AFTER_SECONDS)

    async def computing(self) -> None:
        """Wait until one more batch stands at the gate."""
        await asyncio.wait_for(self._computing.acquire(), HANGS_AFTER_SECONDS)

    def go_on(self, batches: int = PLENTY) -> None:
        self._gate.release(batches)

    def run(self, sequences: Sequence[Input]) -> list[SequenceOutput]:
        return self._compute(sequences)

    def stage(self, sequences: Sequence[Input]) -> StagedBatch:
        self.log.append(("stage", [identity(s) for s in sequences]))
        staged = StagedBatch(sequences, None, None)
        self.stagings.append(staged)
        self._loop.call_soon_threadsafe(self._staged.release)
        if self._staging_fails:
            raise OutOfMemory("out of memory")
        return staged

    def compute(self, staged: StagedBatch) -> list[SequenceOutput]:
        self.computed_stagings.append(staged)
        return self._compute(staged.sequences)

    def begin(self, sequence: SequenceInput) -> SlicedRun:
        raise NotImplementedError("what is long is tested in test_slice_lane.py")

    def advance(self, runs: Sequence[SlicedRun], steps: int) -> None:
        raise NotImplementedError

    def finish(self, run: SlicedRun, sequence: SequenceInput) -> SequenceOutput:
        raise NotImplementedError

    def _compute(self, sequences: Sequence[Input]) -> list[SequenceOutput]:
        identities = [identity(s) for s in sequences]
        self.log.append(("compute", identities))
        self._loop.call_soon_threadsafe(self._computing.release)
        assert self._gate.acquire(timeout=HANGS_AFTER_SECONDS)
        self.log.append(("finish", identities))
        if sum(s.tokens for s in sequences) > self._memory:
            raise OutOfMemory("out of memory")
        if guilty := [i for i in identities if i in self._guilty]:
            raise Guilty(guilty)
        outputs = [SequenceOutput({Output.STATES: 2 * s.rows(0, s.tokens)}) for s in sequences]
        return (outputs * 2)[: len(outputs) + self._surplus]


def sequence(number: int, tokens: int = 1) -> SequenceInput:
    """A sequence that is told from others by its number."""
    return SequenceInput(np.full(tokens, number), frozenset({Output.STATES}))


def identity(sequence: Input) -> int:
    return int(sequence.rows(0, 1)[0])


def doubled(result: Result) -> int:
    """The number of the sequence that `result` belongs to."""
    (number,) = set(result.output.arrays[Output.STATES].tolist())
    assert number % 2 == 0
    return int(number // 2)


class Callers:
    """A running `Batcher`, and callers of it."""

    def __init__(self, batcher: Batcher, engine: Engine, metrics: Metrics):
        self.batcher = batcher
        self.engine = engine
        self._metrics = metrics

    async def call(
        self, *numbers: int, tokens: int = 1, deadline: float = math.inf
    ) -> asyncio.Task[list[Result]]:
        """A caller whose request, of one sequence per number, is admitted or refused by now."""
        task = asyncio.create_task(
            self.batcher.submit([sequence(n, tokens) for n in numbers], deadline)
        )
        await asyncio.sleep(0)  # the task runs up to where it waits for its results
        return task

    async def busy(self, number: int = 0) -> asyncio.Task[list[Result]]:
        """A caller whose batch stands at the engine's gate."""
        task = await self.call(number)
        await self.engine.computing()
        return task

    def gauge(self, name: str) -> float:
        value = self._metrics.registry.get_sample_value(f"bilstm_queue_{name}", {"model": "m"})
        assert value is not None
        return value


@asynccontextmanager
async def batching(
    engine: Engine,
    *,
    max_batch_tokens: int = 100,
    max_batch_sequences: int = 100,
    max_queue_tokens: int = 1000,
    max_queue_sequences: int = 1000,
    max_queue_delay: float = 0.0,
    device: Device | None = None,
) -> AsyncIterator[Callers]:
    """A batcher that runs until the block ends, and then drains."""
    own = Device() if device is None else device
    limits = QueueLimits(
        max_batch_tokens=max_batch_tokens,
        max_batch_sequences=max_batch_sequences,
        max_queue_tokens=max_queue_tokens,
        max_queue_sequences=max_queue_sequences,
        max_queue_delay=max_queue_delay,
        max_queue_seconds=HANGS_AFTER_SECONDS,
    )
    metrics = Metrics()
    batcher = Batcher(engine, limits, own, metrics.model("m"))
    running = asyncio.create_task(batcher.run())
    try:
        yield Callers(batcher, engine, metrics)
    finally:
        engine.go_on()
        batcher.drain()
        await asyncio.wait_for(running, HANGS_AFTER_SECONDS)
        if device is None:
            own.__exit__(None, None, None)


async def outcomes(
    *tasks: asyncio.Task[list[Result]],
) -> list[list[int] | BaseException]:
    """How each call ended: whose results it got, or its error."""
    ended = await asyncio.wait_for(
        asyncio.gather(*tasks, return_exceptions=True), HANGS_AFTER_SECONDS
    )
    return [
        result if isinstance(result, BaseException) else [doubled(r) for r in result]
        for result in ended
    ]


# -- coalescing -------------------------------------------------------------------------------


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
        assert isinstance(sliced, NotImplementedError)
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


# -- those who leave --------------------------------------------------------------------------


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


# -- engines that fail ------------------------------------------------------------------------


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
    """At once, not when the garbage collector comes to it: or the halves would not fit either."""
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
        steps = weakref.ref(bad.steps)
        deadline = asyncio.get_running_loop().time() if fails == "expired" else math.inf
        try:
            await callers.batcher.submit([bad], deadline)
        except (Guilty, DeadlineExpired):
            del bad
        # The loop holds what woke this task, and the compute thread its last work, until the next.
        assert await outcomes(await callers.call(5)) == [[5]]
        assert steps() is None


@pytest.mark.parametrize("position", POSITIONS)
async def test_sequence_that_never_fits_fails_alone(position: int) -> None:
    """A sequence too large for the memory alone is told so; its mates succeed."""
    async with batching(Engine(memory=10)) as callers:
        first = await callers.busy(99)
        tasks = [await callers.call(n, tokens=11 if n == position else 1) for n in POSITIONS]
        callers.engine.go_on()
        ended = await outcomes(first, *tasks)
        assert isinstance(ended.pop(position + 1), OutOfMemory)
        assert ended == [[99], *([n] for n in POSITIONS if n != position)]


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


# -- admission and drain ----------------------------------------------------------------------


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
        callers.batcher._admission.batch_cost.observe(100, 2.0)  # as if one had taken so long
        refused = (await callers.call(3)).exception()
        assert isinstance(refused, Overloaded)
        assert refused.retry_after_seconds == pytest.approx(20.0)


async def test_batches_tell_what_they_cost() -> None:
    """The last one's time is what the caller is told of it, and what a refusal goes by."""
    async with batching(Engine(gate_open=True)) as callers:
        (result,) = await (await callers.call(0, tokens=7))
        cost = callers.batcher._admission.batch_cost
        assert cost.last_seconds == result.timing.compute_seconds
        assert cost.seconds_per_token == pytest.approx(result.timing.compute_seconds / 7)


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


# -- metrics ----------------------------------------------------------------------------------


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
