"""`SliceLane`: the long sequences of one model, computed a slice of steps at a time.

What is short goes first: between two batches a long sequence has a share of the device, and all of
it as long as nothing else waits. Long sequences at the same layer share their slices.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..engine.sequences import SequenceInput, SequenceOutput
from ..errors import DeviceLost, OutOfMemory, forget_locals
from ..metrics import ModelMetrics
from ..model.incremental.slices import SLICE_UNIT, SlicedRun
from ..settings import QueueLimits
from .device import Device
from .jobs import BatchTiming, Job, Result

_MAX_SECONDS = 0.05  # of slices in a row; then callers that left, and other models, have a say
_SHARE = 0.25  # of a batch's time, for the slices that follow it
_MAX_ROWS = 256 * SLICE_UNIT  # steps of all sequences in a slice
_QUIET_SECONDS = 1.0  # without anything short, after which slices may take longer
_QUIET_FACTOR = 10.0


class SliceEngine(Protocol):
    """What the lane asks of `Engine`. Called from the compute thread."""

    def begin(self, sequence: SequenceInput) -> SlicedRun: ...
    def advance(self, runs: Sequence[SlicedRun], steps: int) -> None: ...
    def finish(self, run: SlicedRun, sequence: SequenceInput) -> SequenceOutput: ...


@dataclass(slots=True, eq=False)
class _Long:
    job: Job
    sequence: SequenceInput
    counted: bool  # its tokens, among those that wait
    run: SlicedRun | None = None
    started_at: float = 0.0  # in time.perf_counter's
    queue_seconds: float = 0.0
    most: int = 1  # sequences that shared a slice with it
    result: Result | Exception | None = None


class SliceLane:
    def __init__(
        self,
        engine: SliceEngine,
        device: Device,
        metrics: ModelMetrics,
        limits: QueueLimits,
    ):
        self._engine = engine
        self._device = device
        self._metrics = metrics
        self._limits = limits
        self._rows = SLICE_UNIT  # steps in a slice, as the last ones' time suggests
        self._wanted_at = -math.inf  # when something short came last, by time.perf_counter
        self._seconds_per_token = 0.0  # of a layer, as the last slice took
        self._layers = 1  # of the model, once it is known
        self._all: set[_Long] = set()  # for the loop; the compute thread has those below
        self._waiting: list[_Long] = []  # the compute thread is not told of them yet
        self._active: deque[_Long] = deque()  # the one whose turn it is first
        self._seconds: list[float] = []  # of the slices of this turn
        self.counted = 0  # sequences that were put so
        self.tokens = 0  # theirs

    def __bool__(self) -> bool:
        return bool(self._waiting or self._active)

    def seconds(self, batch_seconds_per_token: float) -> float:
        """About how long what there is will take; the first slice as a batch would."""
        per_token = self._seconds_per_token or batch_seconds_per_token / self._layers
        tokens = sum(
            self._layers * long.job.tokens if long.run is None else long.run.tokens_left
            for long in self._all
        )
        return tokens * per_token

    def put(self, job: Job, sequence: SequenceInput, counted: bool) -> None:
        """`counted`: its tokens take room of the queue until it ends."""
        long = _Long(job, sequence, counted)
        self._all.add(long)
        self._waiting.append(long)
        if counted:
            self.counted += 1
            self.tokens += job.tokens

    async def advance(self, after_seconds: float) -> None:
        """Compute slices, having the device's turn. If a batch went before, `after_seconds` long,
        for a share of that; otherwise until the device is wanted."""
        loop = asyncio.get_running_loop()
        self._active += self._waiting
        self._waiting.clear()
        now = loop.time()
        for long in self._active:
            if long.run is None:
                long.queue_seconds = now - long.job.admitted_at
        self._leave([long for long in self._active if not long.job.lives(now)])
        if not self._active:
            return
        if after_seconds:
            self._wanted_at = time.perf_counter()
        at_least = min(_SHARE * after_seconds, _MAX_SECONDS)
        await loop.run_in_executor(self._device.compute_thread, self._compute, at_least)
        for seconds in self._seconds:  # here: metrics are the loop's to write
            self._metrics.observe_slice(seconds)
        self._seconds.clear()
        ended = [long for long in self._active if long.result is not None]
        for long in ended:
            assert long.result is not None
            if isinstance(long.result, Result):
                self._metrics.observe_encoded(1, long.job.tokens)
                self._metrics.observe_wait(long.queue_seconds)
            long.job.settle(long.result)
        self._leave(ended)
        for long in ended:
            if isinstance(long.result, DeviceLost):
                raise long.result

    def _leave(self, ended: list[_Long]) -> None:
        for long in ended:
            self._all.discard(long)
            self._active.remove(long)
            if long.counted:
                self.counted -= 1
                self.tokens -= long.job.tokens

    # -- in the compute thread, while the loop awaits it ------------------------------------------

    def _compute(self, at_least: float) -> None:
        started_at = time.perf_counter()
        while True:
            self._slice()
            elapsed = time.perf_counter() - started_at
            if elapsed >= _MAX_SECONDS or (self._device.wanted and elapsed >= at_least):
                return
            if all(long.result is not None for long in self._active):
                return

    def _slice(self) -> None:
        """One slice, of the sequences that are at the same layer as the first one."""
        group = self._group()
        if not group:
            return
        left = sum(run.tokens_left for _, run in group)
        started_at = time.perf_counter()
        try:
            self._engine.advance([run for _, run in group], self._rows // len(group))
        except DeviceLost as error:
            for long in self._active:
                long.result = long.result or error
            return
        except Exception as error:
            forget_locals(error)
            if isinstance(error, OutOfMemory) and self._rows > SLICE_UNIT:
                self._rows = max(self._rows // 2, SLICE_UNIT)  # none has moved: once more
            else:
                self._fail(group, error)
            return
        seconds = time.perf_counter() - started_at
        self._seconds.append(seconds)
        self._adapt(seconds, started_at)
        if done := left - sum(run.tokens_left for _, run in group):
            self._seconds_per_token = seconds / done
        for long, run in group:
            long.most = max(long.most, len(group))
            if run.done:
                self._finish(long, run)

    def _group(self) -> list[tuple[_Long, SlicedRun]]:
        """As many as a slice has rows for; their next turn is behind the others'."""
        most = min(max(self._rows // SLICE_UNIT, 1), self._limits.max_batch_sequences)
        group: list[tuple[_Long, SlicedRun]] = []
        others: list[_Long] = []
        for _ in range(len(self._active)):
            if len(group) == most:
                break
            long = self._active.popleft()
            run = self._running(long)
            if run is None or (group and run.layer != group[0][1].layer):
                others.append(long)
            else:
                group.append((long, run))
        self._active.extendleft(reversed(others))
        self._active.extend(long for long, _ in group)
        return group

    def _adapt(self, seconds: float, now: float) -> None:
        """The next slice's rows, so that it takes the time that it may."""
        if self._device.wanted:
            self._wanted_at = now
        quiet = now - self._wanted_at > _QUIET_SECONDS
        target = self._limits.slice_seconds * (_QUIET_FACTOR if quiet else 1.0)
        rows = int(self._rows * min(max(target / seconds, 0.5), 2.0))
        self._rows = min(max(rows, SLICE_UNIT), _MAX_ROWS)

    def _running(self, long: _Long) -> SlicedRun | None:
        """Its run, begun if it was not; None if it has a result."""
        if long.run is None and long.result is None:
            long.started_at = time.perf_counter()
            try:
                long.run = self._engine.begin(long.sequence)
                self._layers = len(long.run.layers)
            except Exception as error:
                long.result = error
        return None if long.result is not None else long.run

    def _finish(self, long: _Long, run: SlicedRun) -> None:
        try:
            output = self._engine.finish(run, long.sequence)
        except Exception as error:
            long.result = error
            return
        seconds = time.perf_counter() - long.started_at
        timing = BatchTiming(long.queue_seconds, seconds, long.most, long.job.tokens)
        long.result = Result(output, timing)

    def _fail(self, group: list[tuple[_Long, SlicedRun]], error: Exception) -> None:
        """None of them has moved. Each moves by itself, so that only those at fault fail."""
        if len(group) == 1:
            group[0][0].result = error
            return
        for long, run in group:
            try:
                self._engine.advance([run], SLICE_UNIT)
            except Exception as own_error:
                forget_locals(own_error)
                long.result = own_error
            else:
                if run.done:
                    self._finish(long, run)
