"""A small engine that echoes, waits at a gate, fails, or runs out of memory, and callers of its
batcher.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

import numpy as np

from bilstm_server.batching.batcher import Batcher
from bilstm_server.batching.device import Device
from bilstm_server.batching.jobs import Result
from bilstm_server.engine.sequences import Input, SequenceInput, SequenceOutput
from bilstm_server.engine.staging import StagedBatch
from bilstm_server.errors import (
    OutOfMemory,
)
from bilstm_server.metrics import Metrics
from bilstm_server.model.incremental.slices import SlicedRun
from bilstm_server.settings import QueueLimits
from tests.support.waiting import HANGS_AFTER_SECONDS

PLENTY = 1000  # more batches than any test has
POSITIONS = range(5)


class Sliced(Exception):
    """A sequence came to be computed in slices, which this engine does not do."""


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
        raise Sliced

    def advance(self, runs: Sequence[SlicedRun], steps: int) -> None:
        raise AssertionError("no run was begun")

    def finish(self, run: SlicedRun, sequence: SequenceInput) -> SequenceOutput:
        raise AssertionError("no run was begun")

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
        outputs = [
            SequenceOutput({"states": 2 * s.steps_between(0, s.tokens)[0]}) for s in sequences
        ]
        return (outputs * 2)[: len(outputs) + self._surplus]


def sequence(number: int, tokens: int = 1) -> SequenceInput:
    """A sequence that is told from others by its number."""
    return SequenceInput((np.full(tokens, number),), frozenset({"states"}))


def identity(sequence: Input) -> int:
    return int(sequence.steps_between(0, 1)[0][0])


def doubled(result: Result) -> int:
    """The number of the sequence that `result` belongs to."""
    (number,) = set(result.output.arrays["states"].tolist())
    assert number % 2 == 0
    return int(number // 2)


class Callers:
    """A running `Batcher`, and callers of it."""

    def __init__(self, batcher: Batcher, engine: Engine, metrics: Metrics):
        self.batcher = batcher
        self.engine = engine
        self._metrics = metrics

    async def call(
        self, *numbers: int, tokens: int = 1, deadline: float = math.inf, caller: str = ""
    ) -> asyncio.Task[list[Result]]:
        """A caller whose request, of one sequence per number, is admitted or refused by now."""
        task = asyncio.create_task(
            self.batcher.submit([sequence(n, tokens) for n in numbers], deadline, caller=caller)
        )
        await asyncio.sleep(0)  # the task runs up to where it waits for its results
        return task

    async def busy(self, number: int = 0) -> asyncio.Task[list[Result]]:
        """A caller whose batch stands at the engine's gate."""
        task = await self.call(number)
        await self.engine.computing()
        return task

    def count(self, name: str) -> float:
        value = self._metrics.registry.get_sample_value(f"bilstm_{name}_total", {"model": "m"})
        assert value is not None
        return value

    def gauge(self, name: str) -> float:
        return self.sample(f"queue_{name}")

    def sample(self, name: str) -> float:
        value = self._metrics.registry.get_sample_value(f"bilstm_{name}", {"model": "m"})
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
