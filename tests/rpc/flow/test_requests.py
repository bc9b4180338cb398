"""What a call may take before it is admitted: requests that come slowly, never, or too many at
once. The peers are HTTP/2 clients that stop where no gRPC client would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from benchmarks.faults.wire import PatientConnection
from bilstm.v1 import encoder_pb2 as pb
from bilstm_server.app import App
from tests.rpc.flow.peers import (
    CHECK,
    ENCODE,
    EXHAUSTED,
    MESSAGE_BYTES,
    encodes,
    full_server,
    handled,
    request,
    sample,
    wait_for,
)
from tests.support.servers import RunningServer, settings
from tests.support.waiting import HANGS_AFTER_SECONDS, until

LATE = str(grpc.StatusCode.DEADLINE_EXCEEDED.value[0])


# -- requests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [ENCODE, CHECK, "/grpc.health.v1.Health/Watch"])
@pytest.mark.parametrize("missing", [None, 1], ids=["nothing but headers", "all but a byte"])
def test_request_that_never_ends(
    serve: Callable[..., RunningServer], path: str, missing: int | None
) -> None:
    """A request of any method that does not come in time is refused, and another one is not."""
    server = serve(receive_seconds=0.3)
    with PatientConnection(server.target) as peer:
        if missing is None:
            stream = peer.begin(path)
        else:
            peer.call(path, request(), missing)
            stream = 1
        encodes(server)
        wait_for(lambda: stream in peer.statuses, peer)
        assert peer.statuses == {stream: LATE}
    encodes(server)


def test_slow_requests_give_way(serve: Callable[..., RunningServer]) -> None:
    """No more requests that come slowly than fit into their budget: one more, and the one that has
    taken longest is refused, of the connection that has most of them. Others are served."""
    server = serve(max_receive_bytes=2 * MESSAGE_BYTES)
    with PatientConnection(server.target) as modest, PatientConnection(server.target) as greedy:
        modest.begin(ENCODE)
        first = greedy.begin(ENCODE)
        encodes(server)
        wait_for(lambda: sample(server, "bilstm_slow_requests") == 2, greedy)
        second = greedy.begin(ENCODE)
        wait_for(lambda: bool(greedy.statuses), greedy)
        assert greedy.statuses == {first: EXHAUSTED}
        encodes(server)
        modest.pump(0.1)
        assert not modest.statuses
        assert second not in greedy.statuses
        assert sample(server, "bilstm_slow_requests") == 2
    wait_for(lambda: sample(server, "bilstm_slow_requests") == 0)


def test_slow_request_that_comes_after_all(serve: Callable[..., RunningServer]) -> None:
    """A request may take its time, and is answered then."""
    server = serve()
    message = request()
    with PatientConnection(server.target) as peer:
        peer.call(ENCODE, message, missing=1)
        wait_for(lambda: sample(server, "bilstm_slow_requests") == 1, peer)
        peer.send(1, message[-1:], end=True)
        wait_for(lambda: bool(peer.statuses), peer)
        assert peer.statuses == {1: "0"}
    assert sample(server, "bilstm_slow_requests") == 0


def test_what_is_not_received_is_counted(serve: Callable[..., RunningServer]) -> None:
    """A message of more than there may be is refused by gRPC itself, which looks like a caller that
    has left; one that comes too late is told so."""
    server = serve(receive_seconds=0.3)

    def dropped(reason: str) -> float:
        return sample(server, "bilstm_dropped_total", model="", reason=reason)

    with grpc.insecure_channel(server.target) as channel:
        send: Any = channel.unary_unary(ENCODE)
        with pytest.raises(grpc.RpcError, match="larger than max"):
            send(bytes(2 * MESSAGE_BYTES))
    wait_for(lambda: dropped("cancelled") == 1)
    assert handled(server, "CANCELLED") == 1
    with PatientConnection(server.target) as peer:
        peer.begin(ENCODE)
        wait_for(lambda: bool(peer.statuses), peer)
    assert dropped("expired") == 1
    assert dropped("cancelled") == 1


def test_call_without_a_message(serve: Callable[..., RunningServer]) -> None:
    """A call that ends without a message is INVALID_ARGUMENT."""
    server = serve()
    with PatientConnection(server.target) as peer:
        stream = peer.begin(ENCODE)
        peer.end(stream)
        wait_for(lambda: bool(peer.statuses), peer)
        assert peer.statuses == {1: str(grpc.StatusCode.INVALID_ARGUMENT.value[0])}


async def test_full_queue_refuses_before_a_request_is_read(model_folder: Path) -> None:
    """Where there is no room for any, the headers are enough to be refused by."""
    async with full_server(model_folder) as (app, _):
        target = f"127.0.0.1:{app.port}"

        def refused() -> dict[int, str]:
            with PatientConnection(target) as peer:
                peer.begin(ENCODE)
                wait_for(lambda: bool(peer.statuses), peer)
                return peer.statuses

        assert await asyncio.to_thread(refused) == {1: EXHAUSTED}
        dropped = ("bilstm_dropped_total", {"model": "small", "reason": "overloaded"})
        assert app.metrics.registry.get_sample_value(*dropped) == 1


async def test_refusals_say_when_to_come_again_in_trailers_too(model_folder: Path) -> None:
    """What RetryInfo says, gRPC's own retries are told by a trailer."""
    async with full_server(model_folder) as (_, stub):
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await stub.Encode(pb.EncodeRequest.FromString(request()))
        trailers = dict(refusal.value.trailing_metadata())
        assert int(trailers["grpc-retry-pushback-ms"]) > 0


# -- replies -------------------------------------------------------------------------------------


async def test_drain_waits_for_no_half_sent_request(model_folder: Path) -> None:
    """Nothing of it was accepted; its caller is to go elsewhere."""
    limits = settings(model=[("small", model_folder)], drain_timeout_seconds=HANGS_AFTER_SECONDS)
    async with App(limits) as app:
        await app.load()
        target = f"127.0.0.1:{app.port}"
        with PatientConnection(target) as peer:
            for path in (ENCODE, CHECK):
                await asyncio.to_thread(peer.call, path, request(), 1)
            await until(lambda: app.metrics.registry.get_sample_value("bilstm_slow_requests") == 2)
            draining = asyncio.create_task(app.drain())
            await asyncio.to_thread(wait_for, lambda: peer.ended or len(peer.statuses) == 2, peer)
            async with asyncio.timeout(HANGS_AFTER_SECONDS / 2):
                assert await draining
