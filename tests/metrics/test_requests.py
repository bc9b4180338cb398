"""Metrics: a server of its own, traffic that is known to the token, and what a scrape says of it.

The engines stand at gates, so which requests share a batch, wait, expire or are refused is
decided here and not by chance.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
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
from bilstm_server.engine.engine import Engine
from bilstm_server.engine.staging import StagedBatch
from bilstm_server.metrics import DROP_REASONS, Metrics, ModelMetrics
from bilstm_server.serving.loading import load_engine
from bilstm_server.settings import Settings
from tests.support.engines import HANGS_AFTER_SECONDS, Gated, GatedEngine, until
from tests.support.servers import settings

ENCODER = "bilstm.v1.EncoderService"
RPC_LABELS = {"grpc_type", "grpc_service", "grpc_method"}
# Every metric and its labels, as the operator knows them.
METRICS: dict[str, tuple[str, set[str]]] = {
    "grpc_server_started": ("counter", RPC_LABELS),
    "grpc_server_handled": ("counter", RPC_LABELS | {"grpc_code"}),
    "grpc_server_handling_seconds": ("histogram", RPC_LABELS),
    "bilstm_sequences": ("counter", {"model"}),
    "bilstm_tokens": ("counter", {"model"}),
    "bilstm_queue_sequences": ("gauge", {"model"}),
    "bilstm_queue_tokens": ("gauge", {"model"}),
    "bilstm_queue_limit_tokens": ("gauge", {"model"}),
    "bilstm_queue_seconds": ("histogram", {"model"}),
    "bilstm_batch_sequences": ("histogram", {"model"}),
    "bilstm_batch_tokens": ("histogram", {"model"}),
    "bilstm_batch_compute_seconds": ("histogram", {"model"}),
    "bilstm_slice_compute_seconds": ("histogram", {"model"}),
    "bilstm_calls": ("gauge", set()),
    "bilstm_slow_requests": ("gauge", set()),
    "bilstm_reply_bytes": ("gauge", set()),
    "bilstm_streams": ("gauge", set()),
    "bilstm_streams_stalled": ("counter", {"reason"}),
    "bilstm_stream_bytes": ("gauge", set()),
    "bilstm_stream_limit_bytes": ("gauge", set()),
    "bilstm_dropped": ("counter", {"model", "reason"}),
    "bilstm_model_info": ("gauge", {"model", "version", "kernel", "device", "dtype"}),
    "bilstm_model_load_seconds": ("gauge", {"model"}),
    "bilstm_log_lines_dropped": ("counter", set()),
}
DEVICE_METRICS = {
    "bilstm_device_memory_bytes": ("gauge", {"device", "kind"}),
    "bilstm_device_utilization_ratio": ("gauge", {"device"}),
}
CODES = {
    "OK": 5,
    "UNAVAILABLE": 1,
    "INVALID_ARGUMENT": 3,
    "NOT_FOUND": 2,
    "RESOURCE_EXHAUSTED": 1,
    "DEADLINE_EXCEEDED": 1,
    "CANCELLED": 1,
    "INTERNAL": 1,
}
DROPPED = {
    ("small", "invalid"): 2,  # a wrong width, an unknown output
    ("small", "overloaded"): 1,
    ("small", "expired"): 1,
    ("small", "cancelled"): 1,
    ("small", "failed"): 1,
    ("", "invalid"): 3,  # an unknown model, an unknown version, and unreadable bytes
    ("", "loading"): 1,
}
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
        handled = ("grpc_server_handled_total", labels_of("Watch") | {"grpc_code": "CANCELLED"})
        await until(lambda: self.app.metrics.registry.get_sample_value(*handled) == 1)


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


@pytest.fixture(scope="module")
def seen(model_folder: Path, token_model_folder: Path) -> Traffic:
    """The traffic, driven once; the server is gone by then."""

    async def drive() -> Traffic:
        async with traffic(model_folder, token_model_folder) as done:
            return done

    return asyncio.run(drive())


def test_every_metric_is_there(seen: Traffic) -> None:
    """Each metric has its kind and its labels; the device's are there only on a GPU."""
    on_gpu = seen.engines["small"].device.type == "cuda"
    for name, (kind, labels) in (METRICS | DEVICE_METRICS).items():
        assert seen.after.kinds[name] == kind, name
        absent = name in DEVICE_METRICS and not on_gpu
        assert seen.after.labels[name] == (set() if absent else {frozenset(labels)}), name
    ours = {
        name
        for name in seen.after.kinds
        if name.startswith(("bilstm_", "grpc_")) and not name.endswith("_created")
    }
    assert ours == METRICS.keys() | DEVICE_METRICS.keys()


def test_waiting_sequences(seen: Traffic) -> None:
    """While the engine was busy the gauges showed exactly those that waited, and afterwards
    none."""
    assert seen.waiting.nonzero("bilstm_queue_sequences", "model") == {("small",): 3}
    assert seen.waiting.nonzero("bilstm_queue_tokens", "model") == {("small",): 2 + 4 + 5}
    assert seen.after.nonzero("bilstm_queue_sequences", "model") == {}
    assert seen.after.nonzero("bilstm_queue_tokens", "model") == {}


def test_sequences_and_tokens(seen: Traffic) -> None:
    """What was encoded is counted, and nothing else."""
    sequences = {(m,): sum(map(len, batches)) for m, batches in BATCHES.items()}
    tokens = {(m,): sum(map(sum, batches)) for m, batches in BATCHES.items()}
    assert seen.after.nonzero("bilstm_sequences_total", "model") == sequences
    assert seen.after.nonzero("bilstm_tokens_total", "model") == tokens


@pytest.mark.parametrize("model", BATCHES)
def test_batches(seen: Traffic, model: str) -> None:
    """The histograms of batches hold exactly the batches that were computed."""
    sizes = {
        "bilstm_batch_sequences": [len(batch) for batch in BATCHES[model]],
        "bilstm_batch_tokens": [sum(batch) for batch in BATCHES[model]],
    }
    for name, observed in sizes.items():
        assert seen.after.value(f"{name}_count", model=model) == len(observed)
        assert seen.after.value(f"{name}_sum", model=model) == sum(observed)
        buckets = seen.after.at_most(name, model)
        assert buckets == {le: sum(size <= le for size in observed) for le in buckets}
        assert len(buckets) > 10


@pytest.mark.parametrize("model", BATCHES)
def test_durations(seen: Traffic, model: str) -> None:
    """The durations are those that the callers were told: each batch's computation once, each
    sequence's wait once."""
    replies = seen.replies[model]
    queued = [r.timing.queue.ToTimedelta().total_seconds() for r in replies for _ in r.encodings]
    # The callers of one batch are all told of the same computation.
    computed = {r.timing.compute.ToTimedelta().total_seconds() for r in replies}
    for name, durations in (
        ("bilstm_queue_seconds", queued),
        ("bilstm_batch_compute_seconds", computed),
    ):
        assert seen.after.value(f"{name}_count", model=model) == len(durations)
        total = seen.after.value(f"{name}_sum", model=model)
        assert total == pytest.approx(sum(durations), abs=1e-5)
        bounds = sorted(seen.after.at_most(name, model))
        assert (bounds[0], bounds[-2]) == (0.0001, 10.0)


def test_dropped(seen: Traffic) -> None:
    """Each request without a result is counted once, under its reason and model."""
    assert seen.after.nonzero("bilstm_dropped_total", "model", "reason") == DROPPED


def test_reasons_are_there_before_they_happen(seen: Traffic) -> None:
    """Each reason of each model is there from the start, at zero, so that a rate can be taken."""
    reasons = set(DROP_REASONS)
    for model in BATCHES:
        for reason in reasons:
            seen.waiting.value("bilstm_dropped_total", model=model, reason=reason)


def test_encode_calls(seen: Traffic) -> None:
    """Each Encode call is counted when it starts and, once, with the code it ended with."""
    calls = seen.after.nonzero("grpc_server_handled_total", "grpc_method", "grpc_code")
    codes = {code: n for (method, code), n in calls.items() if method == "Encode"}
    assert codes == CODES
    labels = labels_of("Encode")
    assert seen.after.value("grpc_server_started_total", **labels) == sum(CODES.values())
    assert seen.after.value("grpc_server_handling_seconds_count", **labels) == sum(CODES.values())
    assert seen.after.value("grpc_server_handling_seconds_sum", **labels) > 0


@pytest.mark.parametrize(
    ("method", "codes"),
    [
        ("ListModels", {"OK": 1}),
        ("GetModel", {"OK": 2, "NOT_FOUND": 1}),
        ("Check", {"OK": 1, "NOT_FOUND": 1}),
        ("Watch", {"CANCELLED": 1}),
        ("ServerReflectionInfo", {"OK": 1}),
    ],
)
def test_other_calls(seen: Traffic, method: str, codes: dict[str, int]) -> None:
    """All other methods are counted too, streams as one call each."""
    labels = labels_of(method)
    for code, count in codes.items():
        handled = seen.after.value("grpc_server_handled_total", **labels, grpc_code=code)
        assert handled == count
    assert seen.after.value("grpc_server_started_total", **labels) == sum(codes.values())
    assert seen.after.value("grpc_server_handling_seconds_count", **labels) == sum(codes.values())


@pytest.mark.parametrize("model", BATCHES)
def test_model_info(seen: Traffic, model: str) -> None:
    """Each model tells its version, kernel, device and type, and how long it took to load."""
    engine = seen.engines["small" if model == "small" else "tokens"]
    labels = {
        "model": model,
        "version": "1",
        "kernel": engine.kernel,
        "device": str(engine.device),
        "dtype": "float32",
    }
    assert seen.after.value("bilstm_model_info", **labels) == 1
    assert seen.after.value("bilstm_model_load_seconds", model=model) > 0
    infos = seen.after.nonzero("bilstm_model_info", "model")
    assert infos == {(name,): 1 for name in BATCHES}


async def test_no_model_is_served_before_all_are_loaded(
    model_folder: Path, token_model_folder: Path
) -> None:
    """A model that is loaded is told of only when the last one is: then the server is ready."""
    told_while_loading = []

    def load(folder: Path, settings: Settings) -> Engine:
        told_while_loading.append(told_of())
        return load_engine(folder, settings)

    def told_of() -> int:
        families = app.metrics.registry.collect()
        return sum(len(f.samples) for f in families if f.name == "bilstm_model_info")

    both = [("small", model_folder), ("tokens", token_model_folder)]
    async with App(settings(model=both), load) as app:
        await app.load()
        assert told_while_loading == [0, 0]
        assert told_of() == 2


def test_metrics_go_with_the_model() -> None:
    """A version takes its share of the gauges with it, and the last one all that the model has."""
    metrics = Metrics()

    def of(model: str) -> dict[str, float]:
        return {
            f"{sample.name} {sample.labels.get('version', '')}".strip(): sample.value
            for family in metrics.registry.collect()
            for sample in family.samples
            if sample.labels.get("model") == model and not sample.name.endswith("_created")
        }

    def begin(version: int) -> ModelMetrics:
        handle = metrics.model("m")
        handle.watch_queue(lambda: version, lambda: 10 * version, 100 * version)
        handle.observe_load(float(version))
        handle.observe_ready(str(version), "cpu", "cpu", "float32")
        handle.observe_encoded(1, version)
        return handle

    other = metrics.model("other")
    others = of("other")
    first, second = begin(1), begin(2)
    both = of("m")
    assert both["bilstm_queue_sequences"] == 1 + 2
    assert both["bilstm_queue_tokens"] == 10 + 20
    assert both["bilstm_queue_limit_tokens"] == 100 + 200
    assert both["bilstm_model_load_seconds"] == 1 + 2
    assert both["bilstm_model_info 1"] == both["bilstm_model_info 2"] == 1
    first.end()
    left = of("m")
    assert left["bilstm_queue_sequences"] == 2
    assert left["bilstm_queue_tokens"] == 20
    assert left["bilstm_queue_limit_tokens"] == 200
    assert left["bilstm_model_load_seconds"] == 2
    assert left["bilstm_sequences_total"] == both["bilstm_sequences_total"] == 2
    assert "bilstm_model_info 1" not in left
    second.end()
    assert of("m") == {}
    assert of("other") == others
    first.drop("cancelled")  # a caller that left late
    assert of("m") == {}
    other.end()


@pytest.mark.gpu
def test_device_metrics(seen: Traffic) -> None:
    """On a GPU its memory, by kind, and its utilisation are told."""
    if seen.engines["small"].device.type != "cuda":
        pytest.skip("needs a CUDA device")
    memory = seen.after.nonzero("bilstm_device_memory_bytes", "kind")
    assert memory.keys() == {("total",), ("free",), ("reserved",), ("allocated",)}
    assert memory["free",] <= memory["total",]
    assert memory["allocated",] <= memory["reserved",]
