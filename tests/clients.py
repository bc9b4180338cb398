"""What the tests of both clients share: each claim is made of `Client` and of `AsyncClient`, which
is called as the other one is; against a real server, with two models and one with tiny limits.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import pytest
from conftest import RunningServer, settings, write_model
from engines import Gated

from bilstm_client import (
    AsyncClient,
    Client,
    Encoding,
    Model,
)
from bilstm_client.types import Array, OutputName

INPUT_SIZE, HIDDEN_SIZE, LAYERS, CLASSES = 5, 6, 2, 3  # of the model that `server` has first
HANGS_AFTER_SECONDS = 60
ALL_OUTPUTS: tuple[OutputName, ...] = ("states", "final", "mean", "max", "logits", "state")
T = TypeVar("T")

X = np.random.default_rng(0).integers(-3, 4, (7, INPUT_SIZE)).astype(np.float32)
IDS = np.array([3, 0, 19, 7, 7, 1])


class AwaitedClient:
    """`AsyncClient` called as `Client` is, from any thread; its loop has a thread of its own."""

    def __init__(self, target: str, **options: Any):
        self._client = AsyncClient(target, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def _wait(self, call: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await call

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result(HANGS_AFTER_SECONDS)

    def encode(self, sequence: Any, **options: Any) -> Encoding:
        return self._wait(self._client.encode(sequence, **options))

    def encode_batch(self, sequences: Any, **options: Any) -> list[Encoding]:
        return self._wait(self._client.encode_batch(sequences, **options))

    def list_models(self, **options: Any) -> list[Model]:
        return self._wait(self._client.list_models(**options))

    def is_ready(self, **options: Any) -> bool:
        return self._wait(self._client.is_ready(**options))

    def wait_until_ready(self, **options: Any) -> None:
        self._wait(self._client.wait_until_ready(**options))

    def get_model(self, *names: str, **options: Any) -> Model:
        return self._wait(self._client.get_model(*names, **options))

    def close(self) -> None:
        self._wait(self._client.close())

    def __enter__(self) -> AwaitedClient:
        self._wait(self._client.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self._wait(self._client.__aexit__(None, None, None))

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


AnyClient = Client | AwaitedClient
Connect = Callable[..., AnyClient]


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


def arrays_of(encoding: Encoding) -> dict[str, Array]:
    """All that an encoding has, by name."""
    named: dict[str, Array] = {o: getattr(encoding, o) for o in encoding.outputs if o != "state"}
    if "state" in encoding.outputs:
        named |= {"hidden": encoding.state.hidden, "cell": encoding.state.cell}
    return named


def assert_same(one: Encoding, other: Encoding) -> None:
    """A sequence's batch mates may move its last bits, and no more."""
    ours, theirs = arrays_of(one), arrays_of(other)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name], rtol=0, atol=1e-6, err_msg=name)


def sequence(steps: int, seed: int = 0) -> Array:
    rng = np.random.default_rng((seed, steps))
    return rng.standard_normal((steps, INPUT_SIZE), dtype=np.float32)


@pytest.fixture(scope="module")
def limited(
    model_folder: Path, token_model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server with tiny limits: 4 sequences, 100 steps, 1,600 bytes."""
    forward = write_model(tmp_path_factory.mktemp("models") / "forward", bidirectional=False)
    running = RunningServer(
        settings(
            model=[("small", model_folder), ("tokens", token_model_folder), ("forward", forward)],
            max_request_sequences=4,
            max_sequence_tokens=50,
            max_batch_tokens=100,
            max_message_bytes=1600,
        )
    )
    yield running
    running.close()


@pytest.fixture
def limited_client(connect: Connect, limited: RunningServer) -> AnyClient:
    return connect(limited.target)


def calls(server: RunningServer, method: str = "Encode") -> float:
    """How many RPCs of the method the server has seen."""
    labels = {
        "grpc_type": "unary",
        "grpc_service": "bilstm.v1.EncoderService",
        "grpc_method": method,
    }
    registry = server.app.metrics.registry
    return registry.get_sample_value("grpc_server_started_total", labels) or 0.0


@pytest.fixture(scope="module")
def gated_servers() -> Iterator[list[RunningServer]]:
    """Servers to close after the last test, all at once: each takes a while."""
    running: list[RunningServer] = []
    yield running
    with ThreadPoolExecutor() as pool:
        list(pool.map(RunningServer.close, running))


@pytest.fixture
def gated(
    model_folder: Path, gated_servers: list[RunningServer]
) -> Iterator[tuple[RunningServer, Gated]]:
    """A server with room for one short sequence in the queue, whose engine stands at a gate."""
    gate = Gated()
    running = RunningServer(
        settings(
            model=[("small", model_folder)],
            max_sequence_tokens=4,
            max_batch_tokens=4,
            max_queue_tokens=4,
        ),
        gate,
    )
    gated_servers.append(running)
    yield running, gate
    gate.open()


def wait_at(gate: Gated) -> None:
    """Return when one more batch stands at the gate."""
    asyncio.run(gate.engines["small"].arrival())


CALLS: dict[str, Callable[..., object]] = {
    "encode": lambda client, **options: client.encode(X, **options),
    "encode_batch": lambda client, **options: client.encode_batch([X], **options),
    "list_models": lambda client, **options: client.list_models(**options),
    "get_model": lambda client, **options: client.get_model(**options),
}
