"""TLS and tokens of the port of metrics and probes: who may see what, and who holds what up."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydantic import ValidationError

from bilstm_server.addresses import open_socket
from bilstm_server.errors import UnusableFile
from bilstm_server.metrics import Metrics
from bilstm_server.probes.access import Access, parse_own_tokens
from bilstm_server.probes.server import MAX_CONNECTIONS, PATHS, Probes
from bilstm_server.security.reloading import Reloading
from bilstm_server.settings import ProbeSettings
from bilstm_server.summary import ServerSummary
from tests.rpc.flow.peers import wait_for
from tests.security.authority import OTHER_TOKEN, TOKEN, Authority, Files
from tests.support.servers import RunningServer, settings
from tests.support.waiting import HANGS_AFTER_SECONDS, until

OPEN = ("/livez", "/readyz", "/healthz")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def files(authority: Authority) -> Files:
    return authority.issue()


def tls(files: Files) -> dict[str, Path]:
    return {"metrics_tls_cert": files.certificate, "metrics_tls_key": files.key}


def access_of(values: dict[str, Any]) -> Access:
    return Access(ProbeSettings.model_validate(values), Metrics().file)


@asynccontextmanager
async def probes(**values: object) -> AsyncIterator[tuple[int, Access]]:
    """A port that says that it serves, and who may see what there."""
    listening = open_socket("127.0.0.1", 0, "metrics", "--host", "--metrics-port")
    access = access_of(values)
    with Probes(listening, Metrics(), lambda: ServerSummary("serving"), access) as running:
        yield running.port, access


def get(
    port: int, path: str, trusted: Authority | None = None, authorization: str | None = None
) -> int:
    """The status of the answer; over TLS where an authority is trusted."""
    if trusted is None:
        connection = HTTPConnection("127.0.0.1", port, timeout=HANGS_AFTER_SECONDS)
    else:
        context = ssl.create_default_context(cafile=str(trusted.path))
        connection = HTTPSConnection(
            "127.0.0.1", port, timeout=HANGS_AFTER_SECONDS, context=context
        )
    headers = {} if authorization is None else {"Authorization": authorization}
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        assert response.read()
        return response.status
    finally:
        connection.close()


# -- TLS -----------------------------------------------------------------------------------------


async def test_over_tls(authority: Authority, files: Files) -> None:
    """Everything is served over TLS, call after call, and nothing without."""
    async with probes(**tls(files)) as (port, _):
        for path in PATHS * 10:
            assert await asyncio.to_thread(get, port, path, authority) == 200
        with pytest.raises(OSError, match=r"reset|aborted|closed"):
            await asyncio.to_thread(get, port, "/livez")


async def test_another_authority_is_not_served(tmp_path: Path, files: Files) -> None:
    """A client that trusts another authority does not take the certificate."""
    other = Authority(tmp_path, "other")
    async with probes(**tls(files)) as (port, _):
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.to_thread(get, port, "/livez", other)


async def test_certificate_is_read_anew(tmp_path: Path, authority: Authority, files: Files) -> None:
    """The next connection is made with what the files hold then; what can't be used changes
    nothing."""
    other = Authority(tmp_path, "other")
    async with probes(**tls(files)) as (port, access):
        issued = other.issue()
        async with Reloading() as reloading:
            access.watch(reloading)
            os.replace(issued.certificate, files.certificate)
            with structlog.testing.capture_logs() as events:
                reloading.reload()  # the key is another's
                await until(lambda: bool(events))
            assert (events[0]["event"], events[0]["log_level"]) == ("not reloaded", "error")
            assert await asyncio.to_thread(get, port, "/livez", authority) == 200
            os.replace(issued.key, files.key)
            reloading.reload()
            with structlog.testing.capture_logs() as events:
                await until(lambda: bool(events))
            assert events[0]["event"] == "reloaded"
        assert await asyncio.to_thread(get, port, "/livez", other) == 200


async def test_handshakes_that_never_end(authority: Authority, files: Files) -> None:
    """Connections that begin none, or stop within one, are as many as there may be and no more, and
    keep nobody out."""
    async with probes(**tls(files)) as (port, _):
        with ExitStack() as stack:
            silent = [
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                for _ in range(3 * MAX_CONNECTIONS)
            ]
            for connection in silent[::2]:
                connection.send(b"\x16\x03\x01\x02\x00\x01")  # a ClientHello's first bytes
            assert await asyncio.to_thread(get, port, "/livez", authority) == 200
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
            silent[-1].settimeout(HANGS_AFTER_SECONDS)
            assert silent[-1].recv(1) == b""  # within its connection's time


def test_pairs_are_whole(files: Files) -> None:
    """A certificate needs its key, and a key its certificate."""
    for name, path in tls(files).items():
        with pytest.raises(ValidationError, match="must be given together"):
            ProbeSettings.model_validate({name: path})


def test_files_that_cannot_be_used(tmp_path: Path, files: Files) -> None:
    """They are refused at the start, in words that name the flag and the file."""
    other = Authority(tmp_path, "other").issue()
    for values, words in (
        (tls(Files(files.certificate, other.key)), "--metrics-tls-key: .*another's"),
        (tls(Files(tmp_path / "none", files.key)), "--metrics-tls-cert.*none: No such file"),
        ({"metrics_token_file": files.key}, "--metrics-token-file: .*line 1"),
    ):
        with pytest.raises(UnusableFile, match=words):
            access_of(values)


# -- tokens --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {OTHER_TOKEN}", 200),
        (None, 401),
        ("", 401),
        (TOKEN, 401),
        (f"Basic {TOKEN}", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Bearer {TOKEN}\xff", 401),
    ],
)
async def test_tokens(tmp_path: Path, authorization: str | None, status: int) -> None:
    """Metrics and the page want a token of the file's, probes none."""
    file = tmp_path / "token"
    file.write_text(f"# for Prometheus\n{TOKEN}\n\n{OTHER_TOKEN}\n")
    async with probes(metrics_token_file=file) as (port, _):
        for path in PATHS:
            expected = 200 if path in OPEN else status
            assert await asyncio.to_thread(get, port, path, None, authorization) == expected
        assert await asyncio.to_thread(get, port, "/%6detrics", None, authorization) == status


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must have a token"),
        ("# none\n\n", "must have a token"),
        (f"{TOKEN}\nshort", "line 2: the token must have at least"),
        (f"name: {TOKEN}", "line 1: the token must be of letters"),
        (f"{TOKEN}\n\n{TOKEN}", "line 3: has the same token as line 1"),
    ],
)
def test_files_without_a_token(text: str, words: str) -> None:
    """A file that has no good token on a line is refused, and its line is named."""
    with pytest.raises(UnusableFile, match=words):
        parse_own_tokens(text.encode())


async def test_of_a_server(
    model_folder: Path, tmp_path: Path, authority: Authority, files: Files
) -> None:
    """A server serves its metrics over TLS for its token, and reads a new token while it serves."""
    file = tmp_path / "token"
    file.write_text(TOKEN)
    limits = settings(
        model=[("small", model_folder)],
        metrics_tls_cert=files.certificate,
        metrics_tls_key=files.key,
        metrics_token_file=file,
    )
    server = await asyncio.to_thread(RunningServer, limits)
    try:
        port = server.app.metrics_port

        def status(token: str) -> int:
            return get(port, "/metrics", authority, f"Bearer {token}")

        assert await asyncio.to_thread(status, TOKEN) == 200
        assert await asyncio.to_thread(status, OTHER_TOKEN) == 401
        (tmp_path / "new").write_text(OTHER_TOKEN)
        os.replace(tmp_path / "new", file)
        await asyncio.to_thread(wait_for, lambda: status(OTHER_TOKEN) == 200)
        assert await asyncio.to_thread(status, TOKEN) == 401
    finally:
        await asyncio.to_thread(server.close)
