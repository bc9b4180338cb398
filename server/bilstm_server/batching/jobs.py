"""`Job`: one sequence on its way, and what becomes of it. Each is settled exactly once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..engine.sequences import Input, SequenceOutput
from ..errors import DeadlineExpired

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
    output: SequenceOutput
    timing: BatchTiming


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    sequence: Input
    future: asyncio.Future[Result]
    admitted_at: float
    deadline: float
    trace: RequestTrace | None = None

    @property
    def tokens(self) -> int:
        return self.sequence.tokens

    def settle(self, result: Result | Exception) -> None:
        """Give the caller its result or error, unless it has left."""
        if self.future.done():
            return
        if isinstance(result, Exception):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)

    def lives(self, now: float) -> bool:
        """Whether somebody still waits for it; one whose deadline has passed is told so."""
        if self.deadline <= now:
            self.expire()
        return not self.future.done()

    def expire(self) -> None:
        self.settle(DeadlineExpired("the deadline passed while the request waited"))
