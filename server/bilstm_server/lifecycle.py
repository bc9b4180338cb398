"""A server from its start to a signal: listen, load, be ready, drain."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, NoReturn

import structlog

from .app import App
from .settings import Settings

log = structlog.get_logger()


async def serve(settings: Settings) -> bool:
    """Serve until SIGTERM or SIGINT, and drain; a second signal doesn't wait.

    Returns whether all that was accepted is done. Raises `ListenError` or `ModelError` if it
    can't start.
    """
    signals: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number.name)
    async with App(settings) as app:
        log.info(
            "listening",
            host=settings.host,
            port=app.port,
            metrics_port=app.metrics_port,
            tracing_endpoint=settings.tracing_endpoint or None,
        )
        await _first(_start(app), signals.get())
        log.info("draining")
        if await _first(app.drain(), signals.get()):
            log.info("drained")
            return True
        log.warning("stopped before it was drained")
        return False


async def _start(app: App) -> NoReturn:
    await app.load()
    log.info("ready")
    await app.failed()


async def _first(work: Coroutine[Any, Any, bool], stop: Coroutine[Any, Any, str]) -> bool:
    """Run both until one ends, and cancel the other; `work`'s result, or False if it was `stop`."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop)
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    working.cancel()
    stopping.cancel()
    await asyncio.wait({working, stopping})
    return False if working.cancelled() else working.result()
