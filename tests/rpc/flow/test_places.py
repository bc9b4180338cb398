"""Whose connections give way: of one address, and of all. And how old a connection becomes."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.faults.wire import PREFACE, PatientConnection, RawConnection
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_server.app import App
from bilstm_server.rpc.flow.connections import (
    Address,
    Connection,
    ConnectionFinder,
    network_of,
)
from bilstm_server.rpc.flow.places import surplus
from bilstm_server.settings import ConnectionLimits
from tests.rpc.flow.peers import CHECK, encodes, request, sample, wait_for
from tests.security.authority import Authority
from tests.support.servers import RunningServer, settings
from tests.support.waiting import HANGS_AFTER_SECONDS

WATCH = "/grpc.health.v1.Health/Watch"
ABROAD = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "2001:db8:1::1"]
NEAR = ["127.0.0.1", "127.0.0.2", "::1", "unix"]


def limits_of(connections: int, of_a_peer: int = 0) -> ConnectionLimits:
    return ConnectionLimits(max_connections=connections, max_peer_connections=of_a_peer)


def connections_of(*hosts: str) -> list[Connection]:
    return [Connection(n, n, (host, 50_000 + n)) for n, host in enumerate(hosts)]


# -- who gives way ---------------------------------------------------------------------------------


@given(
    hosts=st.lists(st.sampled_from(ABROAD + NEAR), max_size=40),
    most=st.integers(1, 20),
    of_a_peer=st.integers(0, 8),
)
def test_who_gives_way(hosts: list[str], most: int, of_a_peer: int) -> None:
    """Both limits hold afterwards; nobody goes without need; the newest of a peer go; and nobody
    who has less goes for somebody who keeps more."""
    connections = connections_of(*hosts)
    limits = limits_of(most, of_a_peer)
    going = surplus(connections, limits)
    gone = [connection for connection, _ in going]
    stay = [connection for connection in connections if connection not in gone]
    assert len(gone) == len(set(gone))
    assert len(stay) <= most
    kept = Counter(network_of(c.address[0]) for c in stay)
    bound = {p: n for p, n in kept.items() if p in {network_of(host) for host in ABROAD}}
    assert not of_a_peer or all(n <= of_a_peer for n in bound.values())
    for connection, limit in going:
        peer = network_of(connection.address[0])
        own = [c for c in connections if network_of(c.address[0]) == peer]
        assert own.index(connection) >= kept[peer]
        if limit == "peer":
            assert of_a_peer
            assert own.index(connection) >= of_a_peer
        else:
            assert len(stay) == most
            assert own.index(connection) + 1 >= max(kept.values())


def test_a_network_of_ipv6_is_one_peer() -> None:
    """One host may have all addresses of it. Loopback is apart."""
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff") == "2001:db8::/64"
    assert network_of("2001:db8:0:1::1") != network_of("2001:db8::1")
    assert network_of("fe80::1%eth0") == "fe80::/64"
    assert [network_of(host) for host in NEAR] == NEAR


def test_a_proxy_on_the_same_host_has_no_limit_of_a_peer() -> None:
    """Nor a unix socket: they bring everyone. They count among all."""
    near = connections_of(*[host for host in NEAR for _ in range(5)])
    assert not surplus(near, limits_of(20, 1))
    assert len(surplus(near, limits_of(16, 1))) == 4


def test_a_thousand_clients_behind_one_address() -> None:
    """They have room by default, and the next peer has it too."""
    limits = ConnectionLimits()
    clients = ["192.0.2.1"] * 1_000
    assert not surplus(connections_of(*clients, "192.0.2.2"), limits)
    full = connections_of(*["192.0.2.1"] * limits.max_connections, "192.0.2.2")
    assert surplus(full, limits) == [(full[-2], "all")]


# -- over the wire ---------------------------------------------------------------------------------


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of connections that were found, look by look."""
    numbers: list[int] = []
    find = ConnectionFinder.find

    def note(finder: ConnectionFinder) -> list[Connection]:
        connections = find(finder)
        numbers.append(len(connections))
        return connections

    monkeypatch.setattr(ConnectionFinder, "find", note)
    return numbers


def test_newest_connections_of_a_peer_are_closed(
    serve: Callable[..., RunningServer], monkeypatch: pytest.MonkeyPatch, found: list[int]
) -> None:
    """And no others; what is closed makes room, and is counted."""
    monkeypatch.setattr("bilstm_server.rpc.flow.places._has_limit", lambda peer: True)
    server = serve(max_peer_connections=3)
    with ExitStack() as opened:
        kept = [opened.enter_context(PatientConnection(server.target)) for _ in range(3)]
        wait_for(lambda: 3 in found)
        with PatientConnection(server.target) as fourth:
            wait_for(lambda: fourth.ended, fourth)
        for connection in kept:
            connection.pump(0.1)
            assert not connection.ended
        wait_for(lambda: sample(server, "bilstm_connections_closed_total", limit="peer") == 1)
        kept.pop().__exit__()
        encodes(server)
        assert sample(server, "bilstm_connections_closed_total", limit="peer") == 1


def test_greedy_peer_leaves_room(serve: Callable[..., RunningServer]) -> None:
    """One that takes all it can get gives one of its connections to the next peer."""
    server = serve(max_connections=4)
    with ExitStack() as opened:
        greedy = [opened.enter_context(PatientConnection(server.target)) for _ in range(4)]
        wait_for(lambda: sample(server, "bilstm_connections") == 4)
        host, _, port = server.target.rpartition(":")
        newcomer = socket.create_connection((host, int(port)), source_address=("127.0.0.2", 0))
        opened.enter_context(newcomer)

        def ended() -> list[bool]:
            for connection in greedy:
                connection.pump(0)
            return [connection.ended for connection in greedy]

        wait_for(lambda: any(ended()))
        assert sum(ended()) == 1
        wait_for(lambda: sample(server, "bilstm_connections") == 4)
        newcomer.settimeout(HANGS_AFTER_SECONDS)
        assert newcomer.recv(1)  # the server's SETTINGS
    wait_for(lambda: sample(server, "bilstm_connections") == 0)
    assert sample(server, "bilstm_connections_closed_total", limit="all") == 1


def test_connections_are_found(tmp_path: Path) -> None:
    """Those that were accepted on the port, and neither what this process has connected nor what
    others serve; a number that is used again is another connection."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as other:
        finder = ConnectionFinder(one.getsockname()[1])
        assert finder.find() == []
        with socket.create_connection(one.getsockname()) as first:
            accepted, address = one.accept()
            with (
                socket.create_connection(("127.0.0.1", other.getsockname()[1])),
                other.accept()[0],
                accepted,
            ):
                (found,) = finder.find()
                assert found.address == address == first.getsockname()
                assert [found] == finder.find()
        assert finder.find() == []
        with socket.create_connection(one.getsockname()) as second, one.accept()[0]:
            (again,) = finder.find()
            assert again.address == second.getsockname()
            assert not found.end()
            assert again.end()
            assert second.recv(1) == b""
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "s"))
        unix.listen()
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(tmp_path / "s"))
            with unix.accept()[0]:
                assert [c.address[0] for c in ConnectionFinder(0).find()] == ["unix"]


# -- how old they become ---------------------------------------------------------------------------


@asynccontextmanager
async def aging_server(folder: Path, **values: object) -> AsyncIterator[tuple[App, Any, Any]]:
    """One whose connections become a tenth of a second old, and a client of it as gRPC makes it."""
    limits = settings(model=[("small", folder)], connection_age_seconds=0.1, **values)
    async with App(limits) as app, grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        await app.load()
        watch: Any = channel.unary_stream(WATCH)
        yield app, encoder_pb2_grpc.EncoderServiceStub(channel), watch


async def test_aged_connections_lose_no_call(model_folder: Path) -> None:
    """A client without a retry policy makes call after call while its connections age many times,
    and a stream that began over the first one goes on."""
    message = pb.EncodeRequest.FromString(request())
    addresses: set[Address] = set()
    async with aging_server(model_folder) as (app, stub, watch):
        finder = ConnectionFinder(app.port)
        watching = watch(b"")
        assert await watching.read() == b"\x08\x01"

        async def call() -> None:
            while len(addresses) < 10:
                await stub.Encode(message, timeout=HANGS_AFTER_SECONDS)
                addresses.update(connection.address for connection in finder.find())

        async with asyncio.timeout(HANGS_AFTER_SECONDS):
            await asyncio.gather(*(call() for _ in range(16)))
        assert not watching.done()
        watching.cancel()


async def test_grace_of_aged_connections(model_folder: Path) -> None:
    """Where there is one, a stream that takes longer ends as UNAVAILABLE with its connection."""
    async with aging_server(model_folder, connection_age_grace_seconds=0.1) as (_, _, watch):
        watching = watch(b"", timeout=HANGS_AFTER_SECONDS)
        assert await watching.read() == b"\x08\x01"
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await watching.read()
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE


# -- how long they may take to begin --------------------------------------------------------------


@pytest.mark.parametrize("greeting", [b"", b"PRI * HTTP/2.0", PREFACE], ids=repr)
def test_connection_that_does_not_begin(
    serve: Callable[..., RunningServer], greeting: bytes
) -> None:
    """What has not come as far as HTTP/2 in time is closed, whether it says something or not."""
    server = serve(handshake_seconds=0.5)
    with RawConnection(server.target, greeting) as silent:
        wait_for(lambda: not silent.read(0.1))
    encodes(server)


# The beginning of a ClientHello that has 508 bytes.
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


@pytest.mark.parametrize("greeting", [b"", HELLO], ids=["silence", "a part"])
def test_tls_handshake_that_does_not_end(
    serve: Callable[..., RunningServer], tmp_path: Path, greeting: bytes
) -> None:
    """It is closed in the same time, however it goes on, and others are served meanwhile."""
    authority = Authority(tmp_path)
    files = authority.issue()
    server = serve(handshake_seconds=0.5, tls_cert=files.certificate, tls_key=files.key)
    credentials = grpc.ssl_channel_credentials(authority.certificate)
    with RawConnection(server.target, greeting) as slow:
        with grpc.secure_channel(server.target, credentials) as channel:
            check: Any = channel.unary_unary(CHECK)
            assert check(b"", timeout=HANGS_AFTER_SECONDS) == b"\x08\x01"
        wait_for(lambda: not (slow.send(b"\0") and slow.read(0.1)))
