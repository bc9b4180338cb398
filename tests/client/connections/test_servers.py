"""Clients of several servers at once, real ones, of which some restart."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bilstm_client import Client, Unavailable
from bilstm_client.cli.main import main
from tests.client.clients import Connect
from tests.client.connections.refusing import Refusing
from tests.client.streams.sources import X, assert_states
from tests.support.fake_streams import FakeServer, serving, sums
from tests.support.servers import RunningServer

STARTS_WITHIN_SECONDS = 120


def is_ready(target: str) -> bool:
    with Client(target) as client:
        try:
            return client.is_ready(timeout_seconds=5.0)
        except Unavailable:
            return False


class Server:
    """`bilstm-server serve` on a port that it keeps."""

    def __init__(self, model: Path):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.target = f"127.0.0.1:{self.port}"
        self._model = model
        self.start()

    def start(self) -> None:
        command = str(Path(sys.executable).parent / "bilstm-server")
        options = [
            "serve",
            "--metrics-port",
            "0",
            "--port",
            str(self.port),
            "--model",
            f"small={self._model}",
            "--threads",
            "1",
        ]
        self._process = subprocess.Popen(
            [command, *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def wait_until_ready(self) -> None:
        # Asked again and again: a process that starts has nothing to wait for.
        while not is_ready(self.target):
            assert self._process.poll() is None

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(STARTS_WITHIN_SECONDS) == 0


@pytest.fixture
def two(model_folder: Path) -> Iterator[list[Server]]:
    servers = [Server(model_folder), Server(model_folder)]
    for server in servers:
        server.wait_until_ready()
    yield servers
    for server in servers:
        server.stop()


def test_rolling_restart(connect: Connect, two: list[Server]) -> None:
    """Servers that restart one after the other, five times, lose no call and no stream's result."""
    client = connect("ipv4:" + ",".join(server.target for server in two))
    expected = client.encode(X).states
    over = threading.Event()
    served = [0] * 6

    def call(caller: int) -> None:
        while not over.is_set():
            assert_states(client.encode(X), expected)
            served[caller] += 1

    def stream(caller: int) -> None:
        source = itertools.takewhile(lambda _: not over.is_set(), itertools.repeat(X))
        for encoding in client.encode_stream(source):
            assert_states(encoding, expected)
            served[caller] += 1

    with ThreadPoolExecutor() as pool:
        callers = [pool.submit(call, i) for i in range(4)]
        callers += [pool.submit(stream, i) for i in range(4, 6)]
        try:
            for server in [*two, *two, two[0]]:
                server.stop()
                server.start()
                server.wait_until_ready()
        finally:
            over.set()
        for caller in callers:
            caller.result()
    assert min(served) > 10


SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health(health_pb2_grpc.HealthServicer):
    """Not ready, until it is. (The one that comes with gRPC can lock itself up when it is set.)"""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._over = threading.Event()

    def set_ready(self) -> None:
        self._ready.set()

    def end(self) -> None:
        self._over.set()
        self._ready.set()

    def Check(self, request: object, context: object) -> health_pb2.HealthCheckResponse:  # noqa: N802
        return health_pb2.HealthCheckResponse(
            status=SERVING if self._ready.is_set() else NOT_SERVING
        )

    def Watch(  # noqa: N802
        self, request: object, context: object
    ) -> Iterator[health_pb2.HealthCheckResponse]:
        yield health_pb2.HealthCheckResponse(status=NOT_SERVING)
        self._ready.wait()
        yield health_pb2.HealthCheckResponse(status=SERVING)
        self._over.wait()


@contextmanager
def unready() -> Iterator[tuple[str, Refusing, Health]]:
    """A server that listens, says that it is not ready, and refuses, as one that loads."""
    refuser, servicer = Refusing(), Health()
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool, [refuser])
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}", refuser, servicer
        servicer.end()
        server.stop(None).wait()


def test_one_that_is_not_ready_gets_no_call(connect: Connect, server: RunningServer) -> None:
    """A server that listens and is not ready is none; the other one has all calls and streams."""
    with unready() as (target, refuser, _):
        client = connect(f"ipv4:{target},{server.target}")
        for _ in range(20):
            client.encode(X)
            assert len(list(client.encode_stream([X]))) == 1
        assert client.is_ready()
        assert refuser.attempts == []


def test_none_is_ready(connect: Connect) -> None:
    """Where none is, calls are Unavailable, none is troubled by them, and the client says that
    they are there and not ready."""
    with unready() as (one, refuser, _), unready() as (other, _, servicer):
        client = connect(f"ipv4:{one},{other}")
        assert not client.is_ready()
        with pytest.raises(Unavailable):
            client.encode(X)
        assert refuser.attempts == []
        assert main(["health", "--server", f"ipv4:{one},{other}"]) == 1
        servicer.set_ready()
        while not client.is_ready():
            pass


def test_one_alone_answers_itself(connect: Connect) -> None:
    """A server that has no other beside it is called even while it is not ready: it says why."""
    with unready() as (target, refuser, _):
        client = connect(target)
        assert not client.is_ready()
        with pytest.raises(Unavailable, match=r"no$"):
            client.encode(X)
        assert refuser.attempts


def test_servers_without_health(connect: Connect) -> None:
    """Servers that have no health service are taken as ready."""
    one, other = FakeServer(), FakeServer()
    with serving(one) as first, serving(other) as second:
        client = connect(f"ipv4:{first},{second}")
        while not (one.calls and other.calls):  # one may be connected to before the other
            (encoding,) = client.encode_stream([X])
            np.testing.assert_array_equal(encoding.states, sums(X))
