"""Metrics and probes over HTTP: `/metrics`, `/livez` and `/readyz`.

Served by a thread with an event loop of its own: a scrape doesn't hold the server up, and a probe
is answered where the server's loop no longer turns. Bounded in connections, and in the bytes and
the time of each. One request a connection.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Self
from urllib.parse import unquote

import structlog

from .metrics import Metrics

log = structlog.get_logger()

SERVING = "serving"
MAX_CONNECTIONS = 64
_REQUEST_BYTES = 8 * 1024
_SECONDS = 5.0  # from a connection's start to its end
_TURN_SECONDS = 2.0  # in which a loop that lives comes to what it is asked
_END_SECONDS = 5.0


@dataclass(slots=True)
class Request:
    method: str
    path: str
    query: str
    headers: dict[str, str]  # names in lower case

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Of the bytes up to the empty line. Raises `ValueError`."""
        line, *lines = data.decode("latin-1").split("\r\n")
        method, target, version = line.split(" ")
        if not version.startswith("HTTP/1."):
            raise ValueError("no HTTP/1")
        path, _, query = target.partition("?")
        headers = (header.partition(":") for header in lines if header)
        return cls(method, unquote(path), query, {n.lower(): v.strip() for n, _, v in headers})


@dataclass(slots=True)
class Reply:
    status: HTTPStatus
    body: bytes = b""
    headers: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def words(cls, status: HTTPStatus, words: str = "") -> Self:
        text = (words or status.phrase.lower()) + "\n"
        return cls(status, text.encode(), [("Content-Type", "text/plain; charset=utf-8")])

    def encode(self, with_body: bool = True) -> bytes:
        headers = [*self.headers, ("Content-Length", len(self.body)), ("Connection", "close")]
        lines = [f"HTTP/1.1 {self.status.value} {self.status.phrase}"]
        lines += [f"{name}: {value}" for name, value in headers]
        head = "".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1")
        return head + self.body if with_body else head


class Probes:
    """`with` serves, until the block's end."""

    def __init__(self, listening: socket.socket, metrics: Metrics, state: Callable[[], str]):
        """`listening`: closed at the end. `state`: SERVING, or a word for why the server is not;
        asked in the event loop that enters."""
        self._socket = listening
        self._metrics = metrics
        self._state = state
        self._connections: dict[asyncio.StreamWriter, None] = {}  # the oldest first
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
        server = await asyncio.start_server(
            self._connected, sock=self._socket, limit=_REQUEST_BYTES
        )
        await self._end.wait()
        server.close()
        for connection in self._connections:
            connection.transport.abort()
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others, timeout=_SECONDS)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Whoever holds connections, a new one is served: where there are too many, the oldest
        ends."""
        if len(self._connections) >= MAX_CONNECTIONS:
            oldest = next(iter(self._connections))
            del self._connections[oldest]
            oldest.transport.abort()
        self._connections[writer] = None
        try:
            async with asyncio.timeout(_SECONDS):
                await self._talk(reader, writer)
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            writer.transport.abort()
        finally:
            self._connections.pop(writer, None)

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
            reply = await self._reply(request)
        except ValueError:
            return Reply.words(HTTPStatus.BAD_REQUEST).encode()
        except Exception as error:
            log.error("probe failed", exc_info=error)
            return Reply.words(HTTPStatus.INTERNAL_SERVER_ERROR).encode()
        return reply.encode(with_body=request.method != "HEAD")

    async def _reply(self, request: Request) -> Reply:
        if request.path not in ("/metrics", "/livez", "/readyz"):
            return Reply.words(HTTPStatus.NOT_FOUND, "there are /metrics, /livez and /readyz")
        if request.method not in ("GET", "HEAD"):
            return Reply.words(HTTPStatus.METHOD_NOT_ALLOWED)
        if request.path == "/metrics":
            accept, encoding = (request.headers.get(n, "") for n in ("accept", "accept-encoding"))
            headers, body = self._metrics.exposition(request.query, accept, encoding)
            return Reply(HTTPStatus.OK, body, headers)
        state = await self._ask()
        if state is None:
            return Reply.words(HTTPStatus.SERVICE_UNAVAILABLE, "hangs")
        if request.path == "/readyz" and state != SERVING:
            return Reply.words(HTTPStatus.SERVICE_UNAVAILABLE, state)
        return Reply.words(HTTPStatus.OK, state)

    async def _ask(self) -> str | None:
        """The server's state, as its event loop says; None if that doesn't turn."""
        answer: asyncio.Future[str] = self._loop.create_future()

        def tell(state: str) -> None:
            if not answer.done():
                answer.set_result(state)

        def ask() -> None:
            self._loop.call_soon_threadsafe(tell, self._state())

        self._watched.call_soon_threadsafe(ask)
        try:
            return await asyncio.wait_for(answer, _TURN_SECONDS)
        except TimeoutError:
            return None
