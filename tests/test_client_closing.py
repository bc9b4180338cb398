"""Calls that are cancelled, and clients that are closed while they wait."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from clients import (
    ALL_OUTPUTS,
    CALLS,
    HANGS_AFTER_SECONDS,
    HIDDEN_SIZE,
    AnyClient,
    Connect,
    X,
    assert_same,
    calls,
    sequence,
    wait_at,
)
from clients import client as client
from clients import connect as connect
from clients import gated as gated
from clients import gated_servers as gated_servers
from conftest import RunningServer
from engines import Gated

from bilstm_client import (
    AsyncClient,
    Cancelled,
    Client,
)
from bilstm_client.types import Array

CLOSED = r"^the client is closed$"


def test_close_ends_waiting_calls(connect: Connect, gated: tuple[RunningServer, Gated]) -> None:
    """A call that waits while its client closes ends with a Cancelled."""
    server, gate = gated
    client = connect(server.target)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.encode, X[:4])
        wait_at(gate)
        client.close()
        with pytest.raises(Cancelled) as caught:
            waiting.result(HANGS_AFTER_SECONDS)
    assert caught.value.code is grpc.StatusCode.CANCELLED
    assert calls(server) == 1


def test_context_manager_closes(connect: Connect, server: RunningServer) -> None:
    """Inside of `with` a client works; after it every call is a ValueError, and none is sent."""
    client = connect(server.target)
    with client as entered:
        assert entered is client
        client.encode(X)
    before = calls(server)
    for call in CALLS.values():
        with pytest.raises(ValueError, match=CLOSED):
            call(client)
    with pytest.raises(ValueError, match=CLOSED):
        client.encode_batch([])
    with pytest.raises(ValueError, match=CLOSED), client:
        pass
    assert calls(server) == before


def test_close_before_use(connect: Connect, server: RunningServer) -> None:
    """A client that was never used can be closed, also twice, and is closed then."""
    client = connect(server.target)
    client.close()
    client.close()
    with pytest.raises(ValueError, match=CLOSED):
        client.encode(X)


def test_closed_while_a_call_begins(server: RunningServer) -> None:
    """A call whose client another thread closes before it is sent says so too."""
    client = Client(server.target)

    def sequences() -> Iterator[Array]:
        yield X
        client.close()

    with pytest.raises(ValueError, match=CLOSED):
        client.encode_batch(sequences())


async def test_no_loop_to_construct(server: RunningServer) -> None:
    """An `AsyncClient` made where no loop runs opens its channel in the one that does."""
    client = await asyncio.to_thread(AsyncClient, server.target)
    assert (await client.encode(X)).states.shape == (7, 2 * HIDDEN_SIZE)
    await client.close()


async def test_cancelled_task(gated: tuple[RunningServer, Gated]) -> None:
    """A task that is cancelled while it waits is cancelled; its client goes on."""
    server, gate = gated
    async with AsyncClient(server.target) as client:
        task = asyncio.create_task(client.encode(X[:4]))
        await gate.engines["small"].arrival()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open()
        assert (await client.encode(X[:4])).states.shape == (4, 2 * HIDDEN_SIZE)
    assert calls(server) == 2


def test_shared_by_threads(client: AnyClient) -> None:
    """Many threads may share a client: each gets its own sequence's result."""
    sequences = [sequence(1 + i % 7, i) for i in range(48)]
    alone = [client.encode(x, outputs=ALL_OUTPUTS) for x in sequences]
    with ThreadPoolExecutor(8) as pool:
        served = list(pool.map(lambda x: client.encode(x, outputs=ALL_OUTPUTS), sequences))
    for one, other in zip(served, alone, strict=True):
        assert_same(one, other)
