"""A server that refuses every call, until it serves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from tests.client.streams.sources import X


class Refusing(grpc.GenericRpcHandler):
    """Counts what it refuses, less questions as to its health, until it serves."""

    def __init__(self) -> None:
        self.attempts: list[float] = []
        self.methods: list[str] = []  # of the attempts
        self.serves = False
        self.says: float | None = None

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method = handler_call_details.method.rpartition("/")[2]
        self.methods.append(method)
        if method == "EncodeStream":
            return grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.unary_unary_rpc_method_handler(self._check if method == "Check" else self._call)

    def _attempt(self, context: grpc.ServicerContext) -> None:
        self.attempts.append(time.monotonic())
        self._refuse(context)

    def _refuse(self, context: grpc.ServicerContext) -> None:
        if self.serves:
            return
        status = status_pb2.Status(code=14, message="no")
        if self.says is not None:
            delay = Duration(nanos=int(1e9 * self.says))
            status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        context.abort_with_status(rpc_status.to_status(status))

    def _check(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self._refuse(context)
        return b""

    def _call(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self._attempt(context)
        states = tensors.encode(np.zeros((len(X), 1), "f4"))
        reply = pb.EncodeResponse(encodings=[pb.Encoding(states=states)])
        return reply.SerializeToString()

    def _stream(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self._attempt(context)
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
