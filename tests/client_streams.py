"""What the tests of streams of both clients share: every claim is made of both.

A real server where it matters what is computed; the fake of `streaming` where a test must decide
when the server reads, answers or breaks.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
import pytest
from clients import AwaitedClient
from conftest import RunningServer
from streaming import HANGS_AFTER_SECONDS, INPUT_SIZE, FakeServer, serving

from bilstm_client import (
    Client,
)
from bilstm_client._calls.messages import EncodeOptions
from bilstm_client._streams import patience
from bilstm_client.types import Array, Encoding

STATES = EncodeOptions.of("states", "float32", "", "")
CANCELLED, UNAVAILABLE = grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE


class AwaitedStreams(AwaitedClient):
    """An `AsyncClient` whose streams are iterated as `Client`'s are."""

    def encode_stream(self, source: Any, **options: Any) -> Generator[Any, None, None]:
        return self._iterate(lambda: self._client.encode_stream(source, **options))

    def encode_chunks(self, source: Any, **options: Any) -> Generator[Any, None, None]:
        return self._iterate(lambda: self._client.encode_chunks(source, **options))

    def _iterate(
        self, begin: Callable[[], AsyncGenerator[Any, None]]
    ) -> Generator[Any, None, None]:
        async def begun() -> AsyncGenerator[Any, None]:
            return begin()

        results = self._wait(begun())  # what it is told wrongly, it says at once

        def iterate() -> Generator[Any, None, None]:
            try:
                while (result := self._wait(anext(results, END))) is not END:
                    yield result
            finally:
                self._wait(results.aclose())

        return iterate()


END = object()
Streams = Client | AwaitedStreams
Connect = Callable[..., Streams]


@pytest.fixture(params=(Client, AwaitedStreams), ids=["Client", "AsyncClient"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes clients of one kind, and closes them after the test."""
    with ExitStack() as stack:

        def open_client(target: str, **options: Any) -> Streams:
            client = cast(Streams, request.param(target, **options))
            if isinstance(client, AwaitedStreams):
                stack.callback(client.stop)
            stack.callback(client.close)
            return client

        yield open_client


@pytest.fixture
def client(connect: Connect, server: RunningServer) -> Streams:
    return connect(server.target)


@pytest.fixture
def fake() -> FakeServer:
    return FakeServer()


@pytest.fixture
def faked(connect: Connect, fake: FakeServer) -> Iterator[Streams]:
    """A client of the fake."""
    with serving(fake) as target:
        yield connect(target)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses before a lost server is asked again that are none."""
    monkeypatch.setattr(patience, "_FIRST_PAUSE_SECONDS", 0.001)


def sequence(steps: int, seed: int = 0) -> Array:
    rng = np.random.default_rng((seed, steps))
    return rng.integers(-3, 4, (steps, INPUT_SIZE)).astype(np.float32)  # of sums without rounding


def assert_states(encoding: Encoding, expected: Array | None, tolerance: float = 1e-6) -> None:
    assert expected is not None
    np.testing.assert_allclose(encoding.states, expected, rtol=0, atol=tolerance)


SEQUENCES = [sequence(steps, i) for i, steps in enumerate((3, 1, 12, 5, 1, 7))]


class Chunks:
    """Can be iterated any number of times."""

    def __init__(self, *chunks: Any):
        self._chunks = chunks
        self.iterated = 0

    def __iter__(self) -> Iterator[Any]:
        self.iterated += 1
        return iter(self._chunks)


def mapped(x: Array, folder: Path, mode: Any = "r") -> Array:
    np.save(folder / "x.npy", x)
    return np.load(folder / "x.npy", mmap_mode=mode)  # type: ignore[no-any-return]


X = sequence(7)
WRONG = np.ones((2, 4), "f4")


class SourceError(Exception):
    pass


def ended(fake: FakeServer) -> None:
    """Wait until the fake has seen the end of every call."""
    for call in fake.calls:
        assert call.ended.wait(HANGS_AFTER_SECONDS)


def source_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "bilstm-source"}


def own_tasks(client: AwaitedStreams) -> set[str]:
    """The stream's tasks that its client's loop still has."""

    async def names() -> set[str]:
        tasks = (cast(Any, task.get_coro()).__qualname__ for task in asyncio.all_tasks())
        return {name for name in tasks if name.startswith("AioStream")}

    return client._wait(names())
