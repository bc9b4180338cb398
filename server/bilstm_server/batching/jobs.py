"""`Job`: one sequence on its way, and what becomes of it. Each is settled exactly once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..callers import Priority
from ..engine.sequences import Input, SequenceOutput
from ..errors import DeadlineExpired, DeviceLost
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
            self.expire()
        return not self.future.done()

    def expire(self) -> None:
        """Tell the caller that the deadline has passed."""
        self.settle(DeadlineExpired("the deadline passed while the request waited"))
