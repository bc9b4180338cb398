"""`Computing`: closed batches on their way through the device, until their jobs are settled.

While one is computed the next one is staged. One that fails is computed in halves.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from ..engine.sequences import Input, SequenceOutput
from ..engine.staging import StagedBatch
from ..errors import DeviceLost, OutOfMemory, forget_locals
from ..metrics import ModelMetrics
from ..process.progress import Work
from .budget import TokenBudget
from .device import Device
from .forming import hopeless
from .jobs import BatchSize, BatchTiming, Job, Result, size_of, spare
from .outlook import Outlook

if TYPE_CHECKING:
    from ..tracing import BatchTrace, Tracer


_AHEAD = 2.0  # times what staging takes, for a batch that may end earlier than is likely


class ComputeEngine(Protocol):
    """What `Computing` asks of `Engine`. Called from worker threads."""

    def run(self, sequences: Sequence[Input]) -> list[SequenceOutput]: ...
    def stage(self, sequences: Sequence[Input]) -> StagedBatch: ...
    def compute(self, staged: StagedBatch) -> list[SequenceOutput]: ...


class Computing:
    """Computes batches one by one, and settles their jobs."""

    def __init__(
        self,
        engine: ComputeEngine,
        device: Device,
        metrics: ModelMetrics,
        outlook: Outlook,
        budget: TokenBudget,
        tracer: Tracer | None,
    ):
        """`outlook` is told what each batch took, and `budget` for which there was no memory."""
        self._engine = engine
        self._device = device
        self._metrics = metrics
        self._tracer = tracer
        self._outlook = outlook
        self._budget = budget
        self._halves: deque[list[Job]] = deque()  # of batches that failed
        self._ahead: tuple[list[Job], asyncio.Future[tuple[StagedBatch, float]]] | None = None
        self._size_ahead = BatchSize(0, 0, 0)  # of the batch that is staged

    @property
    def has_batch(self) -> bool:
        """Whether a batch that was closed before is still to be computed."""
        return bool(self._halves) or self._ahead is not None

    @property
    def can_stage(self) -> bool:
        """Whether a batch may be staged now: the device computes, and no other one is staged."""
        return self._ahead is None and self._device.busy

    def stage(self, jobs: list[Job], due_at: float) -> None:
        """Stage a batch, to be computed next, which was to be closed at `due_at`."""
        self._size_ahead = size_of(jobs)
        staging = asyncio.get_running_loop().run_in_executor(
            self._device.stage_thread,
            self._stage,
            [job.sequence for job in jobs],
            self._work("staging", self._size_ahead),
            due_at,
        )
        self._ahead = (jobs, staging)

    @property
    def stages_at(self) -> float:
        """When the batch that follows the one that is computed now is to be closed and staged: as
        late as can be without the device waiting for it."""
        device, staging = self._device, self._outlook.staging_seconds
        # A batch that ends too early costs no more than to stage the next one then.
        return max(device.free_from, device.free_at - _AHEAD * staging) - staging

    def seconds_ahead(self) -> float:
        """How long the batches are likely to take that were closed before."""
        ahead = 0.0 if self._ahead is None else self._seconds(self._size_ahead)
        return ahead + sum([self._seconds(size_of(jobs)) for jobs in self._halves])

    def _seconds(self, size: BatchSize) -> float:
        return self._outlook.estimate.seconds(size.longest, size.tokens)

    def expect(self, size: BatchSize) -> None:
        """Let the device know how long a batch of that size is likely to take, which is computed
        now."""
        now, seconds = asyncio.get_running_loop().time(), self._seconds(size)
        self._device.free_at = now + seconds
        self._device.free_from = now + self._outlook.estimate.earliest(seconds)

    async def next_batch(self) -> tuple[list[Job], StagedBatch | None]:
        """The living jobs of the batch that is next of those closed before, if there is one, and
        the batch as it was staged. That is None if some died since, or if staging failed: then it
        is staged anew, and whose fault it was is found out.
        """
        while self._halves:
            if jobs := self._answerable(self._halves.popleft()):
                return jobs, None
        if self._ahead is None:
            return [], None
        jobs, staging = self._ahead
        self._ahead = None
        try:
            staged, seconds = await staging
        except Exception:
            del staging  # it holds the error, and that this frame
            return self._answerable(jobs), None
        self._outlook.stage(seconds, asyncio.get_running_loop().time())
        answerable = self._answerable(jobs)
        return answerable, staged if len(answerable) == len(jobs) else None

    async def compute(self, jobs: list[Job], size: BatchSize, staged: StagedBatch | None) -> float:
        """Compute one batch and settle its jobs; returns the seconds that it took, 0 if it failed.

        Raises `DeviceLost`.
        """
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        self._outlook.begin(min([job.admitted_at for job in jobs]), started_at)
        running = loop.run_in_executor(
            self._device.compute_thread,
            self._run,
            [job.sequence for job in jobs],
            staged,
            self._work("a batch", size),
        )
        trace: BatchTrace | None = None
        if self._tracer is not None:
            trace = self._tracer.batch([job.trace for job in jobs], started_at, size.tokens)
        try:
            outputs, seconds = await running
        except Exception as error:
            if trace is not None:
                trace.end(loop.time(), type(error).__name__)
            if isinstance(error, DeviceLost):
                for job in jobs:
                    job.lose(error)
                raise
            self._outlook.fail(loop.time())
            self._fail(jobs, error)
            # The error's traceback has this frame and the engine's. It must not be reached from
            # here too: what the engine had allocated would stay while the halves are computed.
            del running, staged, jobs
            return 0.0
        if trace is not None:
            trace.end(started_at + seconds)
        queued = [started_at - job.admitted_at for job in jobs]
        ended_at = started_at + seconds
        self._outlook.end(size.longest, size.tokens, seconds, ended_at)
        encoded = zip(*(job.sequence.encoded for job in jobs), strict=True)
        self._metrics.observe_encoded(*map(sum, encoded))
        self._metrics.observe_batch(size.sequences, size.tokens, seconds, queued)
        for job, output, queue_seconds in zip(jobs, outputs, queued, strict=True):
            self._metrics.observe_caller(job.caller, job.tokens)
            job.settle(
                Result(output, BatchTiming(queue_seconds, seconds, size.sequences, size.tokens))
            )
        # Each caller that waits goes on, and writes its reply, before this is called.
        loop.call_soon(loop.call_soon, self._replied, jobs, ended_at)
        return seconds

    def _replied(self, jobs: Sequence[Job], ended_at: float) -> None:
        """Learn from when the replies of a batch were written, and count what was for nobody."""
        now = asyncio.get_running_loop().time()
        outlook = self._outlook
        outlook.reply(now - ended_at, now)
        for job in jobs:
            if job.future.cancelled() or job.deadline <= now:
                is_late = outlook.due_at(job.deadline, job.admitted_at) <= now
                self._metrics.observe_waste(job.tokens, is_late)

    def _answerable(self, jobs: Sequence[Job]) -> list[Job]:
        """Those for which somebody waits who can be answered in time."""
        now = asyncio.get_running_loop().time()
        living = [job for job in jobs if job.lives(now)]
        for job in hopeless(living, self._outlook, now):
            spare(job, now, self._metrics)
        return [job for job in living if not job.future.done()]

    def _fail(self, jobs: list[Job], error: Exception) -> None:
        """Halve a batch that failed, and try again: in the end only the jobs at fault fail.

        The halves are batches like others: models that share the device have their turns between.
        """
        if isinstance(error, OutOfMemory):
            self._lack_memory(jobs)
        if len(jobs) == 1:
            jobs[0].settle(error)
            return
        middle = len(jobs) // 2
        self._halves.extendleft((jobs[middle:], jobs[:middle]))

    def _lack_memory(self, jobs: list[Job]) -> None:
        """Count it, and let batches be smaller, unless it was one job's own fault."""
        self._metrics.observe_out_of_memory()
        if len(jobs) == 1:
            self._budget.restore()
        else:
            tokens = sum(job.tokens for job in jobs)
            self._budget.lower(tokens, asyncio.get_running_loop().time())

    def _work(self, what: str, size: BatchSize) -> Work:
        """What a watchdog is to know of a batch."""
        expected = self._seconds(size)
        return Work(what, self._metrics.model, size.sequences, size.tokens, expected)

    def _stage(
        self, sequences: list[Input], work: Work, due_at: float
    ) -> tuple[StagedBatch, float]:
        """In the stage thread: the batch, and the seconds that it took since it was due."""
        with self._device.staging.at(work):
            staged = self._engine.stage(sequences)
        return staged, time.monotonic() - due_at

    def _run(
        self, sequences: list[Input], staged: StagedBatch | None, work: Work
    ) -> tuple[list[SequenceOutput], float]:
        """In the compute thread: the outputs, and the seconds they took."""
        started_at = time.perf_counter()
        try:
            with self._device.computing.at(work):
                outputs = self._engine.compute(staged) if staged else self._engine.run(sequences)
        except Exception as error:
            forget_locals(error)  # or the halves might find its memory taken
            del staged
            raise
        if len(outputs) != len(sequences):
            raise RuntimeError(f"{len(sequences)} sequences gave {len(outputs)} outputs")
        return outputs, time.perf_counter() - started_at
