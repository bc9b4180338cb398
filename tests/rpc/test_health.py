"""What a server says of its health, while it loads, serves and drains, to those who ask and those
who watch.
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_server.app import App
from bilstm_server.engine.engine import Engine
from bilstm_server.serving.loading import load_engine
from bilstm_server.settings import Settings
from tests.support.servers import settings
from tests.support.waiting import HANGS_AFTER_SECONDS, until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health(channel: grpc.aio.Channel) -> list[int]:
    """Overall and of the service."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    checks = [health_pb2.HealthCheckRequest(service=s) for s in ("", "bilstm.v1.EncoderService")]
    return [(await stub.Check(check)).status for check in checks]


async def test_not_ready_until_loaded(model_folder: Path) -> None:
    """While a model loads the server is NOT_SERVING and every call UNAVAILABLE; when all are
    loaded and warm it is SERVING."""
    gate = threading.Event()

    def load_at_gate(folder: Path, settings: Settings) -> Engine:
        assert gate.wait(HANGS_AFTER_SECONDS)
        return load_engine(folder, settings)

    request = pb.EncodeRequest(sequences=[tensors.encode(np.ones((3, 5), "<f4"))])
    async with App(settings(model=[("small", model_folder)]), load_at_gate) as app:
        loading = asyncio.create_task(app.load())
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
                stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
                assert await health(channel) == [NOT_SERVING, NOT_SERVING]
                for call in (
                    stub.Encode(request),
                    stub.ListModels(pb.ListModelsRequest()),
                    stub.GetModel(pb.GetModelRequest()),
                ):
                    with pytest.raises(grpc.aio.AioRpcError) as refusal:
                        await call
                    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
                gate.set()
                await asyncio.wait_for(loading, HANGS_AFTER_SECONDS)
                assert await health(channel) == [SERVING, SERVING]
                assert len((await stub.Encode(request)).encodings) == 1
        finally:
            gate.set()
            await loading


@pytest.mark.parametrize("service_name", ["", "bilstm.v1.EncoderService"])
async def test_watch_sees_the_drain(model_folder: Path, service_name: str) -> None:
    """Who watches the health hears of SERVING, and of NOT_SERVING when the drain begins."""
    async with App(settings(model=[("small", model_folder)])) as app:
        await app.load()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest(service=service_name))
            async with asyncio.timeout(HANGS_AFTER_SECONDS):
                assert (await watch.read()).status == SERVING
                draining = asyncio.create_task(app.drain())
                assert (await watch.read()).status == NOT_SERVING
                watch.cancel()
                await draining


async def test_every_watcher_sees_the_drain(model_folder: Path) -> None:
    """Of many who watch, and whose first answers may still be on their way when the drain begins,
    each hears of it before its watch is ended."""
    async with App(settings(model=[("small", model_folder)])) as app:
        await app.load()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(100)]
            started = ("grpc_server_started_total", WATCH)
            async with asyncio.timeout(HANGS_AFTER_SECONDS):
                await until(lambda: app.metrics.registry.get_sample_value(*started) == 100)
                draining = asyncio.create_task(app.drain())
                for watch in watches:
                    while (await watch.read()).status != NOT_SERVING:
                        pass
                    watch.cancel()
                await draining


async def test_drain_does_not_wait_for_watchers(model_folder: Path) -> None:
    """A caller that watches the health for ever does not hold up the drain: it ends without
    using up the drain's timeout."""
    endless = settings(model=[("small", model_folder)], drain_timeout_seconds=24 * 3600)
    async with App(endless) as app:
        await app.load()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest())
            async with asyncio.timeout(HANGS_AFTER_SECONDS):
                assert (await watch.read()).status == SERVING
            try:
                async with asyncio.timeout(10):
                    await app.drain()
            finally:
                watch.cancel()


async def test_watchers_do_not_depend_on_each_other(model_folder: Path) -> None:
    """When one of two watchers leaves, the other still hears of the drain."""
    async with App(settings(model=[("small", model_folder)])) as app:
        await app.load()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            leaving, staying = (stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(2))
            handled = ("grpc_server_handled_total", WATCH | {"grpc_code": "CANCELLED"})
            try:
                async with asyncio.timeout(10):
                    for watch in (leaving, staying):
                        assert (await watch.read()).status == SERVING
                    leaving.cancel()
                    await until(lambda: app.metrics.registry.get_sample_value(*handled) == 1)
                    draining = asyncio.create_task(app.drain())
                    assert (await staying.read()).status == NOT_SERVING
            finally:
                staying.cancel()
            await draining


WATCH = {
    "grpc_type": "server_stream",
    "grpc_service": "grpc.health.v1.Health",
    "grpc_method": "Watch",
}
