"""Clients of both kinds: of a real server where it matters what is computed, and of the fake where
a test must decide when the server reads, answers or breaks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, cast

import pytest

from bilstm_client import (
    Client,
)
from bilstm_client._streams import patience
from tests.client.clients import AnyClient, AwaitedClient, Connect
from tests.support.fake_streams import FakeServer, serving
from tests.support.graphs import serve_graphs
from tests.support.servers import RunningServer


@pytest.fixture(params=(Client, AwaitedClient), ids=["Client", "AsyncClient"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes clients of one kind, and closes them after the test."""
    with ExitStack() as stack:

        def open_client(target: str, **options: Any) -> AnyClient:
            client = cast(AnyClient, request.param(target, **options))
            if isinstance(client, AwaitedClient):
                stack.callback(client.stop)
            stack.callback(client.close)
            return client

        yield open_client


@pytest.fixture
def client(connect: Connect, server: RunningServer) -> AnyClient:
    return connect(server.target)


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of models with inputs and outputs of their own, with small limits."""
    running = serve_graphs(
        tmp_path_factory.mktemp("graphs"), max_request_sequences=8, max_message_bytes=300_000
    )
    yield running
    running.close()


@pytest.fixture
def graph_client(connect: Connect, graphs: RunningServer) -> AnyClient:
    return connect(graphs.target)


@pytest.fixture
def fake() -> FakeServer:
    return FakeServer()


@pytest.fixture
def faked(connect: Connect, fake: FakeServer) -> Iterator[AnyClient]:
    """A client of the fake."""
    with serving(fake) as target:
        yield connect(target)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses before a lost server is asked again that are none."""
    monkeypatch.setattr(patience, "_FIRST_PAUSE_SECONDS", 0.001)
