"""`SliceLane`: the long sequences of one model, computed a slice of steps at a time.

How long it may have the device is `Admission`'s to say. Long sequences at the same stage share
their slices.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..callers import Priority
from ..engine.sequences import SequenceInput, SequenceOutput
from ..errors import DeviceLost, OutOfMemory, forget_locals
from ..metrics import ModelMetrics
from ..model.incremental.slices import SLICE_UNIT, SlicedRun
from ..process.progress import Work
from .device import Device
from .jobs import BatchTiming, Job, Result, spare
from .long_turns import LongTurns
from .long_work import LongWork
from .pace import SlicePace, SliceTime
from .shares import Shares


class SliceEngine(Protocol):
    """What the lane asks of `Engine`. Called from the compute thread."""

    def begin(self, sequence: SequenceInput) -> SlicedRun: ...
    def advance(self, runs: Sequence[SlicedRun], steps: int) -> None: ...
    def finish(self, run: SlicedRun, sequence: SequenceInput) -> SequenceOutput: ...


@dataclass(slots=True, eq=False)
class _LongJob:
    job: Job
    sequence: SequenceInput
    run: SlicedRun | None = None
    started_at: float = 0.0  # in time.perf_counter's
    queue_seconds: float = 0.0
    slice_sequences: int = 1  # the most that shared a slice with it
    result: Result | Exception | None = None

    @property
    def caller(self) -> str:
        return self.job.caller

    @property
    def priority(self) -> Priority:
        return self.job.priority


_Group = Sequence[tuple[_LongJob, SlicedRun]]  # which share a slice


class SliceLane:
    """Long sequences, from when they are let in until they end."""

    def __init__(
        self,
        engine: SliceEngine,
        device: Device,
        metrics: ModelMetrics,
        work: LongWork[Job],
        pace: SlicePace,
        shares: Shares,
    ):
        """`work` is told what becomes of the sequences."""
        self._engine = engine
        self._device = device
        self._metrics = metrics
        self._work = work
        self._pace = pace
        self._new: list[_LongJob] = []  # which the compute thread does not know yet
        self._active: list[_LongJob] = []
        self._turns: LongTurns[_LongJob] = LongTurns(shares)  # of those without a result
        # Of this turn: tokens of a layer and seconds of each slice, and how many found no memory.
        self._slices: list[tuple[int, float]] = []
        self._out_of_memory = 0

    def __bool__(self) -> bool:
        return bool(self._new or self._active)

    def put(self, job: Job) -> None:
        """Compute the job's sequence, which was let in."""
        assert isinstance(job.sequence, SequenceInput)
        self._new.append(_LongJob(job, job.sequence))

    async def advance(self, slice_time: SliceTime) -> None:
        """Compute slices, having the device's turn, for as long as they may."""
        loop = asyncio.get_running_loop()
        self._active += self._new
        for long in self._new:
            self._turns.add(long)
        self._new.clear()
        now = loop.time()
        for long in self._active:
            if long.run is None:
                long.queue_seconds = now - long.job.admitted_at
        dead = [long for long in self._active if not self._is_wanted(long, now)]
        for long in dead:
            self._turns.remove(long)
        self._leave(dead)
        if not self._active:
            return
        if slice_time.at_least:  # a batch went before
            self._pace.want(time.perf_counter())
        await loop.run_in_executor(self._device.compute_thread, self._compute, slice_time)
        self._tell()
        ended = [long for long in self._active if long.result is not None]
        for long in ended:
            assert long.result is not None
            if isinstance(long.result, Result):
                self._metrics.observe_encoded(1, long.job.tokens)
                self._metrics.observe_caller(long.caller, long.job.tokens)
                self._metrics.observe_wait(long.queue_seconds)
            if isinstance(long.result, DeviceLost):
                long.job.lose(long.result)
            else:
                long.job.settle(long.result)
        self._leave(ended)
        for long in ended:
            if isinstance(long.result, DeviceLost):
                raise long.result

    def _is_wanted(self, long: _LongJob, now: float) -> bool:
        """Whether somebody waits for it who can be answered in time. If not, what was computed of
        it was for nobody."""
        if not long.job.lives(now):
            pass
        elif self._work.is_hopeless(long.job, now):
            spare(long.job, now, self._metrics)
        else:
            return True
        if long.run is not None:
            computed = long.job.tokens - long.run.tokens_left // long.run.stages
            self._metrics.observe_waste(computed, is_late=long.job.deadline <= now)
        return False

    def _tell(self) -> None:
        """Tell what was computed in this turn. Metrics and the policy are the loop's to write."""
        now = asyncio.get_running_loop().time()
        for tokens, seconds in self._slices:
            self._metrics.observe_slice(seconds)
            self._work.observe(tokens, seconds, now)
        self._slices.clear()
        for _ in range(self._out_of_memory):
            self._metrics.observe_out_of_memory()
        self._out_of_memory = 0
        for long in self._active:
            if long.run is not None:
                self._work.progress(long.job, long.run.tokens_left, long.run.stages)

    def _leave(self, ended: list[_LongJob]) -> None:
        for long in ended:
            self._active.remove(long)
            self._work.end(long.job)

    # -- in the compute thread, while the loop awaits it ------------------------------------------

    def _compute(self, slice_time: SliceTime) -> None:
        started_at = time.perf_counter()
        while True:
            work = Work("a slice", self._metrics.model, len(self._active))
            with self._device.computing.at(work):
                self._slice()
            if slice_time.is_over(time.perf_counter() - started_at, self._device.wanted):
                return
            if not self._turns:
                return

    def _slice(self) -> None:
        """Compute one slice, of the sequences that are at the same stage as the first one."""
        group = self._group()
        if not group:
            return
        left = sum(run.tokens_left for _, run in group)
        started_at = time.perf_counter()
        try:
            self._engine.advance([run for _, run in group], self._pace.steps // len(group))
        except DeviceLost as error:
            for long in self._active:
                if long.result is None:
                    self._end(long, error)
            return
        except Exception as error:
            forget_locals(error)
            self._out_of_memory += isinstance(error, OutOfMemory)
            # None of them has moved: once more, if there are fewer steps to try.
            if not (isinstance(error, OutOfMemory) and self._pace.halve()):
                self._find_guilty(group, error)
            return
        seconds = time.perf_counter() - started_at
        self._slices.append((left - sum(run.tokens_left for _, run in group), seconds))
        if self._device.wanted:
            self._pace.want(started_at)
        self._pace.observe(seconds, started_at)
        for long, run in group:
            long.slice_sequences = max(long.slice_sequences, len(group))
            if run.done:
                self._finish(long, run)

    def _group(self) -> _Group:
        """Those that share the next slice: as many as it has steps for, at the same stage."""
        group: list[tuple[_LongJob, SlicedRun]] = []
        failed: list[tuple[_LongJob, Exception]] = []
        for long in self._turns.in_order(self._pace.steps):
            try:
                run = self._running(long)
            except Exception as error:
                failed.append((long, error))
                continue
            if not group or run.stage == group[0][1].stage:
                group.append((long, run))
            if len(group) == self._pace.sequences:
                break
        for long, cause in failed:
            self._end(long, cause)
        for long, _ in group:
            self._turns.serve(long, self._pace.steps // len(group))
        return group

    def _running(self, long: _LongJob) -> SlicedRun:
        """Its run, begun if it was not. Raises what the engine does."""
        if long.run is None:
            long.started_at = time.perf_counter()
            long.run = self._engine.begin(long.sequence)
        return long.run

    def _end(self, long: _LongJob, result: Result | Exception) -> None:
        """Give a sequence its result or error. It has no more turns."""
        long.result = result
        self._turns.remove(long)

    def _finish(self, long: _LongJob, run: SlicedRun) -> None:
        try:
            output = self._engine.finish(run, long.sequence)
        except Exception as error:
            self._end(long, error)
            return
        seconds = time.perf_counter() - long.started_at
        timing = BatchTiming(long.queue_seconds, seconds, long.slice_sequences, long.job.tokens)
        self._end(long, Result(output, timing))

    def _find_guilty(self, group: _Group, error: Exception) -> None:
        """Let each of a slice that failed move by itself, so that only those at fault fail."""
        if len(group) == 1:
            self._end(group[0][0], error)
            return
        for long, run in group:
            try:
                self._engine.advance([run], SLICE_UNIT)
            except Exception as own_error:
                forget_locals(own_error)
                self._end(long, own_error)
            else:
                if run.done:
                    self._finish(long, run)
