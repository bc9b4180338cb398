"""`Intake`: where sequences are handed in to be computed by one model, and how that ends.

All that the rooms above use of a `Batcher`. What is behind it may be another process.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from ..callers import Priority
from ..engine.sequences import Input, SequenceInput
from ..errors import DRAINING, Failed, ServiceError
from .jobs import Result

if TYPE_CHECKING:
    from ..tracing import RequestTrace


class Intake(Protocol):
    """Takes in the sequences of all callers of one model. Used in one event loop; deadlines are in
    its time. A `caller` is any text by which those are told apart who share the device.
    """

    def refusal(self, caller: str, priority: Priority) -> ServiceError | None:
        """What a call of one short sequence of that caller would be told now: `Unavailable`,
        `Overloaded`, or None if it has room.
        """
        ...

    async def submit(
        self,
        sequences: Sequence[SequenceInput],
        deadline: float = math.inf,
        trace: RequestTrace | None = None,
        caller: str = "",
        priority: Priority = Priority.NORMAL,
    ) -> list[Result]:
        """Encode the sequences of one call, in whatever batches they fall into.

        They are let in together or not at all. If the caller is cancelled, or one of them fails,
        those that still wait are forgotten.

        Raises `Unavailable` when drained, `Overloaded` when they don't fit into the queue,
        `DeadlineExpired`, `OutOfMemory`, or what the engine raised for the one that failed.
        """
        ...

    async def enqueue(
        self,
        sequence: Input,
        deadline: float = math.inf,
        caller: str = "",
        priority: Priority = Priority.NORMAL,
    ) -> asyncio.Future[Result]:
        """Let a stream's sequence in, once it is its turn. Its result is the future's, which is to
        be cancelled if nobody waits for it any more. The future raises what `submit` does.

        Raises `Unavailable` when drained.
        """
        ...

    @property
    def idle(self) -> bool:
        """Whether no call waits for its results."""
        ...

    def refuse(self) -> None:
        """Have no more room. Calls that were not refused before may still come, and what streams
        still have.
        """
        ...

    def drain(self, because: str = DRAINING) -> None:
        """Let nothing in any more: what comes gets `Unavailable` with the words of `because`. `run`
        returns when all that was let in has ended.
        """
        ...

    def fail(self, error: Failed) -> None:
        """Let nothing in any more, and end all that was let in with this error, at once: what is
        computed now, too."""
        ...

    async def run(self) -> None:
        """Compute what comes, until drained. Raises `DeviceLost`."""
        ...
