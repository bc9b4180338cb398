"""Traffic that is known to the token. The engines stand at gates, so which requests share a batch,
wait, expire or are refused is decided here and not by chance.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_server.app import App
from bilstm_server.engine.staging import StagedBatch
from bilstm_server.settings import Settings
from tests.support.engines import Gated, GatedEngine
from tests.support.servers import settings
from tests.support.waiting import HANGS_AFTER_SECONDS, until

ENCODER = "bilstm.v1.EncoderService"
BATCHES = {"small": [[3], [2, 4, 5]], "tokens": [[4, 6], [1]]}  # steps of the sequences of each

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass(frozen=True)
class Scrape:
    """What /metrics said."""

    kinds: Mapping[str, str]  # of each metric
    labels: Mapping[str, set[frozenset[str]]]  # sets of label names of each metric
    samples: Samples

    @classmethod
    async def of(cls, app: App) -> Scrape:
        url = f"http://127.0.0.1:{app.metrics_port}/metrics"
        text = await asyncio.to_thread(lambda: urlopen(url, timeout=60).read().decode())
        families = list(text_string_to_metric_families(text))
        return cls(
            {family.name: family.type for family in families},
            {
                family.name: {frozenset(s.labels) - {"le"} for s in family.samples}
                for family in families
            },
            {(s.name, frozenset(s.labels.items())): s.value for f in families for s in f.samples},
        )

    def value(self, name: str, **labels: str) -> float:
        return self.samples[name, frozenset(labels.items())]

    def nonzero(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """The samples of that name that are not zero, by the values of `labels`."""
        return {
            tuple(dict(pairs)[label] for label in labels): value
            for (sample, pairs), value in self.samples.items()
            if sample == name and value
        }

    def at_most(self, name: str, model: str) -> dict[float, float]:
        """A histogram's buckets: how many observations are at most so large."""
        return {
            float(dict(pairs)["le"]): value
            for (sample, pairs), value in self.samples.items()
            if sample == f"{name}_bucket" and dict(pairs)["model"] == model
        }


@dataclass(frozen=True)
class Traffic:
    """A server after traffic that is known."""

    app: App
    engines: Mapping[str, GatedEngine]
    replies: Mapping[str, list[pb.EncodeResponse]]  # by model
    waiting: Scrape  # while three sequences waited
    after: Scrape


def floats(*steps: int, width: int = 5, **fields: Any) -> pb.EncodeRequest:
    xs = [tensors.encode(np.zeros((n, width), "<f4")) for n in steps]
    return pb.EncodeRequest(model="small", sequences=xs, **fields)


def ids(*steps: int) -> pb.EncodeRequest:
    xs = [tensors.encode(np.zeros(n, "<i8")) for n in steps]
    return pb.EncodeRequest(model="tokens", sequences=xs)


class Driver:
    """Sends the traffic."""

    def __init__(self, app: App, gated: Gated, channel: grpc.aio.Channel):
        self.app = app
        self.gated = gated
        self.channel = channel
        self.stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)

    async def refused(self, request: pb.EncodeRequest | bytes, **options: Any) -> grpc.StatusCode:
        encode: Any = self.channel.unary_unary(f"/{ENCODER}/Encode")
        data = request if isinstance(request, bytes) else request.SerializeToString()
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await encode(data, **options)
        return refusal.value.code()

    async def until_dropped(self, reason: str) -> None:
        labels = {"model": "small", "reason": reason}
        registry = self.app.metrics.registry
        await until(lambda: registry.get_sample_value("bilstm_dropped_total", labels) == 1)

    async def until_waiting(self, sequences: int) -> None:
        registry = self.app.metrics.registry
        labels = {"model": "small"}
        await until(
            lambda: registry.get_sample_value("bilstm_queue_sequences", labels) == sequences
        )

    async def refusals(self) -> None:
        """One of each kind of request that is refused at the door."""
        unknown = pb.EncodeRequest(model="nobody")
        version = pb.EncodeRequest(model="small", version="7")
        assert await self.refused(floats(3, width=4)) is grpc.StatusCode.INVALID_ARGUMENT
        assert await self.refused(floats(3, outputs=[99])) is grpc.StatusCode.INVALID_ARGUMENT
        assert await self.refused(b"\xff") is grpc.StatusCode.INVALID_ARGUMENT
        assert await self.refused(unknown) is grpc.StatusCode.NOT_FOUND
        assert await self.refused(version) is grpc.StatusCode.NOT_FOUND

    async def leavers(self) -> None:
        """Callers that are gone before the engine comes to them, and one for whom there is no
        room beside the three that wait."""
        late = await self.refused(floats(7), timeout=1.0)
        assert late is grpc.StatusCode.DEADLINE_EXCEEDED
        await self.until_dropped("expired")
        leaving = self.stub.Encode(floats(8))
        sending = asyncio.ensure_future(leaving.wait_for_connection())
        await self.until_waiting(4)
        sending.cancel()
        leaving.cancel()
        await self.until_dropped("cancelled")
        assert await self.refused(floats(16, 16)) is grpc.StatusCode.RESOURCE_EXHAUSTED

    async def failure(self) -> None:
        """One that the engine fails on."""

        def fault(staged: StagedBatch) -> None:
            raise RuntimeError("of the engine")

        engine = self.gated.engines["small"]
        engine.fault = fault
        assert await self.refused(floats(9)) is grpc.StatusCode.INTERNAL

    async def others(self) -> None:
        """RPCs beside Encode, streams among them."""
        await self.stub.ListModels(pb.ListModelsRequest())
        for _ in range(2):
            await self.stub.GetModel(pb.GetModelRequest())
        with pytest.raises(grpc.aio.AioRpcError):
            await self.stub.GetModel(pb.GetModelRequest(model="nobody"))
        health: Any = health_pb2_grpc.HealthStub(self.channel)
        await health.Check(health_pb2.HealthCheckRequest())
        with pytest.raises(grpc.aio.AioRpcError):
            await health.Check(health_pb2.HealthCheckRequest(service="nobody"))
        watch = health.Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        watch.cancel()
        stub_of: Any = reflection_pb2_grpc.ServerReflectionStub  # typed for blocking channels only
        reflection = stub_of(self.channel)
        asked = [reflection_pb2.ServerReflectionRequest(list_services="")] * 2
        assert len([reply async for reply in reflection.ServerReflectionInfo(iter(asked))]) == 2
        for method, code in (("Watch", "CANCELLED"), ("ServerReflectionInfo", "OK")):
            handled = "grpc_server_handled_total", labels_of(method) | {"grpc_code": code}
            await until(partial(self._has_handled, *handled))

    def _has_handled(self, name: str, labels: dict[str, str]) -> bool:
        return self.app.metrics.registry.get_sample_value(name, labels) == 1


def labels_of(method: str) -> dict[str, str]:
    kind, service = {
        "Watch": ("server_stream", "grpc.health.v1.Health"),
        "Check": ("unary", "grpc.health.v1.Health"),
        "ServerReflectionInfo": ("bidi_stream", "grpc.reflection.v1alpha.ServerReflection"),
    }.get(method, ("unary", ENCODER))
    return {"grpc_type": kind, "grpc_service": service, "grpc_method": method}


class LateGated(Gated):
    """Loads only when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.load = threading.Event()

    def __call__(self, folder: Path, settings: Settings) -> GatedEngine:
        assert self.load.wait(HANGS_AFTER_SECONDS)
        return super().__call__(folder, settings)


@asynccontextmanager
async def traffic(model_folder: Path, token_model_folder: Path) -> AsyncIterator[Traffic]:
    """All the traffic there is, and the server after it."""
    limits = settings(
        model=[("small", model_folder), ("tokens", token_model_folder)],
        max_sequence_tokens=16,
        max_batch_tokens=32,
        max_queue_tokens=32,
        caller_share="127.0.0.1=2",
        caller_priority="nobody=high",
    )
    gated = LateGated()
    async with App(limits, gated) as app:
        loading = asyncio.create_task(app.load())
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
                driver = Driver(app, gated, channel)
                assert await driver.refused(floats(3)) is grpc.StatusCode.UNAVAILABLE
                gated.load.set()
                await loading
                await driver.refusals()
                calls = [asyncio.ensure_future(answered(driver, floats(3)))]
                await gated.engines["small"].arrival()
                calls.append(asyncio.ensure_future(answered(driver, floats(2, 4))))
                await driver.until_waiting(2)
                calls.append(asyncio.ensure_future(answered(driver, floats(5))))
                await driver.until_waiting(3)
                await driver.leavers()
                waiting = await Scrape.of(app)
                gated.open()
                small = [await call for call in calls]
                tokens = [await answered(driver, request) for request in (ids(4, 6), ids(1))]
                await driver.failure()
                await driver.others()
                after = await Scrape.of(app)
                replies = {"small": small, "tokens": tokens}
                yield Traffic(app, gated.engines, replies, waiting, after)
        finally:
            gated.load.set()
            await loading
            gated.open()


async def answered(driver: Driver, request: pb.EncodeRequest) -> pb.EncodeResponse:
    reply = await driver.stub.Encode(request, timeout=HANGS_AFTER_SECONDS)
    assert isinstance(reply, pb.EncodeResponse)
    return reply
