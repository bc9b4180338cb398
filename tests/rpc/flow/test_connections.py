"""How many calls and connections there may be, and how they end. The peers are HTTP/2 clients that
stop where no gRPC client would.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from benchmarks.faults.wire import PatientConnection, RawConnection
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_server.app import App
from bilstm_server.rpc.flow.connections import end_connection
from tests.rpc.flow.peers import (
    CHECK,
    ENCODE,
    EXHAUSTED,
    MESSAGE_BYTES,
    encodes,
    full_server,
    request,
    sample,
    wait_for,
)
from tests.support.servers import RunningServer, settings
from tests.support.waiting import HANGS_AFTER_SECONDS

# -- requests ------------------------------------------------------------------------------------


async def test_calls_are_bounded(model_folder: Path) -> None:
    """One call too many is refused, and health is still told."""
    async with full_server(model_folder, max_calls=3) as (app, stub):
        with pytest.raises(grpc.aio.AioRpcError, match="3 calls are in flight") as refusal:
            await stub.Encode(pb.EncodeRequest.FromString(request()))
        assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        check: Any = grpc.aio.insecure_channel(f"127.0.0.1:{app.port}").unary_unary(CHECK)
        assert await check(b"") == b"\x08\x01"


async def test_more_calls_than_a_connection_may_have(model_folder: Path) -> None:
    """The rest waits in the client, and all are answered: none is refused for it."""
    limits = settings(model=[("small", model_folder)], max_connection_calls=4)
    message = pb.EncodeRequest.FromString(request())
    async with (
        App(limits) as app,
        grpc.aio.insecure_channel(
            f"127.0.0.1:{app.port}", options=[("grpc.enable_retries", 0)]
        ) as channel,
    ):
        await app.load()
        stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
        for _ in range(5):
            await asyncio.gather(*(stub.Encode(message) for _ in range(100)))


def test_connections_are_bounded(serve: Callable[..., RunningServer]) -> None:
    """One connection too many is closed; when another one has left, there is room again."""
    server = serve(max_connections=2)
    with RawConnection(server.target) as one, RawConnection(server.target) as other:
        assert one.read(0.2)
        assert other.read(0.2)
        with RawConnection(server.target) as third:
            for _ in range(10 * HANGS_AFTER_SECONDS):
                if not third.read(0.1):
                    break
            assert third.ended
        assert one.read()
    encodes(server)


def test_idle_connections_are_closed(serve: Callable[..., RunningServer]) -> None:
    """So that silent ones lock nobody out; one with a call is not idle, and one that begins a call
    after it was closed connects anew."""
    server = serve(connection_idle_seconds=0.5)
    with (
        PatientConnection(server.target) as idle,
        PatientConnection(server.target) as busy,
        grpc.insecure_channel(server.target) as channel,
    ):
        busy.begin("/grpc.health.v1.Health/Watch")
        stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
        message = pb.EncodeRequest.FromString(request())
        stub.Encode(message, timeout=HANGS_AFTER_SECONDS)
        wait_for(lambda: idle.ended, idle)
        busy.pump(0.5)
        assert not busy.ended
        stub.Encode(message, timeout=HANGS_AFTER_SECONDS)


@pytest.mark.parametrize("calls", [0, 1], ids=["without calls", "with a call"])
def test_callers_may_ping_every_ten_seconds(
    serve: Callable[..., RunningServer], monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """As they may in other servers: a quiet connection is not ended for it.

    Here in tenths of a second.
    """
    monkeypatch.setattr("bilstm_server.rpc.server._PING_SECONDS", 0.1)
    server = serve()
    with PatientConnection(server.target) as peer:
        for _ in range(calls):
            peer.begin("/grpc.health.v1.Health/Watch")
        for _ in range(10):
            quiet_until = time.perf_counter() + 0.15
            while (left := quiet_until - time.perf_counter()) > 0:
                peer.pump(left)
            peer.ping()
        peer.pump(0.5)
        assert not peer.ended


# -- replies -------------------------------------------------------------------------------------


def test_callers_of_a_unix_socket(model_folder: Path, tmp_path: Path) -> None:
    """One that takes no reply is ended, and with it whoever shares the socket; nobody is shut out
    for good."""
    running = RunningServer(
        settings(
            model=[("small", model_folder)],
            host=f"unix:{tmp_path}/s",
            reply_seconds=0.5,
            max_message_bytes=MESSAGE_BYTES,
            max_connection_reply_bytes=MESSAGE_BYTES,
            max_reply_bytes=3 * MESSAGE_BYTES,
        )
    )
    try:
        with PatientConnection(f"unix:{tmp_path}/s") as peer:
            for _ in range(8):
                peer.call(ENCODE, request(2000))
            wait_for(lambda: peer.ended, peer)
        with grpc.insecure_channel(f"unix:{tmp_path}/s") as channel:
            stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
            message = pb.EncodeRequest.FromString(request())
            stub.Encode(message, timeout=HANGS_AFTER_SECONDS, wait_for_ready=True)
    finally:
        running.close()


@pytest.mark.parametrize("first", ["greedy", "modest"])
def test_places_of_other_services_streams(serve: Callable[..., RunningServer], first: str) -> None:
    """Where they are all taken, one of the peer that has most is ended, whoever came first."""
    server = serve(max_calls=3)
    watch = "/grpc.health.v1.Health/Watch"
    labels = {
        "grpc_type": "server_stream",
        "grpc_service": "grpc.health.v1.Health",
        "grpc_method": "Watch",
    }

    def has_started(calls: int) -> bool:
        return sample(server, "grpc_server_started_total", **labels) == calls

    with PatientConnection(server.target) as greedy, PatientConnection(server.target) as modest:
        calls = [greedy, greedy, greedy, modest]
        for number, peer in enumerate(calls if first == "greedy" else reversed(calls), 1):
            peer.call(watch, b"")
            wait_for(partial(has_started, number))
        wait_for(lambda: bool(greedy.statuses), greedy)
        assert greedy.statuses == {1: EXHAUSTED}
        modest.pump(0.2)
        assert not modest.statuses


def test_end_connection(serve: Callable[..., RunningServer]) -> None:
    """The one that is named, and no other; what is no connection of this process is left alone."""
    server = serve()
    with PatientConnection(server.target) as one, PatientConnection(server.target) as other:
        host, port = one.address
        assert not end_connection(f"ipv4:{host}:1")
        assert end_connection(f"ipv4:{host}:{port}")
        wait_for(lambda: one.ended, one)
        other.pump(0.2)
        assert not other.ended


@pytest.mark.parametrize(
    ("peer", "listening"),
    [("ipv6:%5B::1%5D:{}", "[::1]"), ("ipv6:%5B::ffff:127.0.0.1%5D:{}", "127.0.0.1")],
)
def test_end_connection_over_ipv6(
    serve: Callable[..., RunningServer], peer: str, listening: str
) -> None:
    """A connection is found by its peer's name, over IPv6 and by addresses of IPv4 within it
    too."""
    server = serve(host=listening.strip("[]"))
    target = f"{listening}:{server.app.port}"
    with PatientConnection(target) as one:
        assert end_connection(peer.format(one.address[1]))
        wait_for(lambda: one.ended, one)
