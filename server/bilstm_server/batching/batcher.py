"""`Batcher`: the asynchronous shell around one model's `BatchQueue` and `Engine`.

The event loop owns the queue, so there are no locks on it. A batch closes when the device is
free, or when it is full: while one batch computes the next one forms, and nobody waits when the
server is idle. What is too long for a batch goes to a `SliceLane`. Every job's future is settled
exactly once, each on its own.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from ..engine.engine import StagedBatch
from ..engine.sequences import Input, SequenceInput
from ..errors import Overloaded, Unavailable
from ..metrics import ModelMetrics
from ..settings import QueueLimits
from .computing import ComputeEngine, Computing
from .device import Device
from .jobs import Job, Result
from .queue import BatchQueue
from .slice_lane import SliceEngine, SliceLane

if TYPE_CHECKING:
    from ..tracing import RequestTrace, Tracer

_RETRY_SECONDS = 0.01  # at the least, before somebody who was refused comes again


class BatchEngine(ComputeEngine, SliceEngine, Protocol):
    """What the batcher asks of `Engine`. Called from worker threads."""

    def stage(self, sequences: Sequence[Input]) -> StagedBatch: ...


class Batcher:
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
        self._limits = limits
        self._queue: BatchQueue[Job] = BatchQueue(limits)
        self._long = SliceLane(engine, device, metrics, limits)
        self._arrival = asyncio.Event()
        # Of streams, those that wait to be admitted.
        self._streamed: deque[tuple[Input, float, asyncio.Future[asyncio.Future[Result]]]] = deque()
        self._callers = 0  # that wait for their results
        self._refusing = False
        self._draining = False
        self._computing = Computing(engine, device, metrics, tracer)
        self._ahead: tuple[list[Job], asyncio.Future[StagedBatch]] | None = None
        metrics.watch_queue(
            lambda: len(self._queue) + self._long.counted,
            lambda: self._queue.tokens + self._long.tokens,
            limits.max_queue_tokens,
        )

    async def submit(
        self,
        sequences: Sequence[SequenceInput],
        deadline: float = math.inf,
        trace: RequestTrace | None = None,
    ) -> list[Result]:
        """Encode `sequences`, all of one caller, in whatever batches they fall into.

        `deadline` is in the event loop's time. They are admitted together or not at all. If the
        caller is cancelled, or one of them fails, those that still wait are forgotten.

        Raises `Unavailable` when draining, `Overloaded` when they don't fit into the queue,
        `DeadlineExpired`, `OutOfMemory`, or what the engine raised for the failing one.
        """
        if self._draining:
            self.check_open()
        self.check_room(len(sequences), sum(sequence.tokens for sequence in sequences))
        jobs = self._admit(sequences, deadline, trace)
        self._stage_ahead()
        self._callers += 1
        try:
            if len(jobs) == 1:  # most requests, and they need no `gather`
                return [await jobs[0].future]
            return await asyncio.gather(*(job.future for job in jobs))
        finally:
            self._callers -= 1
            while jobs:  # none stays in this frame: an error's traceback keeps it
                job = jobs.pop()
                if not job.future.done():
                    job.future.cancel()
                self._queue.remove(job)
                del job

    @property
    def has_room(self) -> bool:
        """Whether a small call would be let in."""
        return not self._refusing and self._lack_of_room(1, 1) is None

    def check_open(self) -> None:
        """Raises `Unavailable` when calls are to be refused, whatever they bring."""
        if self._refusing:
            raise Unavailable("the server is draining; try another one")

    def check_room(self, sequences: int, tokens: int) -> None:
        """Whether so many more, of one call, may wait. Raises `Overloaded`."""
        lack = self._lack_of_room(sequences, tokens)
        if lack is not None:
            count = len(self._queue) + self._long.counted
            waiting = self._queue.tokens + self._long.tokens
            raise Overloaded(
                f"the queue is full: {count} sequences with {waiting} tokens wait, {lack}",
                retry_after_seconds=self._seconds_of_queue(),
            )

    def _lack_of_room(self, sequences: int, tokens: int) -> str | None:
        """Why so many more may not wait, if they may not."""
        if not self._queue.fits(sequences, tokens + self._long.tokens):
            return f"no room for {sequences} more with {tokens}"
        waited = self._queue.waited(asyncio.get_running_loop().time())
        to_wait = self._computing.cost.seconds(self._queue.tokens)
        if max(waited, to_wait) <= self._limits.max_queue_seconds:
            return None
        return f"for more than the {self._limits.max_queue_seconds:g} seconds that they may"

    async def enqueue(self, sequence: Input, deadline: float = math.inf) -> asyncio.Future[Result]:
        """Admit a stream's sequence as soon as the next batch is not full yet, or when it is its
        turn among the streams' sequences that wait; its result is the future's, which is to be
        cancelled if nobody waits for it any more. The future raises what `submit` does.

        Raises `Unavailable` once drained.
        """
        if self._draining:
            self.check_open()
        if self._is_long(sequence) or (not self._streamed and self._has_room(sequence)):
            future = self._admit_streamed(sequence, deadline)
            self._stage_ahead()
            return future
        turn: asyncio.Future[asyncio.Future[Result]] = asyncio.get_running_loop().create_future()
        self._streamed.append((sequence, deadline, turn))
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                turn.result().cancel()
            raise

    def _admit_streamed(self, sequence: Input, deadline: float) -> asyncio.Future[Result]:
        (job,) = self._admit([sequence], deadline, None, streamed=True)
        job.future.add_done_callback(lambda _: self._queue.remove(job))
        return job.future

    def _let_in(self) -> None:
        """A batch was closed. Of the streams' sequences that wait, those have their turn that find
        room in the next one; where calls have filled that already, half a batch of them."""
        share = max(1, self._limits.max_batch_sequences // 2)
        while self._streamed:
            sequence, deadline, turn = self._streamed[0]
            if not turn.done():
                fits = self._queue.fits(1, sequence.tokens)
                if not fits or (self._queue.full and share <= 0):
                    return
                turn.set_result(self._admit_streamed(sequence, deadline))
                share -= 1
            self._streamed.popleft()

    def _has_room(self, sequence: Input) -> bool:
        return not self._queue.full and self._queue.fits(1, sequence.tokens)

    def _is_long(self, sequence: Input) -> bool:
        return sequence.tokens > self._limits.whole_tokens and isinstance(sequence, SequenceInput)

    def _admit(
        self,
        sequences: Sequence[Input],
        deadline: float,
        trace: RequestTrace | None,
        streamed: bool = False,
    ) -> list[Job]:
        """Let the sequences wait; `streamed`: they hold memory of streams, not of the queue."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        jobs = [Job(s, loop.create_future(), now, deadline, trace) for s in sequences]
        if trace is not None:
            trace.admit(len(jobs), sum(job.tokens for job in jobs), now)
        short = []
        for job in jobs:
            if self._is_long(job.sequence) and isinstance(job.sequence, SequenceInput):
                self._long.put(job, job.sequence, counted=not streamed)
            else:
                short.append(job)
        self._queue.put(short)
        self._arrival.set()
        self._device.arrive()
        return jobs

    def _seconds_of_queue(self) -> float:
        """About how long what waits will take, streams' long sequences included, and one batch at
        least."""
        per_token = self._computing.cost.seconds_per_token
        seconds = self._queue.tokens * per_token + self._long.seconds(per_token)
        return max(seconds, self._computing.seconds, _RETRY_SECONDS)

    @property
    def idle(self) -> bool:
        """Whether all that was admitted has ended."""
        return not self._callers

    def refuse(self) -> None:
        """Let no more calls in. What streams have still comes, and the calls that are there."""
        self._refusing = True
        self._arrival.set()

    def drain(self) -> None:
        """Nothing comes any more; `run` returns when all that was admitted is done."""
        self._refusing = self._draining = True
        self._arrival.set()

    async def run(self) -> None:
        """Form and compute batches, and slices of what is long, until drained."""
        while await self._wait_for_work():
            async with self._device.turn():
                seconds = await self._next_batch() if self._is_due() else 0.0
                if self._long:
                    await self._long.advance(seconds)

    def _is_due(self) -> bool:
        """Whether a batch may be closed now."""
        if self._computing.again or self._ahead is not None:
            return True
        due_at = self._queue.due_at()
        if due_at is None:
            return False
        return self._refusing or due_at <= asyncio.get_running_loop().time()

    async def _wait_for_work(self) -> bool:
        """Return when a batch or a slice is due: True, or False if drained."""
        loop = asyncio.get_running_loop()
        while not self._is_due() and not self._long:
            self._let_in()  # all that waited before may have left
            due_at = self._queue.due_at()
            if due_at is None and self._draining:
                return False
            self._arrival.clear()
            try:
                async with asyncio.timeout(None if due_at is None else due_at - loop.time()):
                    await self._arrival.wait()
            except TimeoutError:
                return True
        return True

    async def _next_batch(self) -> float:
        """Compute one; returns the seconds that it took."""
        if self._computing.again:
            jobs, staged = self._living(self._computing.again.popleft()), None
        else:
            jobs, staged = await self._staged_ahead()
            jobs = jobs or self._take()
        if not jobs:
            return 0.0
        self._stage_ahead()
        return await self._computing.compute(jobs, staged)

    def _take(self) -> list[Job]:
        """Close a batch: whoever waits first, less the dead."""
        jobs, expired = self._queue.take(asyncio.get_running_loop().time())
        for job in expired:
            job.expire()
        self._let_in()
        return [job for job in jobs if not job.future.done()]

    def _stage_ahead(self) -> None:
        """While a batch computes, stage the next one if it is full: it can't grow any more."""
        if self._ahead is None and self._device.busy and self._queue.full:
            jobs = self._take()
            if jobs:
                sequences = [job.sequence for job in jobs]
                staging = asyncio.get_running_loop().run_in_executor(
                    self._device.stage_thread, self._engine.stage, sequences
                )
                self._ahead = (jobs, staging)

    async def _staged_ahead(self) -> tuple[list[Job], StagedBatch | None]:
        """The living jobs of the batch that was closed ahead, if any, and the batch as staged.

        If some died since, or staging failed, the rest is to be staged anew.
        """
        if self._ahead is None:
            return [], None
        jobs, staging = self._ahead
        self._ahead = None
        try:
            staged = await staging
        except Exception:
            del staging  # it holds the error, and that this frame
            return self._living(jobs), None  # computing it finds out whose fault it is
        living = self._living(jobs)
        return living, staged if len(living) == len(jobs) else None

    def _living(self, jobs: Sequence[Job]) -> list[Job]:
        now = asyncio.get_running_loop().time()
        return [job for job in jobs if job.lives(now)]
