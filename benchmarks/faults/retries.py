"""A server that always says UNAVAILABLE: how many attempts the project's client makes of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import grpc
import numpy as np

from bilstm_client import Client, EncoderError

from .findings import Finding
from .messages import STREAM_PATH
from .prober import ENCODE

NAME = "retries"
_CALLS, _CALLERS = 320, 32
_STREAMS, _STREAM_SECONDS = 16, 5.0
_MOST_PER_CALL = 1.2
_X = np.zeros((8, 12), np.float32)


def trial() -> Iterator[Finding]:
    with _unavailable() as (target, attempts):
        with Client(target) as client, ThreadPoolExecutor(_CALLERS) as pool:
            list(pool.map(lambda _: _encode(client), range(_CALLS)))
        sent = f"{_CALLS} calls to a server that is always UNAVAILABLE"
        made = attempts[ENCODE] / _CALLS
        yield Finding(NAME, sent, "attempts", attempts[ENCODE])
        yield Finding(NAME, sent, "attempts of a call", made, most=_MOST_PER_CALL)
        with Client(target) as client, ThreadPoolExecutor(_STREAMS) as pool:
            list(pool.map(lambda _: _stream(client), range(_STREAMS)))
        sent = f"{_STREAMS} streams of {_STREAM_SECONDS:.0f} s to it"
        made = attempts[STREAM_PATH] / _STREAMS
        yield Finding(NAME, sent, "attempts of a stream", made)


def _encode(client: Client) -> None:
    with suppress(EncoderError):
        client.encode(_X)


def _stream(client: Client) -> None:
    with suppress(EncoderError):
        list(client.encode_stream([_X], timeout_seconds=_STREAM_SECONDS))


@contextmanager
def _unavailable() -> Iterator[tuple[str, dict[str, int]]]:
    """Its address, and its count of attempts by path."""
    attempts = {ENCODE: 0, STREAM_PATH: 0}
    counting = threading.Lock()

    class Handlers(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> Any:
            path = details.method
            with counting:
                attempts[path] = attempts.get(path, 0) + 1

            def refuse(request: Any, context: grpc.ServicerContext) -> Any:
                context.abort(grpc.StatusCode.UNAVAILABLE, "always")

            if path == STREAM_PATH:
                return grpc.stream_stream_rpc_method_handler(refuse)
            return grpc.unary_unary_rpc_method_handler(refuse)

    server = grpc.server(ThreadPoolExecutor(_CALLERS))
    server.add_generic_rpc_handlers((Handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", attempts
    finally:
        server.stop(None).wait()
