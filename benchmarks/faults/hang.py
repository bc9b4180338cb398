"""An engine that hangs, a device that is lost, an event loop that stands still: how long it takes
until whoever watches the server's health knows, until its process has ended, and until the next
one serves.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm_server.process.ending import FAILED_CODE
from bilstm_server.testing import ServerProcess

from .faulty import HANGS, LOSES, STALLS
from .findings import Finding
from .prober import ENCODE

NAME = "hang"
_BOUND_SECONDS = 3.0
_MOST_SECONDS = 1.0  # beyond the bound
_PATIENCE_SECONDS = 60.0
_IN_WORDS = "said NOT_SERVING"
_WIDTH = 12  # of the model that ships
_FAULTS = {  # by what is sent: what fails, and the bound that it has
    HANGS: ("an engine that does not return", _BOUND_SECONDS),
    LOSES: ("a device that is lost", 0.0),
    STALLS: ("an event loop that stands still", _BOUND_SECONDS),
}
_SERVING = health_pb2.HealthCheckResponse.SERVING


def trial() -> Iterator[Finding]:
    for steps, (fault, bound) in _FAULTS.items():
        sent = f"{fault}, its bound {bound:g} s" if bound else fault
        with ExitStack() as running:
            server = running.enter_context(_server(0))
            port = server.wait_for("listening")["port"]
            channel = running.enter_context(grpc.insecure_channel(server.target))
            encode: Any = channel.unary_unary(ENCODE)
            encode(_request(8))
            health: Any = health_pb2_grpc.HealthStub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=_PATIENCE_SECONDS)
            assert next(watch).status == _SERVING
            began_at = time.perf_counter()
            failing = encode.future(_request(steps))
            said = _said(watch)
            told = time.perf_counter() - began_at - bound
            code = server.wait()
            ended = time.perf_counter() - began_at - bound
            yield Finding(NAME, sent, f"until the health {said}", told, "s", _MOST_SECONDS)
            if steps != STALLS:  # such a loop can say nothing
                yield Finding(NAME, sent, "it said so in words", said == _IN_WORDS, least=1)
            yield Finding(NAME, sent, "until the process had ended", ended, "s")
            yield Finding(NAME, sent, f"exited with {FAILED_CODE}", code == FAILED_CODE, least=1)
            unavailable = failing.code() is grpc.StatusCode.UNAVAILABLE
            yield Finding(NAME, sent, "its call ended as UNAVAILABLE", unavailable, least=1)
            running.enter_context(_server(port))
            encode(_request(8), wait_for_ready=True)
            served = time.perf_counter() - began_at - bound
            yield Finding(NAME, sent, "until the next process served", served, "s")


@contextmanager
def _server(port: int) -> Iterator[ServerProcess]:
    bounds = (f"--hang-seconds={_BOUND_SECONDS}", f"--stall-seconds={_BOUND_SECONDS}")
    server = ServerProcess(f"--port={port}", *bounds, module="benchmarks.faults.faulty")
    try:
        server.wait_for("ready")
        yield server
    finally:
        server.kill()


def _request(steps: int) -> bytes:
    x = np.zeros((steps, _WIDTH), np.float32)
    return pb.EncodeRequest(sequences=[tensors.encode(x)]).SerializeToString()


def _said(watch: Any) -> str:
    """Wait until the watch says that it does not serve, or is broken off, which says the same."""
    try:
        while next(watch).status == _SERVING:
            pass
    except grpc.RpcError:
        return "was broken off"
    return _IN_WORDS
