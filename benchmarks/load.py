"""Loads on a server, and what they measured. Knows no server, no client and no model."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import numpy as np

Call = Callable[[int], Awaitable[object]]  # sends the request of that index, and has its answer


@dataclass
class Load:
    """What one load measured, over all rounds."""

    rates: list[float] = field(default_factory=list)  # requests per second, one per round
    seconds: list[float] = field(default_factory=list)  # of each request
    batches: list[float] = field(default_factory=list)  # mean sequences a batch, one per round

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    def share_of(self, other: Load) -> float:
        """The median of the rounds' ratios: the machine may change its speed between rounds."""
        return statistics.median(a / b for a, b in zip(self.rates, other.rates, strict=True))

    def percentile(self, share: float) -> float:
        """In milliseconds."""
        return 1e3 * float(np.quantile(self.seconds, share))


async def closed_loop(call: Call, callers: int, seconds: float) -> list[float]:
    """Each caller sends its next request when it has its answer. The seconds of each."""
    measured: list[float] = []
    end = time.perf_counter() + seconds

    async def send(first: int) -> None:
        index = first
        while (started_at := time.perf_counter()) < end:
            await call(index)
            measured.append(time.perf_counter() - started_at)
            index += callers

    await asyncio.gather(*(send(first) for first in range(callers)))
    return measured


async def open_loop(call: Call, rate: float, seconds: float) -> list[float]:
    """Requests arrive by themselves, Poisson at `rate` a second. Seconds are counted from when
    each was to arrive, so that a slow server can't hide by slowing its callers down."""
    rng = np.random.default_rng(1)
    started_at = time.perf_counter()
    measured: list[float] = []

    async def send(due: float, index: int) -> None:
        await call(index)
        measured.append(time.perf_counter() - due)

    async with asyncio.TaskGroup() as calls:
        due = started_at
        index = 0
        while due < started_at + seconds:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            calls.create_task(send(due, index))
            due += rng.exponential(1 / rate)
            index += 1
    return measured
