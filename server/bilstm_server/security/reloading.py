"""`Reloading`: when watched files are looked at: every so often, and when a signal asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import structlog

from .watched import Watched

log = structlog.get_logger()

_POLL_SECONDS = 0.5  # a second look, which a change needs, is within a second of it


class Reloading:
    """Looks at watched files for as long as the `async with` block lasts."""

    def __init__(self, poll_seconds: float = _POLL_SECONDS):
        self._poll_seconds = poll_seconds
        self._watched: list[tuple[Watched[Any], Callable[[], None]]] = []
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def watch(self, watched: Watched[Any], changed: Callable[[], None] = lambda: None) -> None:
        """Look at these files too. `changed` is called in the event loop when their new value is in
        effect."""
        self._watched.append((watched, changed))

    def reload(self) -> list[str]:
        """Look at all files now, and take them as they are. Returns the flags of the settings that
        name them."""
        self._asked.set()
        return [watched.flags for watched, _ in self._watched]

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._asked.wait()
            patient = not self._asked.is_set()
            self._asked.clear()
            for watched, changed in self._watched:
                try:
                    # In a thread: a file may lie on a disk that is slow to answer.
                    if await asyncio.to_thread(watched.check, patient=patient):
                        changed()
                except Exception as error:  # what is in effect goes on
                    log.error("not reloaded", setting=watched.flags, exc_info=error)
