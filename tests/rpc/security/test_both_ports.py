"""What belongs to a port holds for both, --port and --tls-client-port."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bilstm_server import lifecycle
from bilstm_server.app import App
from bilstm_server.errors import ListenError
from tests.rpc.security.callers import (
    REQUEST,
    encode_outcome,
    outcome,
    ports_of,
    reflection_outcome,
    running,
    sample,
    secure_channel,
    stub_of,
)
from tests.rpc.security.conftest import Configure
from tests.rpc.security.test_reloading import reloaded
from tests.security.authority import Authority, Files
from tests.support.waiting import until

OK = grpc.StatusCode.OK
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


async def test_both_ports_follow_the_files(
    two_ports: Configure, authority: Authority, own: Files, tmp_path: Path
) -> None:
    """A new certificate of the server's is served on both ports; whom the authorities of callers
    vouch for follows their file. Connections that are open stay."""
    other, files, path = Authority(tmp_path, "other"), authority.issue(), tmp_path / "ca.pem"
    path.write_bytes(Authority(tmp_path, "nobody").certificate)
    values = {"tls_cert": files.certificate, "tls_key": files.key, "tls_client_ca": path}
    async with running(two_ports(**values)) as app:
        ports = ports_of(app)

        async def outcomes(authority: Authority) -> list[grpc.StatusCode]:
            channels = (secure_channel(app, authority, own, port=port) for port in ports.values())
            return [await encode_outcome(channel) for channel in channels]

        assert await outcomes(authority) == [OK, UNAVAILABLE]
        path.write_bytes((tmp_path / "callers.pem").read_bytes())
        await reloaded(app, "tls_client_ca")
        assert await outcomes(authority) == [OK, OK]
        async with secure_channel(app, authority, own, port=app.tls_client_port) as kept:
            assert await outcome(stub_of(kept).Encode(REQUEST)) is OK
            key, chain = other.issue().pair
            files.key.write_bytes(key)
            files.certificate.write_bytes(chain)
            await reloaded(app, "tls_cert")
            assert await outcome(stub_of(kept).Encode(REQUEST)) is OK
        assert await outcomes(other) == [OK, OK]
        assert await outcomes(authority) == [UNAVAILABLE, UNAVAILABLE]


@pytest.mark.parametrize(("health", "without_token"), [("open", OK), ("callers", UNAUTHENTICATED)])
async def test_health_and_reflection(
    health: str,
    without_token: grpc.StatusCode,
    two_ports: Configure,
    authority: Authority,
    own: Files,
    tokens: Path,
) -> None:
    """Both ports have them. With --health callers, and for reflection, a certificate is enough on
    its port, as for calls."""
    async with running(two_ports(tokens_file=tokens, health=health)) as app:
        for port, certificate, expected, reflected in (
            (app.port, None, without_token, UNAUTHENTICATED),
            (app.tls_client_port, own, OK, OK),
        ):
            async with secure_channel(app, authority, certificate, port=port) as channel:
                stub: Any = health_pb2_grpc.HealthStub(channel)
                assert await outcome(stub.Check(health_pb2.HealthCheckRequest())) is expected
                assert await reflection_outcome(channel) is reflected


async def test_both_ports_close(two_ports: Configure) -> None:
    """When the server has drained, nobody listens on either port."""
    async with running(two_ports()) as app:
        await app.drain()
        for port in ports_of(app).values():
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))


async def test_a_port_in_use(two_ports: Configure) -> None:
    """Where the second port can't be had its flag is blamed, and the first one is let go."""
    with socket.create_server(("127.0.0.1", 0)) as other, socket.create_server(("", 0)) as first:
        free, taken = first.getsockname()[1], other.getsockname()[1]
        first.close()
        with pytest.raises(ListenError, match=rf"{taken} \(--tls-client-port\): Address already"):
            async with App(two_ports(port=free, tls_client_port=taken)):
                pass
        socket.create_server(("127.0.0.1", free)).close()


# -- connections to both count together ------------------------------------------------------------


async def connected(app: App, count: int) -> None:
    await until(lambda: sample(app, "bilstm_connections") == count)


def has_ended(connection: socket.socket) -> bool:
    """Whether the server has closed the connection; it says nothing before a TLS client does."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


async def test_the_greediest_gives_way(two_ports: Configure) -> None:
    """Where connections to both ports take all places, the address that has most of them, over
    both, gives one to the next that comes, over either."""
    async with running(two_ports(max_connections=4)) as app:
        first, second = ports_of(app).values()
        greedy = [socket.create_connection(("127.0.0.1", p)) for p in (first, second) * 2]
        await connected(app, 4)
        assert not any(map(has_ended, greedy))
        newcomer = socket.create_connection(("127.0.0.1", second), source_address=("127.0.0.2", 0))
        await until(lambda: any(map(has_ended, greedy)))
        await connected(app, 4)
        assert sum(map(has_ended, greedy)) == 1
        assert not has_ended(newcomer)
        assert sample(app, "bilstm_connections_closed_total", limit="all") == 1
        for connection in (*greedy, newcomer):
            connection.close()


async def test_the_limit_of_a_peer(two_ports: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address has no more connections to both ports together than to one; the newest go."""
    monkeypatch.setattr("bilstm_server.rpc.flow.places._has_limit", lambda peer: True)
    async with running(two_ports(max_peer_connections=2)) as app:
        first, second = ports_of(app).values()
        connections = []
        for count, port in ((1, first), (2, second)):
            connections.append(socket.create_connection(("127.0.0.1", port)))
            await connected(app, count)
        newest = [socket.create_connection(("127.0.0.1", port)) for port in (first, second)]
        await until(lambda: all(map(has_ended, newest)))
        assert not any(map(has_ended, connections))
        for connection in (*connections, *newest):
            connection.close()


def test_descriptors_of_both(
    two_ports: Configure, with_tls: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are descriptors for both ports to be full for a moment, until some give way."""
    wanted: list[int] = []

    def allow(count: int) -> int:
        wanted.append(count)
        return count

    monkeypatch.setattr(lifecycle, "allow_descriptors", allow)
    for configured in (with_tls(max_connections=500), two_ports(max_connections=500)):
        lifecycle._allow_connections(configured)
    assert wanted[1] >= wanted[0] + 500


# The beginning of a ClientHello that has 508 bytes.
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


async def test_handshakes_that_do_not_end(two_ports: Configure) -> None:
    """They are closed on both ports."""
    async with running(two_ports(handshake_seconds=0.5)) as app:
        slow = [socket.create_connection(("127.0.0.1", port)) for port in ports_of(app).values()]
        for connection in slow:
            connection.sendall(HELLO)
        await until(lambda: all(map(has_ended, slow)))
        for connection in slow:
            connection.close()
