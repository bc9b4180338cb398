"""`Batcher`: the asynchronous shell around one model's `Admission` and `Engine`.

The event loop owns what waits, so there are no locks on it. A batch closes when the device is free,
or when it is full: while one batch computes the next one forms, and nobody waits when the server is
idle. What is too long for a batch goes to a `SliceLane`. Every job's future is settled exactly
once, each on its own.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from ..callers import Priority
from ..engine.sequences import Input, SequenceInput
from ..errors import DRAINING, Failed, ServiceError
from ..metrics import ModelMetrics
from ..settings import QueueLimits
from .admission import Admission, Kind
from .computing import ComputeEngine, Computing
from .device import Device
from .intake import Intake
from .jobs import Job, Result, size_of, spare
from .pace import SlicePace
from .slice_lane import SliceEngine, SliceLane

if TYPE_CHECKING:
    from ..tracing import RequestTrace, Tracer


class BatchEngine(ComputeEngine, SliceEngine, Protocol):
    """What the batcher asks of `Engine`. Called from worker threads."""


class Batcher(Intake):
    """Coalesces the sequences of all callers of one model."""

    def __init__(
        self,
        engine: BatchEngine,
        limits: QueueLimits,
        device: Device,
        metrics: ModelMetrics,
        tracer: Tracer | None = None,
    ):
        self._engine = engine
        self._device = device
        self._max_whole_tokens = limits.whole_tokens
        self._admission: Admission[Job] = Admission(limits)
        self._metrics = metrics
        outlook, budget = self._admission.outlook, self._admission.budget
        self._computing = Computing(engine, device, metrics, outlook, budget, tracer)
        pace = SlicePace(limits.slice_seconds, limits.max_batch_sequences)
        shares = self._admission.shares
        self._lane = SliceLane(engine, device, metrics, self._admission.long_work, pace, shares)
        self._arrival = asyncio.Event()
        self._jobs: set[Job] = set()  # that have not ended
        self._turns: dict[Job, asyncio.Future[None]] = {}  # of streams' jobs that are not let in
        self._calls = 0  # that wait for their results
        self._timer: asyncio.TimerHandle | None = None  # for when the next batch is to be staged
        metrics.watch_queue(
            lambda: self._admission.sequences,
            lambda: self._admission.tokens,
            limits.max_queue_tokens,
        )
        metrics.watch_budget(lambda: budget.tokens(time.monotonic()))

    # -- what comes -------------------------------------------------------------------------------

    def refusal(self, caller: str, priority: Priority) -> ServiceError | None:
        now = asyncio.get_running_loop().time()
        return self._admission.refusal_at_door(caller, priority, now)

    async def submit(
        self,
        sequences: Sequence[SequenceInput],
        deadline: float = math.inf,
        trace: RequestTrace | None = None,
        caller: str = "",
        priority: Priority = Priority.NORMAL,
    ) -> list[Result]:
        now = asyncio.get_running_loop().time()
        each = [sequence.tokens for sequence in sequences]
        tokens = sum(each)
        refusal = self._admission.refusal(len(each), tokens, caller, priority, now)
        if refusal is not None:
            raise refusal
        if deadline < math.inf:
            self._check_deadline(each, caller, priority, deadline, now)
        jobs = [self._job(s, Kind.CALL, caller, priority, deadline, trace) for s in sequences]
        if len(jobs) > 1:
            _tie(jobs)
        if trace is not None:
            trace.admit(len(jobs), tokens, now)
        self._admission.admit(jobs, now)
        self._arrive(jobs)
        self._stage_ahead()
        self._calls += 1
        try:
            if len(jobs) == 1:  # most requests, and they need no `gather`
                return [await jobs[0].future]
            return await asyncio.gather(*(job.future for job in jobs))
        finally:
            self._calls -= 1
            while jobs:  # none stays in this frame: an error's traceback keeps it
                job = jobs.pop()
                self._jobs.discard(job)
                future = job.future
                if future.cancel() or future.cancelled() or future.exception() is not None:
                    self._admission.withdraw(job)
                del job, future

    async def enqueue(
        self,
        sequence: Input,
        deadline: float = math.inf,
        caller: str = "",
        priority: Priority = Priority.NORMAL,
    ) -> asyncio.Future[Result]:
        refusal = self._admission.refusal_of_stream()
        if refusal is not None:
            raise refusal
        loop = asyncio.get_running_loop()
        job = self._job(sequence, Kind.STREAM, caller, priority, deadline)
        job.future.add_done_callback(lambda _: self._forget(job))
        if self._admission.offer(job, loop.time()):
            self._arrive([job])
            self._stage_ahead()
            return job.future
        self._turns[job] = loop.create_future()
        try:
            await self._turns[job]
        except asyncio.CancelledError:
            self._admission.withdraw(job)
            job.future.cancel()
            raise
        finally:
            del self._turns[job]
        return job.future

    def _check_deadline(
        self, tokens: Sequence[int], caller: str, priority: Priority, deadline: float, now: float
    ) -> None:
        """Raises `DeadlineExpired` for sequences that are known not to be computed in time."""
        free_at = max(self._device.free_at, now) + self._computing.seconds_ahead()
        lateness = self._admission.lateness.of_call(
            tokens, caller, priority, deadline, free_at, now
        )
        if lateness is not None:
            self._metrics.observe_spared(sum(tokens))
            raise lateness

    def _job(
        self,
        sequence: Input,
        kind: Kind,
        caller: str,
        priority: Priority,
        deadline: float,
        trace: RequestTrace | None = None,
    ) -> Job:
        tokens = sequence.tokens
        is_long = tokens > self._max_whole_tokens and isinstance(sequence, SequenceInput)
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        job = Job(sequence, tokens, kind, is_long, caller, priority, deadline, future, trace)
        self._jobs.add(job)
        return job

    def _forget(self, job: Job) -> None:
        """Let go of a stream's job, which has ended."""
        self._jobs.discard(job)
        self._admission.withdraw(job)

    def _end_turns(self, jobs: Iterable[Job]) -> None:
        """Let the streams go on whose jobs were let in."""
        for job in jobs:
            turn = self._turns[job]
            if not turn.done():
                turn.set_result(None)
        self._arrive(jobs)

    def _arrive(self, jobs: Iterable[Job]) -> None:
        """Begin to compute what was let in, as soon as it may be."""
        for job in jobs:
            if job.is_long:
                self._lane.put(job)
        self._arrival.set()
        self._device.arrive()

    # -- the end ----------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        return not self._calls

    def refuse(self) -> None:
        self._admission.refuse()
        self._arrival.set()

    def drain(self, because: str = DRAINING) -> None:
        self._admission.drain(because)
        self._arrival.set()

    def fail(self, error: Failed) -> None:
        self.drain(str(error))
        for job in list(self._jobs):
            job.settle(error)
        for turn in self._turns.values():
            if not turn.done():
                turn.set_result(None)  # their futures have the error

    # -- batches ----------------------------------------------------------------------------------

    async def run(self) -> None:
        while await self._wait_for_work():
            async with self._device.turn():
                seconds = await self._next_batch() if self._is_due() else 0.0
                if self._lane:
                    await self._lane.advance(self._admission.slice_time(seconds))

    def _is_due(self) -> bool:
        """Whether a batch may be closed now."""
        return self._computing.has_batch or self._admission.is_due(
            asyncio.get_running_loop().time()
        )

    async def _wait_for_work(self) -> bool:
        """Return when a batch or a slice is due: True, or False if drained."""
        loop = asyncio.get_running_loop()
        while not self._is_due() and not self._lane:
            self._end_turns(self._admission.admit_streams(loop.time()))  # if all before them left
            due_at = self._admission.due_at()
            if due_at is None and self._admission.is_drained:
                return False
            self._arrival.clear()
            timer = None if due_at is None else loop.call_at(due_at, self._arrival.set)
            try:
                await self._arrival.wait()
            finally:
                if timer is not None:
                    timer.cancel()
        return True

    async def _next_batch(self) -> float:
        """Compute a batch; returns the seconds that it took, 0 if there was none."""
        jobs, staged = await self._computing.next_batch()
        jobs = jobs or self._close_batch()
        if not jobs:
            return 0.0
        size = size_of(jobs)
        self._computing.expect(size)
        self._stage_ahead()
        return await self._computing.compute(jobs, size, staged)

    def _close_batch(self, free_at: float = -math.inf) -> list[Job]:
        """Close a batch that is computed when the device is free; returns those of its jobs that
        somebody still waits for."""
        now = asyncio.get_running_loop().time()
        closed = self._admission.close_batch(now, free_at)
        for job in closed.expired:
            spare(job, now, self._metrics)
        self._end_turns(closed.admitted)
        return [job for job in closed.jobs if not job.future.done()]

    def _stage_ahead(self, due_at: float | None = None) -> None:
        """While a batch computes, stage the next one if it is full, as late as can be: until then
        others may come whose turn is earlier. It was due at that time, or now."""
        if not (self._computing.can_stage and self._admission.is_full):
            return
        loop = asyncio.get_running_loop()
        now, stages_at = loop.time(), self._computing.stages_at
        if now < stages_at != due_at:
            if self._timer is None or self._timer.when() != stages_at:
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = loop.call_at(stages_at, self._stage_ahead, stages_at)
            return
        jobs = self._close_batch(self._device.free_at)
        if jobs:
            self._computing.stage(jobs, now if due_at is None else due_at)


def _tie(jobs: Sequence[Job]) -> None:
    """Let the jobs of one call know of each other: a call has all of its results, or fails."""
    behind = 0
    for job in reversed(jobs):
        job.call, job.behind = jobs, behind
        if not job.is_long:
            behind += job.tokens
