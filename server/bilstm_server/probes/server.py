"""Metrics and probes over HTTP: `/metrics`, `/healthz`, `/livez`, `/readyz`, and a page at `/`.

Served by a thread with an event loop of its own: a scrape doesn't hold the server up, and a probe
is answered where the server's loop no longer turns. Bounded in connections, and in the bytes and
the time of each, its TLS included. One request a connection.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Self

import structlog

from ..metrics import Metrics, can_accept
from ..summary import HANGS, SERVING, ServerSummary
from .access import Access
from .http import Reply, Request
from .page import page

log = structlog.get_logger()

PATHS = ("/", "/metrics", "/healthz", "/livez", "/readyz")
MAX_CONNECTIONS = 64
_REQUEST_BYTES = 8 * 1024
_SECONDS = 5.0  # from a connection's start to its end
_TURN_SECONDS = 2.0  # in which a loop that lives comes to what it is asked
_END_SECONDS = 5.0
_ACCEPT_AGAIN_SECONDS = 0.1

_Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Probes:
    """`with` serves, until the block's end."""

    def __init__(
        self,
        listening: socket.socket,
        metrics: Metrics,
        summary: Callable[[], ServerSummary],
        access: Access,
    ):
        """`listening` is closed at the end. `summary` is asked in the event loop that enters."""
        self._socket = listening
        self._access = access
        self._metrics = metrics
        self._summary = summary
        self._connections: dict[asyncio.Task[None], None] = {}  # the oldest first
        self._end = asyncio.Event()
        self.port: int = listening.getsockname()[1]

    def __enter__(self) -> Self:
        self._watched = asyncio.get_running_loop()
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        self._thread = threading.Thread(target=self._run, name="probes", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        with self._runner as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        with self._socket:
            accepting = asyncio.create_task(self._accept())
            await self._end.wait()
        ending = [accepting, *self._connections]
        for task in ending:
            task.cancel()
        await asyncio.wait(ending, timeout=_SECONDS)

    async def _accept(self) -> None:
        """Whoever holds connections, a new one is served: where there are too many, the oldest
        ends."""
        self._socket.setblocking(False)
        while True:
            try:
                accepted, _ = await self._loop.sock_accept(self._socket)
            except OSError:  # no descriptor is left, or the caller has left
                await asyncio.sleep(_ACCEPT_AGAIN_SECONDS)
                continue
            if len(self._connections) >= MAX_CONNECTIONS:
                oldest = next(iter(self._connections))
                del self._connections[oldest]
                oldest.cancel()
            task = asyncio.create_task(self._connected(accepted))
            self._connections[task] = None
            task.add_done_callback(lambda task: self._connections.pop(task, None))
            await asyncio.sleep(0)  # even where one more waits already

    async def _connected(self, accepted: socket.socket) -> None:
        # What a caller does wrong ends its connection, and is nobody else's.
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(_SECONDS), self._stream(accepted) as (reader, writer):
                await self._talk(reader, writer)
                writer.close()
                await writer.wait_closed()

    @asynccontextmanager
    async def _stream(self, accepted: socket.socket) -> AsyncIterator[_Stream]:
        """The connection's two ends, behind its TLS if there is to be any. It is closed at the
        block's end."""
        reader = asyncio.StreamReader(_REQUEST_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        with accepted:
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: protocol, accepted, ssl=self._access.tls
            )
            try:
                yield reader, asyncio.StreamWriter(transport, protocol, reader, self._loop)
            finally:
                transport.abort()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            reply = await self._answer(await reader.readuntil(b"\r\n\r\n"))
        except asyncio.LimitOverrunError:
            reply = Reply.words(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE).encode()
        writer.write(reply)
        await writer.drain()

    async def _answer(self, data: bytes) -> bytes:
        try:
            request = Request.parse(data)
        except ValueError:
            return Reply.words(HTTPStatus.BAD_REQUEST).encode()
        try:
            reply = await self._reply(request)
        except Exception as error:
            log.error("probe failed", exc_info=error)
            return Reply.words(HTTPStatus.INTERNAL_SERVER_ERROR).encode()
        return reply.encode(with_body=request.method != "HEAD")

    async def _reply(self, request: Request) -> Reply:
        if request.path not in PATHS:
            return Reply.words(HTTPStatus.NOT_FOUND, f"there are {', '.join(PATHS)}")
        if request.method not in ("GET", "HEAD"):
            return Reply.words(HTTPStatus.METHOD_NOT_ALLOWED)
        if not self._access.allows(request.path, request.headers.get("authorization", "")):
            return Reply.unauthorized()
        if request.path == "/metrics":
            return self._scrape(request)
        summary = await self._ask()
        if request.path == "/":
            return Reply.html(_status(summary.lives), page(summary, PATHS[1:]))
        is_ready = summary.state == SERVING
        return Reply.words(
            _status(is_ready if request.path == "/readyz" else summary.lives), summary.state
        )

    def _scrape(self, request: Request) -> Reply:
        accept, encoding = (request.headers.get(n, "") for n in ("accept", "accept-encoding"))
        if not can_accept(accept):
            return Reply.words(HTTPStatus.BAD_REQUEST)
        headers, body = self._metrics.exposition(request.query, accept, encoding)
        return Reply(HTTPStatus.OK, body, headers)

    async def _ask(self) -> ServerSummary:
        """What the server's event loop says of it, or that it hangs if that doesn't turn. Raises
        what its `summary` raised."""
        answer: asyncio.Future[ServerSummary] = self._loop.create_future()

        def take(summary: ServerSummary | Exception) -> None:
            if answer.done():
                return
            if isinstance(summary, Exception):
                answer.set_exception(summary)
            else:
                answer.set_result(summary)

        def ask() -> None:
            summary: ServerSummary | Exception
            try:
                summary = self._summary()
            except Exception as error:
                summary = error
            self._loop.call_soon_threadsafe(take, summary)

        self._watched.call_soon_threadsafe(ask)
        done, _ = await asyncio.wait({answer}, timeout=_TURN_SECONDS)
        return answer.result() if done else ServerSummary(HANGS)


def _status(good: bool) -> HTTPStatus:
    return HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
