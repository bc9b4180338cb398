"""Metrics and probes over HTTP, of a real server: what each path answers, when, and what callers
that are silent, slow or hostile can hold up.
"""

from __future__ import annotations

import asyncio
import gzip
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest
import structlog

from bilstm_server.addresses import open_socket
from bilstm_server.app import App
from bilstm_server.engine.engine import Engine
from bilstm_server.metrics import Metrics
from bilstm_server.probes.access import Access
from bilstm_server.probes.server import MAX_CONNECTIONS, Probes
from bilstm_server.serving.loading import load_engine
from bilstm_server.settings import ProbeSettings, Settings
from bilstm_server.summary import ModelSummary, ServerSummary
from tests.support.servers import RunningServer, settings
from tests.support.waiting import HANGS_AFTER_SECONDS

PATHS = ("/livez", "/healthz", "/readyz")
SUMMARY = ServerSummary("serving", [ModelSummary("<b>", "3", "12 inputs")])
Answer = tuple[int, str]  # status and body


def get(port: int, path: str, method: str = "GET", **headers: str) -> Answer:
    connection = HTTPConnection("127.0.0.1", port, timeout=HANGS_AFTER_SECONDS)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode("latin-1").strip()
    finally:
        connection.close()


async def probed(app: App) -> list[Answer]:
    return [await asyncio.to_thread(get, app.metrics_port, path) for path in PATHS]


# -- what is answered ---------------------------------------------------------------------------


async def test_ready_only_while_serving(model_folder: Path) -> None:
    """While models load and while it drains a server lives and is not ready."""
    gate = threading.Event()

    def load_at_gate(folder: Path, settings: Settings) -> Engine:
        assert gate.wait(HANGS_AFTER_SECONDS)
        return load_engine(folder, settings)

    limits = settings(model=[("small", model_folder)], drain_delay_seconds=3600)
    async with App(limits, load_at_gate) as app:
        loading = asyncio.create_task(app.load())
        try:
            assert await probed(app) == [(200, "loading"), (200, "loading"), (503, "loading")]
        finally:
            gate.set()
            await loading
        assert await probed(app) == [(200, "serving")] * 3
        draining = asyncio.create_task(app.drain())
        await asyncio.sleep(0)
        assert await probed(app) == [(200, "draining"), (200, "draining"), (503, "draining")]
        draining.cancel()


async def test_a_loop_that_hangs_is_told(model_folder: Path) -> None:
    """A server whose event loop does not turn is neither alive nor ready, and says so."""
    async with App(settings(model=[("small", model_folder)])) as app:
        await app.load()
        answers: list[Answer] = []
        asking = threading.Thread(
            target=lambda: answers.extend(get(app.metrics_port, path) for path in PATHS)
        )
        asking.start()
        asking.join(HANGS_AFTER_SECONDS)  # in the server's loop, which so is held
        assert answers == [(503, "hangs")] * 3
        assert await probed(app) == [(200, "serving")] * 3


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Of probes without a server, which log nothing, whoever calls."""
    with structlog.testing.capture_logs() as events:
        async with probes() as running:
            yield running.port
    assert events == []


@asynccontextmanager
async def probes(
    summary: Callable[[], ServerSummary] = lambda: SUMMARY,
    metrics: Metrics | None = None,
    **access: object,
) -> AsyncIterator[Probes]:
    listening = open_socket("127.0.0.1", 0, "metrics", "--host", "--metrics-port")
    who = Access(ProbeSettings.model_validate(access), Metrics().file)
    with Probes(listening, metrics or Metrics(), summary, who) as running:
        yield running


@pytest.mark.parametrize("path", ["/health", "/metrics/", "/favicon.ico", "/%2e%2e/metrics"])
async def test_unknown_paths(port: int, path: str) -> None:
    """A path that is not there is not found: no probe of it is green."""
    status, words = await asyncio.to_thread(get, port, path)
    assert (status, words) == (404, "there are /, /metrics, /healthz, /livez, /readyz")


async def test_page(port: int) -> None:
    """The page has the state, each model with its version and sizes, and links to all else. What a
    model is called is text, whatever it is."""
    status, text = await asyncio.to_thread(get, port, "/")
    assert status == 200
    assert "<strong>serving</strong>" in text
    assert "<td>&lt;b&gt;</td><td>3</td><td>12 inputs</td>" in text
    assert re.findall(r'href="([^"]*)"', text) == ["/metrics", "/healthz", "/livez", "/readyz"]


async def test_the_page_loads_and_runs_nothing(port: int) -> None:
    """The page has a policy by which a browser neither loads nor runs anything for it."""
    answer = await asyncio.to_thread(exchange, port, b"GET / HTTP/1.1\r\n\r\n")
    policy = b"Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n"
    assert policy in answer.partition(b"\r\n\r\n")[0] + b"\r\n"


@pytest.mark.parametrize("path", ["/", *PATHS])
async def test_a_summary_that_fails_is_the_servers_fault(path: str) -> None:
    """A server that can't say how it is does not hang: that is an error, which the log has."""

    def fail() -> ServerSummary:
        raise ValueError("no summary")

    with structlog.testing.capture_logs() as events:
        async with probes(fail) as running:
            assert (await asyncio.to_thread(get, running.port, path))[0] == 500
    assert [str(event["exc_info"]) for event in events] == ["no summary"]


async def test_a_scrape_that_fails_is_the_servers_fault() -> None:
    """A gauge that can't be read is no bad request, and the log has the cause."""

    def fail() -> int:
        raise ValueError("no number")

    metrics = Metrics()
    metrics.watch_calls(fail, lambda: 0, lambda: 0)
    with structlog.testing.capture_logs() as events:
        async with probes(metrics=metrics) as running:
            assert (await asyncio.to_thread(get, running.port, "/metrics"))[0] == 500
    assert [str(event["exc_info"]) for event in events] == ["no number"]


async def test_page_of_a_server(server: RunningServer) -> None:
    """A server's page describes the models that it serves."""
    _, text = await asyncio.to_thread(get, server.app.metrics_port, "/")
    assert (
        "<td>small</td><td>1</td><td>5 inputs, 2 layers of 6, bidirectional, 3 classes</td>" in text
    )
    assert "<td>tokens</td><td>1</td><td>20 token ids, 2 layers of 6, bidirectional</td>" in text


async def test_other_methods(port: int) -> None:
    """HEAD has the same head and no body; nothing can be posted."""
    assert await asyncio.to_thread(get, port, "/livez", "HEAD") == (200, "")
    assert (await asyncio.to_thread(get, port, "/livez", "POST"))[0] == 405


async def test_formats_of_metrics(port: int) -> None:
    """A scrape can be compressed, of some metrics, or in OpenMetrics."""
    status, text = await asyncio.to_thread(get, port, "/metrics?name[]=bilstm_streams")
    assert status == 200
    assert text.splitlines()[-1] == "bilstm_streams 0.0"
    request = b"GET /metrics HTTP/1.1\r\nAccept-Encoding: gzip\r\n\r\n"
    zipped = await asyncio.to_thread(exchange, port, request)
    assert b"bilstm_streams 0.0" in gzip.decompress(zipped.partition(b"\r\n\r\n")[2])
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    _, text = await asyncio.to_thread(lambda: get(port, "/metrics", **accept))
    assert text.endswith("# EOF")


# -- who holds what -----------------------------------------------------------------------------


@pytest.fixture
def silent(port: int) -> Iterator[list[socket.socket]]:
    """500 connections that say nothing."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(500)
        ]


async def test_silent_connections(port: int, silent: list[socket.socket]) -> None:
    """Hundreds of silent connections take no thread, only so many are kept, and a probe is answered
    all the same."""
    threads = threading.active_count()
    assert await asyncio.to_thread(get, port, "/livez") == (200, "serving")
    assert threading.active_count() <= threads + 1  # the one that asked
    kept = 0
    for connection in silent:
        connection.setblocking(False)
        try:
            kept += connection.recv(1) != b""
        except ConnectionError:
            pass
        except BlockingIOError:
            kept += 1
    assert kept < MAX_CONNECTIONS


def exchange(port: int, *parts: bytes) -> bytes:
    """Send, and read to the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=HANGS_AFTER_SECONDS) as connection:
        try:
            for part in parts:
                connection.sendall(part)
            return b"".join(iter(lambda: connection.recv(65536), b""))
        except ConnectionError:
            return b""


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /livez HTTP/1.1\r\n" + b"x: y\r\n" * 10_000 + b"\r\n", b"431"),
        (b"GET /" + b"x" * 100_000, b"431"),
        (b"hello\r\n\r\n", b"400"),
        (b"GET /livez\r\n\r\n", b"400"),
        (b"GET /livez SPDY/3\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400"),
        (
            b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text; version=x\r\n\r\n",
            b"400",
        ),
    ],
    ids=["headers", "path", "words", "HTTP/0.9", "SPDY", "TLS", "HTTP/2", "accept"],
)
async def test_what_is_no_request(port: int, sent: bytes, status: bytes) -> None:
    """What is too large, or no request, is refused, and nothing is kept of it."""
    answer = await asyncio.to_thread(exchange, port, sent)
    assert answer.split(b" ")[1:2] in ([status], [])  # a reset may overtake the words
    assert await asyncio.to_thread(get, port, "/livez") == (200, "serving")


async def test_an_unfinished_request_ends(port: int) -> None:
    """A request that does not end is ended."""
    assert await asyncio.to_thread(exchange, port, b"GET /livez HTTP/1.1\r\nx: ") == b""


async def test_the_end_waits_for_nobody() -> None:
    """Connections that are open do not hold up the end."""
    async with asyncio.timeout(HANGS_AFTER_SECONDS), probes() as running:
        connection = socket.create_connection(("127.0.0.1", running.port))
        assert await asyncio.to_thread(get, running.port, "/livez") == (200, "serving")
    with connection:
        connection.settimeout(HANGS_AFTER_SECONDS)
        with suppress(ConnectionError):
            assert connection.recv(1) == b""
