"""What every method of both clients takes beside its own: headers, a name that shows what it is,
and how a server is waited for.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from bilstm_client import (
    AsyncClient,
    Cancelled,
    Client,
    DeadlineExceeded,
    ServerError,
    Unavailable,
)
from bilstm_client._calls import flows
from bilstm_client.types import Metadata
from tests.client.clients import AnyClient, Connect
from tests.client.connections.refusing import refusing
from tests.client.streams.sources import X
from tests.support.fake_streams import FakeServer, serving
from tests.support.servers import RunningServer, settings
from tests.support.waiting import HANGS_AFTER_SECONDS

# -- headers ----------------------------------------------------------------------------------

METHODS: dict[str, Callable[..., Any]] = {
    "encode": lambda client, **options: client.encode(X, **options),
    "encode_batch": lambda client, **options: client.encode_batch([X, X], **options),
    "encode_stream": lambda client, **options: list(client.encode_stream([X], **options)),
    "encode_chunks": lambda client, **options: list(client.encode_chunks([X], **options)),
    "is_ready": lambda client, **options: client.is_ready(**options),
    "wait_until_ready": lambda client, **options: client.wait_until_ready(**options),
    "list_models": lambda client, **options: client.list_models(**options),
    "get_model": lambda client, **options: client.get_model(**options),
}


class Listening(grpc.ServerInterceptor):
    """Writes down the headers of each call."""

    def __init__(self) -> None:
        self.headers: list[list[tuple[str, str | bytes]]] = []

    def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        self.headers.append(list(details.invocation_metadata))
        return continuation(details)


@contextmanager
def listening() -> Iterator[tuple[str, Listening]]:
    """A server that knows no method, and what it hears."""
    heard = Listening()
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, interceptors=[heard])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}", heard
        finally:
            server.stop(None).wait()


@pytest.mark.parametrize("method", METHODS)
def test_metadata(method: str, connect: Connect) -> None:
    """A call is sent with the client's headers and its own, which take the place of those."""
    with listening() as (target, heard):
        client = connect(target, metadata={"authorization": "Bearer old", "x-team": "speech"})
        own = [("authorization", "Bearer new"), ("x-one", "1"), ("x-one", "2"), ("x-id-bin", b"\0")]
        with pytest.raises(ServerError):
            METHODS[method](client, metadata=own)
        with pytest.raises(ServerError):
            METHODS[method](client)
    added = [
        [header for header in headers if not header[0].startswith(("user-agent", "grpc-"))]
        for headers in heard.headers
    ]
    assert added[0] == [("x-team", "speech"), *own]
    assert added[-1] == [("authorization", "Bearer old"), ("x-team", "speech")]


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"X-Team": "a"}, "metadata 'X-Team': names must be lower-case: 'x-team'"),
        ({"x team": "a"}, "metadata 'x team': names are made of"),
        ({"": "a"}, "metadata '': names are made of"),
        ({"x:y": "a"}, "metadata 'x:y': names are made of"),
        ({"grpc-timeout": "1S"}, "metadata 'grpc-timeout': gRPC keeps this name to itself"),
        ({"user-agent": "me"}, "metadata 'user-agent': gRPC keeps this name to itself"),
        ({"x-team": "spe\nech"}, "metadata 'x-team': must be printable ASCII"),
        ({"x-team": "é"}, "metadata 'x-team': must be printable ASCII"),
        (
            {"x-team": b"speech"},
            "metadata 'x-team': must be a str, got bytes (bytes need",
        ),
        ({"x-team": 7}, "metadata 'x-team': must be a str, got int"),
        ({"x-id-bin": "text"}, "metadata 'x-id-bin': must be bytes"),
        ([("x-team",)], "metadata must be pairs of a name and a value, got tuple of 1"),
        ([("x-team", "secret", "x")], "metadata must be pairs of a name and a value, got tuple of"),
        (["secret"], "metadata must be pairs of a name and a value, got str"),
        ([(b"secret", "secret")], "metadata names must be str, got bytes"),
        ({7: "secret"}, "metadata names must be str, got int"),
        ("x-team", "metadata must be a mapping or pairs, got str"),
        (7, "metadata must be a mapping or pairs, got int"),
    ],
)
def test_metadata_that_is_none(metadata: Any, words: str) -> None:
    """Headers that gRPC would not take are refused before anything is sent, by their name; values
    may be secret, and are not shown."""
    for client in (Client, AsyncClient):
        with pytest.raises((TypeError, ValueError)) as caught:
            client("localhost", metadata=metadata)
        assert str(caught.value).startswith(words)
        assert "secret" not in str(caught.value)
    with Client("localhost") as plain:
        for method in METHODS.values():
            with pytest.raises(type(caught.value)) as again:
                method(plain, metadata=metadata)
            assert str(again.value) == str(caught.value)


def test_metadata_reaches_a_server(connect: Connect, server: RunningServer) -> None:
    """The service's own calls take headers, too."""
    metadata: Metadata = {"x-team": "speech"}
    client = connect(server.target, metadata=metadata)
    for method in METHODS.values():
        method(client)


# -- what it shows ----------------------------------------------------------------------------


async def test_repr() -> None:
    """A client shows its target and whether it is open, and nothing that may be secret."""
    client = Client("localhost", metadata={"authorization": "Bearer secret"})
    assert (client.target, repr(client)) == ("localhost", "Client('localhost', open)")
    client.close()
    assert repr(client) == "Client('localhost', closed)"
    async with AsyncClient("unix:/run/bilstm") as other:
        assert repr(other) == "AsyncClient('unix:/run/bilstm', open)"
    assert repr(other) == "AsyncClient('unix:/run/bilstm', closed)"
    assert client.is_closed
    assert other.is_closed


# -- a server that is waited for --------------------------------------------------------------


def test_wait_until_ready(connect: Connect, server: RunningServer) -> None:
    """A server that serves is ready at once."""
    connect(server.target).wait_until_ready()


def test_wait_for_a_server_to_come(connect: Connect, server: RunningServer) -> None:
    """One that is not there yet is waited for."""
    started = RunningServer(settings())
    port = started.app.port
    started.close()
    client = connect(f"127.0.0.1:{port}")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.wait_until_ready, timeout_seconds=HANGS_AFTER_SECONDS)
        assert not client_is_ready(client)
        later = RunningServer(settings(port=port))
        try:
            waiting.result(HANGS_AFTER_SECONDS)
            assert client.is_ready()
        finally:
            later.close()


def client_is_ready(client: AnyClient) -> bool:
    try:
        return client.is_ready()
    except Unavailable:
        return False


def test_wait_in_vain(connect: Connect) -> None:
    """After its time the wait ends with what was in the way: nobody answers."""
    words = r"the server was not ready within 0\.5 s: no server answers at .*Connection refused"
    with pytest.raises(Unavailable, match=words):
        connect("127.0.0.1:1").wait_until_ready(0.5)


def test_wait_for_one_that_says_when(connect: Connect) -> None:
    """The error of a wait in vain says when to try again, if the server did."""
    with refusing() as (refuser, port):
        refuser.says = 0.25
        with pytest.raises(Unavailable, match=r"within 0\.5 s") as caught:
            connect(f"127.0.0.1:{port}").wait_until_ready(0.5)
    assert caught.value.retry_after_seconds == 0.25


def test_wait_past_a_question_without_an_answer(
    connect: Connect, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question that is never answered takes only its own time: the next one may be."""
    monkeypatch.setattr(flows, "_QUESTION_SECONDS", 0.5)
    fake.is_healthy = True
    fake.health_answers.clear()
    with serving(fake) as target, ThreadPoolExecutor() as pool:
        waiting = pool.submit(connect(target).wait_until_ready, HANGS_AFTER_SECONDS)
        for _ in range(2):
            assert fake.checked.acquire(timeout=HANGS_AFTER_SECONDS)
        fake.health_answers.set()
        waiting.result(HANGS_AFTER_SECONDS)


def test_wait_for_one_that_drains(connect: Connect, fake: FakeServer) -> None:
    """The same of a server that says that it does not serve."""
    fake.is_healthy, fake.is_serving = True, False
    with (
        serving(fake) as target,
        pytest.raises(Unavailable, match=r"within 0\.5 s: it says that it does not serve"),
    ):
        connect(target).wait_until_ready(timeout_seconds=0.5)


def test_wait_for_one_that_is_silent(connect: Connect) -> None:
    """One that takes the connection and says nothing has missed the deadline."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = connect(f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(DeadlineExceeded, match=r"the server was not ready within 0\.5 s: "):
            client.wait_until_ready(timeout_seconds=0.5)


def test_wait_for_something_else(connect: Connect) -> None:
    """What is no such service will not become one: that is told at once."""
    with listening() as (target, _), pytest.raises(ServerError, match="UNIMPLEMENTED"):
        connect(target).wait_until_ready(timeout_seconds=HANGS_AFTER_SECONDS)


def test_close_while_waiting(connect: Connect) -> None:
    """A wait ends with the client, as any call does."""
    client = connect("127.0.0.1:1")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.wait_until_ready, timeout_seconds=HANGS_AFTER_SECONDS)
        while not waiting.running():
            pass
        client.close()
        with pytest.raises((Cancelled, ValueError)):
            waiting.result(HANGS_AFTER_SECONDS)
