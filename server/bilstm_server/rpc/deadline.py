"""`Deadline`: when a caller stops waiting, as a value in the event loop's time."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import Self

from .context import Context


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a caller stops waiting."""

    at: float  # the loop's time; infinity without a deadline
    timeout: float  # seconds from the request's arrival

    @classmethod
    def of(cls, context: Context, arrived_at: float | None = None) -> Self:
        """Return the deadline of a call, which arrived at `arrived_at` in the event loop's time, or
        just now."""
        remaining = context.time_remaining()
        if remaining is None:
            return cls(math.inf, math.inf)
        now = asyncio.get_running_loop().time()
        return cls(now + remaining, now + remaining - (now if arrived_at is None else arrived_at))

    def ended(self) -> bool:
        """Tell whether a caller that leaves now does so because of its deadline.

        Its own clock started before the request arrived here, and on the way the timeout was
        rounded up by as much as 1 %. So it leaves a little early, and that looks like any
        cancellation.
        """
        if self.timeout == math.inf:
            return False
        slack = 0.01 * self.timeout + 0.01
        return asyncio.get_running_loop().time() >= self.at - slack
