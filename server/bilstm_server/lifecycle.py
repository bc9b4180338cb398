"""A server from its start to a signal: listen, load, be ready, drain."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import Any, NoReturn

import structlog

from .addresses import is_local
from .app import App
from .process.descriptors import allow_descriptors
from .process.stderr import BackgroundStream
from .process.threads import available_processors
from .process.watchdog import Watchdog
from .rpc.flow.places import spare_places
from .settings import Settings

log = structlog.get_logger()

_OTHER_DESCRIPTORS = 256  # beside connections of gRPC: files, threads' own, metrics


async def serve(settings: Settings) -> bool:
    """Serve until SIGTERM or SIGINT, and drain; a second signal doesn't wait. SIGHUP reloads
    certificates and tokens.

    Returns whether all that was accepted is done. Raises `StartError` if it can't start, and
    `Failed` if it computes no more.
    """
    signals: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number.name)
    _log_settings(settings)
    _warn_of_open_calls(settings)
    _warn_of_open_metrics(settings)
    _allow_connections(settings)
    app = App(settings)
    loop.add_signal_handler(signal.SIGHUP, _reload, app)
    hang, stall = settings.hang_seconds, settings.stall_seconds
    with Watchdog(hang, stall, app.progress, app.report_hang) as watchdog:
        return await _serve(app, watchdog, settings, signals)


async def _serve(
    app: App, watchdog: Watchdog, settings: Settings, signals: asyncio.Queue[str]
) -> bool:
    async with app:
        if isinstance(stderr := sys.stderr, BackgroundStream):
            app.metrics.watch_log(lambda: stderr.dropped_lines)
        log.info(
            "listening",
            host=settings.host,
            port=app.port,
            tls_client_port=app.tls_client_port,
            metrics_port=app.metrics_port,
            tls=settings.tls_cert is not None,
            tokens=settings.tokens_file is not None,
            tracing_endpoint=settings.tracing_endpoint or None,
        )
        stop = asyncio.create_task(signals.get())
        await _first(_start(app, watchdog), stop)
        log.info("draining", signal=stop.result())
        failing = asyncio.create_task(app.failed())
        if await _first(app.drain(), asyncio.create_task(signals.get()), failing):
            log.info("drained")
            return True
        log.warning("stopped before it was drained")
        return False


def _reload(app: App) -> None:
    log.info("reloading", signal="SIGHUP", settings=app.reload())


def _log_settings(settings: Settings) -> None:
    """Log the settings that are in effect, once; at a terminal those that differ from defaults."""
    log.info("settings", **settings.model_dump(mode="json", exclude_defaults=sys.stderr.isatty()))
    processors = available_processors()
    if settings.threads > processors:
        log.warning(
            "more threads than processors",
            threads=settings.threads,
            processors=processors,
            reason="threads without a processor of their own keep the others waiting",
        )


def _warn_of_open_calls(settings: Settings) -> None:
    """Say so where everybody on other machines may call over TLS."""
    asks = settings.tokens_file is not None or settings.certified_connections == "all"
    if settings.tls_cert is not None and not asks and not is_local(settings.host):
        log.warning(
            "calls are open",
            host=settings.host,
            port=settings.port,
            reason="whoever reaches the port may use every model: --tokens-file lets in only whom "
            "you know, or --tls-client-ca, without --tls-client-port",
        )


def _warn_of_open_metrics(settings: Settings) -> None:
    """Say so where other machines may read the metrics, and nobody said that they may."""
    host = settings.metrics_address
    if settings.metrics_are_open and not settings.insecure and not is_local(host):
        log.warning(
            "metrics are open",
            host=host,
            port=settings.metrics_port,
            reason="whoever reaches them can read them: --metrics-token-file closes them, "
            "--metrics-host 127.0.0.1 keeps them here",
        )


def _allow_connections(settings: Settings) -> None:
    """Have descriptors for all connections that there may be, or say that there are too few."""
    ports = 1 if settings.tls_client_port is None else 2  # each may be full for a moment
    wanted = ports * (settings.max_connections + spare_places(settings)) + _OTHER_DESCRIPTORS
    if (allowed := allow_descriptors(wanted)) < wanted:
        log.warning(
            "fewer descriptors than connections may need",
            max_connections=settings.max_connections,
            descriptors=allowed,
            reason="raise the hard limit (ulimit -Hn, LimitNOFILE) or lower --max-connections",
        )


async def _start(app: App, watchdog: Watchdog) -> NoReturn:
    await app.load()
    watchdog.start()
    log.info("ready")
    await app.failed()


async def _first(work: Coroutine[Any, Any, bool], *others: asyncio.Task[Any]) -> bool:
    """Run all until one ends, and cancel the rest. Returns `work`'s result, or False if it was
    another; raises what any of them did."""
    working = asyncio.create_task(work)
    tasks = (working, *others)
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    ended = [task for task in tasks if not task.cancelled()]
    for task in ended:
        task.result()
    return working in ended and working.result()
