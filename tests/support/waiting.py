"""How long a test waits for what must happen, before it says that it hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

HANGS_AFTER_SECONDS = 60


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for what has no event of its own, such as a metric's value."""
    async with asyncio.timeout(HANGS_AFTER_SECONDS):
        while not is_so():  # noqa: ASYNC110 (gRPC's threads set no event)
            await asyncio.sleep(0)
