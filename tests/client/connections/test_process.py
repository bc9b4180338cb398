"""Clients that are used elsewhere than where they were made: in a forked process, in another event
loop.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from bilstm_client import AsyncClient
from tests.client.streams.sources import X
from tests.support.servers import RunningServer
from tests.support.waiting import HANGS_AFTER_SECONDS

FORK = """
import asyncio, itertools, os, signal, sys, threading, time
from bilstm_client import AsyncClient, Client

target, x = sys.argv[1], [[0.5] * 5] * 7
client, other = Client(target), AsyncClient(target)
client.encode(x)
results = client.encode_stream(itertools.repeat(x))
next(results)
over = threading.Event()

def call():
    while not over.is_set():
        client.encode(x)

async def begin():
    global other_results
    await other.encode(x)
    other_results = other.encode_stream(itertools.repeat(x))
    await anext(other_results)

threads = [threading.Thread(target=call) for _ in range(4)]
for thread in threads:
    thread.start()
loop = asyncio.new_event_loop()
loop.run_until_complete(begin())

def ask(call):
    try:
        call()
    except RuntimeError as error:
        assert "of which this is a fork; make one in each process" in str(error), error
    else:
        raise AssertionError("no RuntimeError")

def run(call):
    async def awaited():
        return await call()
    return lambda: asyncio.run(awaited())

def child():
    global results, other_results
    ask(lambda: client.encode(x))
    ask(client.list_models)
    ask(client.is_ready)
    ask(lambda: client.encode_stream([x]))
    ask(lambda: next(results))
    ask(run(lambda: other.encode(x)))
    ask(run(other.get_model))
    ask(run(other.is_ready))
    ask(run(lambda: anext(other_results)))
    results.close()
    del results, other_results
    client.close()
    client.close()
    asyncio.run(other.close())
    ask(client.is_ready)

for _ in range(5):
    process = os.fork()
    if not process:
        signal.alarm(30)  # ends it if it hangs
        code = 1
        try:
            child()
            code = 0
        finally:
            os._exit(code)
    print(os.waitpid(process, 0)[1])
over.set()
for thread in threads:
    thread.join()
next(results)
client.encode(x)
results.close()
client.close()
loop.run_until_complete(other.encode(x))
loop.run_until_complete(other.close())
"""


OWN = """
import os, sys
from bilstm_client import Client

client, x = Client(sys.argv[1]), [[0.5] * 5] * 7
expected = client.encode(x).states
for _ in range(5):
    process = os.fork()
    if not process:
        with Client(sys.argv[1]) as own:
            os._exit(int((own.encode(x).states != expected).any()))
    print(os.waitpid(process, 0)[1])
client.encode(x)
"""


def forked(script: str, target: str, **environment: str) -> None:
    """Run it; each of its five children must exit with 0."""
    run = subprocess.run(
        [sys.executable, "-c", script, target],
        capture_output=True,
        text=True,
        timeout=4 * HANGS_AFTER_SECONDS,
        env=os.environ | environment,
    )
    assert (run.returncode, run.stdout.split()) == (0, ["0"] * 5), run.stderr[-3000:]


def test_fork(server: RunningServer) -> None:
    """A forked process that uses what it inherited is told so at once, while its parent's threads
    call and stream; it may close it. The parent goes on."""
    # What gRPC itself does at a fork among threads that call it ends some of the children, whatever
    # they do.
    forked(FORK, server.target, GRPC_ENABLE_FORK_SUPPORT="false")


def test_fork_with_its_own(server: RunningServer) -> None:
    """A forked process may make a client of its own, where its parent was not calling."""
    forked(OWN, server.target)


def test_another_event_loop(server: RunningServer) -> None:
    """A client goes on in the next event loop, once that in which it was used is closed."""
    client = AsyncClient(server.target)

    async def use() -> Any:
        streamed = [encoding async for encoding in client.encode_stream([X] * 3)]
        return await client.encode(X), streamed

    for _ in range(3):
        encoding, streamed = asyncio.run(use())
        assert encoding.states.shape == (7, 12)
        assert len(streamed) == 3

    async def leave() -> Any:
        results = client.encode_stream(itertools.repeat(X))
        await anext(results)
        return results

    left = asyncio.run(leave())
    assert client._channel.streams == set()  # it has ended with its loop
    del left
    asyncio.run(use())
    asyncio.run(client.close())
    with pytest.raises(ValueError, match="the client is closed"):
        asyncio.run(use())
    asyncio.run(AsyncClient(server.target).close())


def run(call: Callable[[], Coroutine[Any, Any, object]]) -> object:
    return asyncio.run(call())


async def test_two_event_loops(server: RunningServer) -> None:
    """Two at a time can't share it: that is told, and harms nobody."""
    async with AsyncClient(server.target) as client:
        await client.encode(X)
        calls: list[Callable[[], Coroutine[Any, Any, object]]]
        calls = [client.is_ready, client.close, client.list_models]
        for call in calls:
            with pytest.raises(RuntimeError, match="another event loop"):
                await asyncio.to_thread(run, call)
        await client.encode(X)
