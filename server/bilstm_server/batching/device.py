"""`Device`: the worker threads of one device, and whose turn it is."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from ..process.progress import Progress


class Device:
    """One thread that computes, and one that stages meanwhile, for all models on the device. Models
    have it in turn, so that each closes its batch as late as it can.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._waiting = 0  # models that wait for their turn
        # When what computes now will be done, likely and at the earliest, in the event loop's time.
        self.free_at = self.free_from = -math.inf
        self._arrived = False  # whether something came to be computed since the last turn began
        self.compute_thread = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self.stage_thread = ThreadPoolExecutor(1, thread_name_prefix="stage")
        self.computing = Progress()  # of the thread that computes
        self.staging = Progress()

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

    @property
    def busy(self) -> bool:
        """Whether a model has its turn."""
        return self._turn.locked()

    def arrive(self) -> None:
        """Take into account that something has come to be computed."""
        self._arrived = True

    @property
    def wanted(self) -> bool:
        """Whether what computes for long should end its turn. Read in the compute thread."""
        return self._arrived or self._waiting > 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for the device, and have it for one batch, or some slices."""
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        self._arrived = False
        try:
            yield
        finally:
            self.free_at = self.free_from = -math.inf
            self._turn.release()
