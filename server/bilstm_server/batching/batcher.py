"""`Batcher`: the asynchronous shell around one model's `BatchQueue` and `Engine`.

The event loop owns the queue, so there are no locks on it. A batch closes when the device is
free, or when it is full: while one batch computes the next one forms, and nobody waits when the
server is idle. Every job's future is settled exactly once, each on its own.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from ..errors import DeadlineExpired, Overloaded, Unavailable
from ..metrics import ModelMetrics
from .engine import StagedBatch
from .queue import BatchQueue, QueueLimits
from .sequence import SequenceInput, SequenceOutput

if TYPE_CHECKING:
    from ..tracing import BatchTrace, RequestTrace, Tracer

_RETRY_SECONDS = 0.01  # at the least, before somebody who was refused comes again
_GUESSED_SECONDS = 0.5  # for a batch, until there was one


class BatchEngine(Protocol):
    """What the batcher asks of `Engine`. Called from worker threads."""

    def run(self, sequences: Sequence[SequenceInput]) -> list[SequenceOutput]: ...
    def stage(self, sequences: Sequence[SequenceInput]) -> StagedBatch: ...
    def compute(self, staged: StagedBatch) -> list[SequenceOutput]: ...


@dataclass(frozen=True, slots=True)
class BatchTiming:
    """Where one sequence's time went."""

    queue_seconds: float
    compute_seconds: float
    batch_sequences: int
    batch_tokens: int


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    output: SequenceOutput
    timing: BatchTiming


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    sequence: SequenceInput
    future: asyncio.Future[Result]
    admitted_at: float
    deadline: float
    trace: RequestTrace | None

    @property
    def tokens(self) -> int:
        return self.sequence.tokens


class Device:
    """The worker threads of one device, shared by all models on it.

    One thread computes; the lock hands it to the models in turn, so that each closes its batch
    as late as it can. Another one stages meanwhile.
    """

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.compute_thread = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self.stage_thread = ThreadPoolExecutor(1, thread_name_prefix="stage")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Without waiting: what computes now, nobody waits for any more.
        self.compute_thread.shutdown(wait=False, cancel_futures=True)
        self.stage_thread.shutdown(wait=False, cancel_futures=True)


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
        self._tracer = tracer
        self._engine = engine
        self._device = device
        self._metrics = metrics
        self._queue: BatchQueue[_Job] = BatchQueue(limits)
        self._arrival = asyncio.Event()
        self._callers = 0  # that wait for their results
        self._draining = False
        self._again: deque[list[_Job]] = deque()  # parts of batches that failed
        self._ahead: tuple[list[_Job], asyncio.Future[StagedBatch]] | None = None
        self._seconds = _GUESSED_SECONDS  # that the last batch took
        self._seconds_per_token = 0.0
        metrics.watch_queue(
            lambda: len(self._queue), lambda: self._queue.tokens, limits.max_queue_tokens
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
            raise Unavailable("the server is draining; try another one")
        tokens = sum(sequence.tokens for sequence in sequences)
        if not self._queue.fits(len(sequences), tokens):
            raise Overloaded(
                f"the queue is full: {len(self._queue)} sequences with {self._queue.tokens} tokens "
                f"wait, no room for {len(sequences)} more with {tokens}",
                retry_after_seconds=self._seconds_of_queue(),
            )
        loop = asyncio.get_running_loop()
        now = loop.time()
        jobs = [_Job(s, loop.create_future(), now, deadline, trace) for s in sequences]
        if trace is not None:
            trace.admit(len(jobs), tokens, now)
        self._queue.put(jobs)
        self._arrival.set()
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

    def _seconds_of_queue(self) -> float:
        """About how long what waits will take, and one batch at least."""
        return max(self._queue.tokens * self._seconds_per_token, self._seconds, _RETRY_SECONDS)

    @property
    def idle(self) -> bool:
        """Whether all that was admitted has ended."""
        return not self._callers

    def drain(self) -> None:
        """Refuse what comes from now on; `run` returns when all that was admitted is done."""
        self._draining = True
        self._arrival.set()

    async def run(self) -> None:
        """Form and compute batches until drained."""
        while await self._wait_for_work():
            async with self._device.turn:
                await self._next_batch()

    async def _wait_for_work(self) -> bool:
        """Return when a batch is due: True, or False if drained."""
        loop = asyncio.get_running_loop()
        while not self._again and self._ahead is None:
            due_at = self._queue.due_at()
            if due_at is None and self._draining:
                return False
            wait = math.inf if due_at is None else due_at - loop.time()
            if wait <= 0 or (self._draining and due_at is not None):
                return True
            self._arrival.clear()
            try:
                async with asyncio.timeout(None if wait == math.inf else wait):
                    await self._arrival.wait()
            except TimeoutError:
                return True
        return True

    async def _next_batch(self) -> None:
        if self._again:
            jobs, staged = self._living(self._again.popleft()), None
        else:
            jobs, staged = await self._staged_ahead()
            jobs = jobs or self._take()
        if jobs:
            await self._compute(jobs, staged)

    def _take(self) -> list[_Job]:
        """Close a batch: whoever waits first, less the dead."""
        jobs, expired = self._queue.take(asyncio.get_running_loop().time())
        for job in expired:
            _expire(job)
        return [job for job in jobs if not job.future.done()]

    def _stage_ahead(self) -> None:
        """While a batch computes, stage the next one if it is full: it can't grow any more."""
        if self._ahead is None and self._device.turn.locked() and self._queue.full:
            jobs = self._take()
            if jobs:
                sequences = [job.sequence for job in jobs]
                staging = asyncio.get_running_loop().run_in_executor(
                    self._device.stage_thread, self._engine.stage, sequences
                )
                self._ahead = (jobs, staging)

    async def _staged_ahead(self) -> tuple[list[_Job], StagedBatch | None]:
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

    def _living(self, jobs: Sequence[_Job]) -> list[_Job]:
        now = asyncio.get_running_loop().time()
        for job in jobs:
            if job.deadline <= now:
                _expire(job)
        return [job for job in jobs if not job.future.done()]

    async def _compute(self, jobs: list[_Job], staged: StagedBatch | None = None) -> None:
        """Compute one batch and settle its jobs."""
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        running = loop.run_in_executor(
            self._device.compute_thread, self._run, [job.sequence for job in jobs], staged
        )
        self._stage_ahead()
        tokens = sum(job.tokens for job in jobs)
        trace: BatchTrace | None = None
        if self._tracer is not None:
            trace = self._tracer.batch([job.trace for job in jobs], started_at, tokens)
        try:
            outputs, seconds = await running
        except Exception as error:
            if trace is not None:
                trace.end(loop.time(), type(error).__name__)
            self._fail(jobs, error)
            # The error's traceback has this frame and the engine's. It must not be reached from
            # here too: what the engine had allocated would stay while the halves are computed.
            del running, staged, jobs
            return
        if trace is not None:
            trace.end(started_at + seconds)
        queued = [started_at - job.admitted_at for job in jobs]
        self._seconds = seconds
        self._seconds_per_token = seconds / tokens
        self._metrics.observe_batch(len(jobs), tokens, seconds, queued)
        for job, output, queue_seconds in zip(jobs, outputs, queued, strict=True):
            _settle(job, Result(output, BatchTiming(queue_seconds, seconds, len(jobs), tokens)))

    def _fail(self, jobs: list[_Job], error: Exception) -> None:
        """Halve a batch that failed, and try again: in the end only the jobs at fault fail.

        The halves are batches like others: models that share the device have their turns between.
        """
        if len(jobs) == 1:
            _settle(jobs[0], error)
            return
        middle = len(jobs) // 2
        self._again.extendleft((jobs[middle:], jobs[:middle]))

    def _run(
        self, sequences: list[SequenceInput], staged: StagedBatch | None
    ) -> tuple[list[SequenceOutput], float]:
        """In the compute thread: the outputs, and the seconds they took."""
        started_at = time.perf_counter()
        outputs = self._engine.compute(staged) if staged else self._engine.run(sequences)
        if len(outputs) != len(sequences):
            raise RuntimeError(f"{len(sequences)} sequences gave {len(outputs)} outputs")
        return outputs, time.perf_counter() - started_at


def _settle(job: _Job, result: Result | Exception) -> None:
    """Give the caller its result or error, unless it has left."""
    if job.future.done():
        return
    if isinstance(result, Exception):
        job.future.set_exception(result)
    else:
        job.future.set_result(result)


def _expire(job: _Job) -> None:
    _settle(job, DeadlineExpired("the deadline passed while the request waited"))
