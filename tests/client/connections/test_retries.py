"""Calls and streams against servers that refuse: tried again, and never more than helps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm_client import EncoderError, Unavailable
from bilstm_client._calls.retries import Attempts, Retries
from tests.client.streams.sources import Streams, X
from tests.client.streams.sources import connect as connect

Connect = Callable[..., Streams]


def unavailable(said: float | None = None) -> Unavailable:
    error = Unavailable(grpc.StatusCode.UNAVAILABLE, "no")
    error.retry_after_seconds = said
    return error


def test_one_at_a_time() -> None:
    """While a server fails, one call tries again, in pauses that grow; once it serves, all do."""
    retries = Retries(spread=lambda low, high: 1.0)
    calls = [Attempts(retries, 1000.0) for _ in range(100)]
    for call in calls:
        call.failed(unavailable(), 0.0)
    assert not any(call.pause(0.09) == 0 for call in calls)
    for now in (0.11, 0.32, 0.73, 1.24, 1.75):
        tried = [call for call in calls if call.pause(now) == 0]
        assert len(tried) == 1
        tried[0].failed(unavailable(), now)
        assert not any(call.pause(now + 0.01) == 0 for call in calls)
    retries.served()
    assert all(call.pause(1.8) == 0 for call in calls)


def test_patience_of_a_call() -> None:
    """A call waits for three seconds, and ends with the last error."""
    call = Attempts(Retries(), 1000.0)
    first, second = unavailable(), unavailable()
    call.failed(first, 10.0)
    while call.pause(12.9):
        pass
    call.failed(second, 12.9)
    with pytest.raises(Unavailable) as caught:
        call.pause(13.0)
    assert caught.value is second


def test_what_the_server_said() -> None:
    """No attempt comes before the server wants one, however long that is; and none is waited for
    that would come after the deadline."""
    call = Attempts(Retries(), 1000.0)
    call.failed(unavailable(20.0), 0.0)
    assert all(call.pause(now) > 0 for now in (0.1, 3.0, 10.0, 19.9))
    assert call.pause(24.0) == 0
    error = unavailable(30.0)
    with pytest.raises(Unavailable) as caught:
        Attempts(Retries(), 30.0).failed(error, 0.0)
    assert caught.value is error


def test_tokens() -> None:
    """Attempts again that fail use up what calls that are served have earned: a tenth each."""
    retries = Retries(spread=lambda low, high: 1.0)

    def attempts() -> int:
        """How many calls may have another attempt, if all of these fail."""
        count = 0
        while retries.failed(0.0, None, again=True):
            count += 1
        return count

    assert attempts() == 31
    assert not retries.failed(0.0, None, again=False)
    for _ in range(95):
        retries.served()
    assert retries.failed(0.0, None, again=False)
    assert attempts() == 8


class Refusing(grpc.GenericRpcHandler):
    """Counts what it refuses, until it serves."""

    def __init__(self) -> None:
        self.attempts: list[float] = []
        self.serves = False
        self.says: float | None = None

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if handler_call_details.method.endswith("/EncodeStream"):
            return grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.unary_unary_rpc_method_handler(self._call)

    def _refuse(self, context: grpc.ServicerContext) -> None:
        self.attempts.append(time.monotonic())
        if self.serves:
            return
        status = status_pb2.Status(code=14, message="no")
        if self.says is not None:
            delay = Duration(nanos=int(1e9 * self.says))
            status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        context.abort_with_status(rpc_status.to_status(status))

    def _call(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self._refuse(context)
        states = tensors.encode(np.zeros((len(X), 1), "f4"))
        reply = pb.EncodeResponse(encodings=[pb.Encoding(states=states)])
        return reply.SerializeToString()

    def _stream(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self._refuse(context)
        yield b""


@contextmanager
def refusing(port: int = 0) -> Iterator[tuple[Refusing, int]]:
    refuser = Refusing()
    with ThreadPoolExecutor(16) as pool:
        server = grpc.server(pool, [refuser], options=[("grpc.so_reuseport", 0)])
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        try:
            yield refuser, bound
        finally:
            server.stop(None).wait()


def encode(client: Streams) -> bool:
    try:
        client.encode(X)
    except EncoderError:
        return False
    return True


def test_retries_do_not_amplify(connect: Connect) -> None:
    """320 calls of a server that always says UNAVAILABLE are hardly more attempts; and it takes
    calls as soon as it serves."""
    with refusing() as (server, port), ThreadPoolExecutor(160) as pool:
        client = connect(f"127.0.0.1:{port}")
        assert not any(pool.map(encode, [client] * 320))
        assert 320 < len(server.attempts) <= 320 + 33
        server.attempts.clear()
        server.serves = True
        assert all(pool.map(encode, [client] * 320))
        assert len(server.attempts) == 320


def test_restart_loses_no_call(connect: Connect) -> None:
    """However many calls a restart meets: each is served by the successor."""
    with refusing() as (server, port), ThreadPoolExecutor(100) as pool:
        client = connect(f"127.0.0.1:{port}")
        server.serves = True
        assert encode(client)
        server.serves = False
        calls = [pool.submit(encode, client) for _ in range(100)]
        while len(server.attempts) < 100:
            time.sleep(0.01)
        server.serves = True
        assert all(call.result() for call in calls)
        assert len(server.attempts) < 240


def test_said_delay_is_kept(connect: Connect) -> None:
    """A call, and a stream, come again no sooner than they were told."""
    for call in (lambda c: c.encode(X), lambda c: list(c.encode_stream([X]))):
        with refusing() as (server, port):
            server.says = 0.4
            client = connect(f"127.0.0.1:{port}", timeout_seconds=1.5)
            with pytest.raises(EncoderError):
                call(client)
            assert len(server.attempts) >= 2
            pauses = np.diff(server.attempts)
            assert min(pauses) >= 0.39


def test_said_delay_beyond_the_timeout(connect: Connect) -> None:
    """Where they are told to come after their time, that is their end at once."""
    for call in (lambda c: c.encode(X), lambda c: list(c.encode_stream([X]))):
        with refusing() as (server, port):
            server.says = 0.9
            with pytest.raises(Unavailable) as caught:
                call(connect(f"127.0.0.1:{port}", timeout_seconds=0.8))
            assert caught.value.retry_after_seconds == pytest.approx(0.9)
            assert len(server.attempts) == 1


def test_closed_while_it_waits(connect: Connect) -> None:
    """To close the client ends the wait."""
    with refusing() as (server, port), ThreadPoolExecutor(1) as pool:
        client = connect(f"127.0.0.1:{port}")
        call = pool.submit(client.encode, X)
        while not server.attempts:
            time.sleep(0.01)
        client.close()
        with pytest.raises(EncoderError, match="the client was closed"):
            call.result()
