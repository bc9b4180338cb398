"""What a call may take of the server before it is admitted, and after it is answered: requests that
come slowly or never, replies that nobody takes, calls and connections without end.

The peers are HTTP/2 clients that stop where no gRPC client would.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from conftest import RunningServer, settings
from engines import HANGS_AFTER_SECONDS, first_batcher, gated_server, until

from benchmarks.faults.wire import PatientConnection, RawConnection
from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_server.app import App
from bilstm_server.errors import Overloaded
from bilstm_server.metrics import Metrics
from bilstm_server.rpc.flow.connections import end_connection
from bilstm_server.rpc.flow.untaken import UntakenReplies
from bilstm_server.settings import ReplyLimits

ENCODE = "/bilstm.v1.EncoderService/Encode"
CHECK = "/grpc.health.v1.Health/Check"
EXHAUSTED = str(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])
LATE = str(grpc.StatusCode.DEADLINE_EXCEEDED.value[0])
MESSAGE_BYTES = 1024 * 1024


def request(steps: int = 4, **fields: Any) -> bytes:
    x = np.zeros((steps, 5), np.float32)
    return pb.EncodeRequest(sequences=[tensors.encode(x)], **fields).SerializeToString()


@pytest.fixture
def serve(model_folder: Path) -> Iterator[Callable[..., RunningServer]]:
    """Runs a server with settings of the test's own."""
    with ExitStack() as running:

        def start(**values: object) -> RunningServer:
            server = RunningServer(
                settings(model=[("small", model_folder)], max_message_bytes=MESSAGE_BYTES, **values)
            )
            running.callback(server.close)
            return server

        yield start


def encodes(server: RunningServer) -> None:
    """Another caller is served as ever, once it is connected."""
    with grpc.insecure_channel(server.target) as channel:
        stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
        message = pb.EncodeRequest.FromString(request())
        stub.Encode(message, timeout=HANGS_AFTER_SECONDS, wait_for_ready=True)


def sample(server: RunningServer, name: str, **labels: str) -> float:
    return server.app.metrics.registry.get_sample_value(name, labels) or 0.0


def handled(server: RunningServer, code: str) -> float:
    return sample(
        server,
        "grpc_server_handled_total",
        grpc_type="unary",
        grpc_service="bilstm.v1.EncoderService",
        grpc_method="Encode",
        grpc_code=code,
    )


def wait_for(is_so: Callable[[], bool], connection: PatientConnection | None = None) -> None:
    """Wait until it is so, and take meanwhile what comes over the connection."""
    for _ in range(50 * HANGS_AFTER_SECONDS):
        if is_so():
            return
        if connection is None or connection.ended:
            time.sleep(0.02)  # the server runs in threads that set no event here
        else:
            connection.pump(0.02)
    raise AssertionError("it never came")


# -- requests ---------------------------------------------------------------------------------


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
    server = serve()
    with PatientConnection(server.target) as peer:
        stream = peer.begin(ENCODE)
        peer.end(stream)
        wait_for(lambda: bool(peer.statuses), peer)
        assert peer.statuses == {1: str(grpc.StatusCode.INVALID_ARGUMENT.value[0])}


@asynccontextmanager
async def full_server(model_folder: Path, **values: object) -> AsyncIterator[tuple[App, Any]]:
    """A server whose queue is full: one call is computed, another one waits."""
    limits = settings(
        model=[("small", model_folder)],
        max_sequence_tokens=4,
        max_batch_tokens=4,
        max_queue_tokens=4,
        max_request_sequences=1,
        **values,
    )
    async with (
        gated_server(limits) as (app, gated),
        grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel,
    ):
        stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
        calls = []
        for _ in range(3):  # computed, staged, waiting
            calls.append(stub.Encode(pb.EncodeRequest.FromString(request())))
            await until(lambda: _waiting(app) == len(calls))
        yield app, stub
        gated.open()
        await asyncio.gather(*calls)


def _waiting(app: App) -> int:
    return first_batcher(app)._calls


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


# -- replies ----------------------------------------------------------------------------------

NO_MODEL = Metrics().no_model
REPLY_BYTES = 2000 * 12 * 4 + 24 * 1024  # the small model's states, and what a call takes


def test_replies_that_nobody_takes(serve: Callable[..., RunningServer]) -> None:
    """They are bounded for each connection, in all, and in time: then the connection is ended, its
    calls are not counted as OK, and others have been served all the while."""
    server = serve(max_connection_reply_bytes=MESSAGE_BYTES, reply_seconds=1.0)
    most = MESSAGE_BYTES // REPLY_BYTES
    with PatientConnection(server.target) as peer:
        for _ in range(most + 3):
            peer.call(ENCODE, request(2000), seconds=10)
        encodes(server)
        wait_for(lambda: len(peer.statuses) == 3, peer)
        assert set(peer.statuses.values()) == {EXHAUSTED}
        wait_for(lambda: sample(server, "bilstm_reply_bytes") == most * REPLY_BYTES)
        wait_for(lambda: peer.ended, peer)
        encodes(server)
    wait_for(lambda: sample(server, "bilstm_reply_bytes") == 0)
    assert handled(server, "CANCELLED") == most
    assert handled(server, "OK") == 2
    assert sample(server, "bilstm_dropped_total", model="small", reason="stalled") == most


class FakeContext:
    """Of a call from that peer, until `end`."""

    def __init__(self, peer: str):
        self._peer = peer
        self._callbacks: list[Callable[[object], None]] = []

    def peer(self) -> str:
        return self._peer

    def add_done_callback(self, callback: Callable[[object], None]) -> None:
        self._callbacks.append(callback)

    def end(self) -> None:
        for callback in self._callbacks:
            callback(self)


def context(peer: str) -> Any:
    return FakeContext(peer)


@pytest.fixture
def small_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that take nothing beside their replies."""
    monkeypatch.setattr("bilstm_server.rpc.flow.untaken._CALL_BYTES", 0)


def untaken_replies(
    max_connection_reply_bytes: int, end_connection: Callable[[str], bool]
) -> UntakenReplies:
    """Room for a thousand bytes."""
    limits = ReplyLimits(
        max_reply_bytes=1000, max_connection_reply_bytes=max_connection_reply_bytes
    )
    return UntakenReplies(limits, end_connection)


async def test_no_connection_may_hold_more_than_it_leaves(small_calls: None) -> None:
    """So that another one finds room, and another one after that."""
    replies = untaken_replies(1000, lambda peer: True)
    held: dict[str, int] = {}
    for peer in ("a", "b", "c"):
        with suppress(Overloaded):
            while True:
                replies.begin(context(peer), 10, NO_MODEL)
                held[peer] = held.get(peer, 0) + 10
    assert held == {"a": 500, "b": 250, "c": 120}


async def test_who_holds_most_and_takes_nothing_is_ended_for_others(small_calls: None) -> None:
    """However many connections try to hold all, one that takes its replies is not refused."""
    ended: list[str] = []

    def end(peer: str) -> bool:
        ended.append(peer)
        return True

    replies = untaken_replies(1000, end)
    now = asyncio.get_running_loop().time()
    calls: dict[str, list[Any]] = {}
    for number in range(50):
        peer = f"hog {number}"
        with suppress(Overloaded):
            while True:
                call = context(peer)
                replies.begin(call, 10, NO_MODEL).given_at = now - 10  # and not taken since
                calls.setdefault(peer, []).append(call)
        for gone in ended:  # gRPC finds its connection ended, and then its calls
            for call in calls.pop(gone, ()):
                call.end()
        replies._relieved_at = now - 10  # time passes
        taken = context("polite")
        replies.begin(taken, 10, NO_MODEL)
        taken.end()
    assert "polite" not in ended
    assert ended


async def test_peers_without_names_are_not_taken_for_one_connection(small_calls: None) -> None:
    """Those of a Unix socket are all called the same."""
    replies = untaken_replies(10, lambda peer: True)
    for _ in range(40):
        replies.begin(context("unix:"), 10, NO_MODEL)


async def test_taken_replies_make_room(small_calls: None) -> None:
    replies = untaken_replies(100, lambda peer: True)
    first = context("ipv4:127.0.0.1:1")
    replies.begin(first, 100, NO_MODEL)
    with pytest.raises(Overloaded, match="not taken"):
        replies.begin(first, 1, NO_MODEL)
    first.end()
    assert replies.used == 0
    replies.begin(first, 100, NO_MODEL)


def test_replies_of_other_methods_count(serve: Callable[..., RunningServer]) -> None:
    """Health checks whose answers nobody takes, too: their connection is ended."""
    server = serve(reply_seconds=0.5)
    with PatientConnection(server.target, stream_window=0) as peer:
        for _ in range(5):
            peer.call(CHECK, b"")
        wait_for(lambda: sample(server, "bilstm_reply_bytes") > 5 * 24 * 1024, peer)
        wait_for(lambda: peer.ended, peer)
    wait_for(lambda: sample(server, "bilstm_reply_bytes") == 0)
    encodes(server)


def test_reply_that_was_not_taken_before_the_deadline(serve: Callable[..., RunningServer]) -> None:
    """It is not counted as OK."""
    server = serve()
    with PatientConnection(server.target) as peer:
        peer.call(ENCODE, request(2000), headers=(("grpc-timeout", "1S"),))
        wait_for(lambda: handled(server, "DEADLINE_EXCEEDED") == 1)
    assert handled(server, "OK") == 0


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
    server = serve(host=listening.strip("[]"))
    target = f"{listening}:{server.app.port}"
    with PatientConnection(target) as one:
        assert end_connection(peer.format(one.address[1]))
        wait_for(lambda: one.ended, one)
