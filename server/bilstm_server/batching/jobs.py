"""`Job`: one sequence on its way, and what becomes of it. Each is settled exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ..callers import Priority
from ..engine.sequences import Input, SequenceOutput
from ..errors import DeadlineExpired, DeviceLost
from ..metrics import ModelMetrics
from .admission import Kind

if TYPE_CHECKING:
    from ..tracing import RequestTrace


@dataclass(frozen=True, slots=True)
class BatchTiming:
    """Where one sequence's time went."""

    queue_seconds: float
    compute_seconds: float
    batch_sequences: int
    batch_tokens: int


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What one sequence asked for, and where its time went."""

    output: SequenceOutput
    timing: BatchTiming


@dataclass(slots=True, eq=False)
class Job:
    """One sequence that waits or is computed. Times are the event loop's."""

    sequence: Input
    tokens: int  # the sequence's
    kind: Kind
    is_long: bool
    caller: str
    priority: Priority
    deadline: float
    future: asyncio.Future[Result]
    trace: RequestTrace | None = None
    # The jobs of its call, this one too, until the call ends: they have their results together.
    call: Sequence[Job] = ()
    behind: int = 0  # tokens of those that come after it there
    admitted_at: float = 0.0  # once `Admission` has let it in

    def settle(self, result: Result | Exception) -> None:
        """Give the caller its result or error, unless it has left."""
        if self.future.done():
            return
        if isinstance(result, Exception):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)

    def lose(self, error: DeviceLost) -> None:
        """Tell a call that its device is lost. A stream is not told of one sequence: it is ended as
        a whole, and its client sends what is left of it to another server."""
        if self.kind is Kind.CALL:
            self.settle(error)

    def lives(self, now: float) -> bool:
        """Whether somebody still waits for it. If its deadline has passed, it expires here."""
        if self.deadline <= now:
            self.expire(now)
        return not self.future.done()

    def expire(self, now: float) -> None:
        """Tell the caller that the deadline has passed, or will have before there is a result."""
        left = self.deadline - now
        self.settle(
            DeadlineExpired(
                "the deadline passed while the request waited"
                if left <= 0.0
                else f"the result would come too late: {1e3 * left:.0f} ms are left"
            )
        )


class BatchSize(NamedTuple):
    """How large a batch is."""

    sequences: int
    longest: int  # the steps of its longest sequence
    tokens: int  # of all


def size_of(jobs: Sequence[Job]) -> BatchSize:
    """The size of a batch of these."""
    tokens = [job.tokens for job in jobs]
    return BatchSize(len(tokens), max(tokens), sum(tokens))


def spare(job: Job, now: float, metrics: ModelMetrics) -> None:
    """Expire a job that would be computed for nobody, and the others of its call with it."""
    for each in job.call or (job,):
        if not each.future.done():
            metrics.observe_spared(each.tokens)
            each.expire(now)
