"""What patient peers of a server send, wait for and are counted as; and a server that is full."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks.faults.wire import PatientConnection
from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_server.app import App
from tests.support.engines import first_batcher, gated_server
from tests.support.servers import RunningServer, settings
from tests.support.waiting import HANGS_AFTER_SECONDS, until

ENCODE = "/bilstm.v1.EncoderService/Encode"
CHECK = "/grpc.health.v1.Health/Check"
EXHAUSTED = str(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])
MESSAGE_BYTES = 1024 * 1024


def request(steps: int = 4, **fields: Any) -> bytes:
    x = np.zeros((steps, 5), np.float32)
    return pb.EncodeRequest(sequences=[tensors.encode(x)], **fields).SerializeToString()


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
