"""`SliceLane` by itself: how many steps each slice has, whose turn it is, and what an error does to
those that share a slice. The engine counts; time is what it says that its work took.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bilstm_server.batching.admission import Kind
from bilstm_server.batching.device import Device
from bilstm_server.batching.jobs import Job, Result
from bilstm_server.batching.long_work import LongWork
from bilstm_server.batching.pace import SlicePace, SliceTime
from bilstm_server.batching.shares import Shares
from bilstm_server.batching.slice_lane import SliceLane
from bilstm_server.callers import Priority
from bilstm_server.engine.sequences import SequenceInput, SequenceOutput
from bilstm_server.errors import DeviceLost, OutOfMemory
from bilstm_server.metrics import Metrics
from bilstm_server.model.incremental.slices import SLICE_UNIT
from tests.support.waiting import HANGS_AFTER_SECONDS

SLICE_SECONDS = 2**-9  # so that sums are exact
ONE_SLICE = SliceTime(0.0, 0.0)  # after no batch
AFTER_A_BATCH = SliceTime(1e-9, 0.0)  # one slice, too


class Run:
    """A long sequence of one layer, with so many units of steps."""

    stage = ("lstm", 0)
    stages = 1

    def __init__(self, number: int, units: int):
        self.number = number
        self.tokens_left = units * SLICE_UNIT

    @property
    def done(self) -> bool:
        return self.tokens_left == 0


class Engine:
    """Keeps a log of its slices: the numbers of the sequences, and the steps of each of them."""

    def __init__(self) -> None:
        self.slices: list[tuple[list[int], int]] = []
        self.now = 0.0
        self.slice_seconds = SLICE_SECONDS
        self.errors: deque[Exception | None] = deque()  # of the slices to come, in order

    def begin(self, sequence: SequenceInput) -> Any:
        return Run(int(sequence.steps_between(0, 1)[0][0]), sequence.tokens // SLICE_UNIT)

    def advance(self, runs: Sequence[Any], steps: int) -> None:
        self.slices.append(([run.number for run in runs], steps))
        self.now += self.slice_seconds
        if self.errors and (error := self.errors.popleft()):
            raise error
        for run in runs:
            run.tokens_left -= min(run.tokens_left, steps)

    def finish(self, run: Any, sequence: SequenceInput) -> SequenceOutput:
        return SequenceOutput()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """With a clock of its own, which the lane reads. Something else wanted the device just now."""
    engine = Engine()
    clock = SimpleNamespace(perf_counter=lambda: engine.now)
    monkeypatch.setattr("bilstm_server.batching.slice_lane.time", clock)
    return engine


class Lane:
    """A lane, with the device for itself."""

    def __init__(self, engine: Engine, device: Device, units: int, max_sequences: int):
        self.device = device
        self.pace = SlicePace(SLICE_SECONDS, max_sequences)
        self.pace.want(0.0)
        self.pace.steps = units * SLICE_UNIT
        shares = Shares({})
        self._work: LongWork[Job] = LongWork(shares)
        metrics = Metrics().model("m")
        self.lane = SliceLane(engine, device, metrics, self._work, self.pace, shares)

    def put(self, *lengths: int, kind: Kind = Kind.CALL) -> list[asyncio.Future[Result]]:
        """Sequences of so many units, numbered from 0; what each of them will get."""
        futures = []
        for number, units in enumerate(lengths):
            steps = np.full(units * SLICE_UNIT, number)
            sequence = SequenceInput((steps,), frozenset({"states"}))
            future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
            job = Job(sequence, len(steps), kind, True, "", Priority.NORMAL, float("inf"), future)
            self._work.put(job, takes_room=False)
            self.lane.put(job)
            futures.append(future)
        return futures

    async def advance(self, slice_time: SliceTime = ONE_SLICE) -> None:
        async with asyncio.timeout(HANGS_AFTER_SECONDS):
            await self.lane.advance(slice_time)


@asynccontextmanager
async def slicing(engine: Engine, units: int, max_sequences: int = 8) -> AsyncIterator[Lane]:
    """A lane whose first slice has so many units of steps."""
    with Device() as device:
        yield Lane(engine, device, units, max_sequences)


async def test_the_steps_of_a_slice_are_divided(engine: Engine) -> None:
    """Sequences that share a slice have its steps together, not each of them."""
    async with slicing(engine, units=4) as lane:
        lane.put(8, 8)
        await lane.advance()
    assert engine.slices == [([0, 1], 2 * SLICE_UNIT)]


async def test_sequences_take_turns(engine: Engine) -> None:
    """Where a slice has no room for all, those that had one are behind the others."""
    async with slicing(engine, units=2, max_sequences=2) as lane:
        lane.put(8, 8, 8)
        for _ in range(3):
            await lane.advance()
    assert [numbers for numbers, _ in engine.slices] == [[0, 1], [2, 0], [1, 2]]


async def test_slices_are_short_after_a_batch(engine: Engine) -> None:
    """A batch that went before is something that wants the device: slices stay as short as they
    are to be then. Without one they may take ten times as long, and so get longer."""
    async with slicing(engine, units=4) as lane:
        lane.put(100)
        engine.now = 10.0
        await lane.advance(AFTER_A_BATCH)
        assert lane.pace.steps == 4 * SLICE_UNIT
        engine.now = 20.0
        await lane.advance()
        assert lane.pace.steps == 8 * SLICE_UNIT


async def test_slices_are_short_for_what_comes_meanwhile(engine: Engine) -> None:
    """So is what came while a slice was computed."""
    async with slicing(engine, units=4) as lane:
        lane.put(100)
        engine.now = 10.0
        lane.device.arrive()
        await lane.advance()
        assert lane.pace.steps == 4 * SLICE_UNIT


async def test_a_slice_without_memory_is_tried_with_half_its_steps(engine: Engine) -> None:
    """All that share it go on, and none fails."""
    engine.errors.append(OutOfMemory("no"))
    async with slicing(engine, units=4) as lane:
        futures = lane.put(2, 2)
        for _ in range(3):
            await lane.advance()
        assert engine.slices[:2] == [([0, 1], 2 * SLICE_UNIT), ([0, 1], SLICE_UNIT)]
        assert [type(future.result()) for future in futures] == [Result, Result]


async def test_one_that_ends_while_the_guilty_is_found_has_its_result(engine: Engine) -> None:
    """After a slice that failed each moves by itself; one that is done then is finished, and only
    the guilty one fails."""
    guilty = ArithmeticError("no")
    engine.errors.extend([guilty, None, guilty])
    async with slicing(engine, units=2) as lane:
        innocent, failed = lane.put(1, 1)
        await lane.advance()
        assert isinstance(innocent.result(), Result)
        assert failed.exception() is guilty
        assert not lane.lane


@pytest.mark.parametrize("kind", Kind)
async def test_a_lost_device_takes_no_result_away(engine: Engine, kind: Kind) -> None:
    """What was computed before the device was lost is still given; other calls are told of the
    loss, and so is whoever runs the lane. Streams, which are ended as a whole, are not."""
    lost = DeviceLost("gone")
    engine.errors.extend([None, lost])
    async with slicing(engine, units=2) as lane:
        short, long = lane.put(1, 3, kind=kind)
        with pytest.raises(DeviceLost):
            await lane.advance(SliceTime(1.0, 1.0))
        assert isinstance(short.result(), Result)
        assert long.done() == (kind is Kind.CALL)
        assert not long.done() or long.exception() is lost
