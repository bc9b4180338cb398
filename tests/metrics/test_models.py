"""What a scrape says of models and the device, and that every metric is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from bilstm_server.app import App
from bilstm_server.engine.engine import Engine
from bilstm_server.metrics import Metrics, ModelMetrics
from bilstm_server.serving.loading import load_engine
from bilstm_server.settings import Settings
from tests.metrics.traffic import BATCHES, Traffic
from tests.support.servers import settings

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
    "bilstm_batch_limit_tokens": ("gauge", {"model"}),
    "bilstm_batch_compute_seconds": ("histogram", {"model"}),
    "bilstm_slice_compute_seconds": ("histogram", {"model"}),
    "bilstm_out_of_memory": ("counter", {"model"}),
    "bilstm_calls": ("gauge", set()),
    "bilstm_connections": ("gauge", set()),
    "bilstm_connections_closed": ("counter", {"limit"}),
    "bilstm_slow_requests": ("gauge", set()),
    "bilstm_reply_bytes": ("gauge", set()),
    "bilstm_streams": ("gauge", set()),
    "bilstm_streams_stalled": ("counter", {"reason"}),
    "bilstm_stream_bytes": ("gauge", set()),
    "bilstm_stream_limit_bytes": ("gauge", set()),
    "bilstm_spared_tokens": ("counter", {"model"}),
    "bilstm_wasted_tokens": ("counter", {"model"}),
    "bilstm_misjudged": ("counter", {"model"}),
    "bilstm_dropped": ("counter", {"model", "reason"}),
    "bilstm_caller_tokens": ("counter", {"model", "caller"}),
    "bilstm_caller_dropped": ("counter", {"model", "caller"}),
    "bilstm_model_info": ("gauge", {"model", "version", "kernel", "device", "dtype"}),
    "bilstm_model_load_seconds": ("gauge", {"model"}),
    "bilstm_log_lines_dropped": ("counter", set()),
    "bilstm_unauthorized": ("counter", {"reason"}),
}
# Of files that the settings name, of which there are none here: tests/rpc/security has them.
FILE_METRICS = {
    "bilstm_certificate_end_timestamp_seconds": ("gauge", {"setting"}),
    "bilstm_file_accepted_timestamp_seconds": ("gauge", {"setting"}),
    "bilstm_file_refused": ("gauge", {"setting"}),
    "bilstm_file_reloads": ("counter", {"setting", "outcome"}),
}
DEVICE_METRICS = {
    "bilstm_device_memory_bytes": ("gauge", {"device", "kind"}),
    "bilstm_device_utilization_ratio": ("gauge", {"device"}),
}


def test_every_metric_is_there(seen: Traffic) -> None:
    """Each metric has its kind and its labels; the device's are there only on a GPU."""
    absent_ones = set(FILE_METRICS)
    if seen.engines["small"].device.type != "cuda":
        absent_ones |= DEVICE_METRICS.keys()
    every = METRICS | FILE_METRICS | DEVICE_METRICS
    for name, (kind, labels) in every.items():
        assert seen.after.kinds[name] == kind, name
        absent = name in absent_ones
        assert seen.after.labels[name] == (set() if absent else {frozenset(labels)}), name
    ours = {
        name
        for name in seen.after.kinds
        if name.startswith(("bilstm_", "grpc_")) and not name.endswith("_created")
    }
    assert ours == every.keys()


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
        handle.watch_budget(lambda: 1_000 * version)
        handle.observe_out_of_memory()
        handle.observe_load(float(version))
        handle.observe_ready(str(version), "cpu", "cpu", "float32")
        handle.observe_encoded(1, version)
        handle.observe_caller("alice", version)
        handle.drop("invalid", "alice")
        return handle

    metrics.name_callers(["alice"])
    other = metrics.model("other")
    others = of("other")
    first, second = begin(1), begin(2)
    both = of("m")
    assert both["bilstm_queue_sequences"] == 1 + 2
    assert both["bilstm_queue_tokens"] == 10 + 20
    assert both["bilstm_queue_limit_tokens"] == 100 + 200
    assert both["bilstm_batch_limit_tokens"] == 1_000
    assert both["bilstm_out_of_memory_total"] == 2
    assert both["bilstm_model_load_seconds"] == 1 + 2
    assert both["bilstm_model_info 1"] == both["bilstm_model_info 2"] == 1
    first.end()
    left = of("m")
    assert left["bilstm_queue_sequences"] == 2
    assert left["bilstm_queue_tokens"] == 20
    assert left["bilstm_queue_limit_tokens"] == 200
    assert left["bilstm_batch_limit_tokens"] == 2_000
    assert left["bilstm_model_load_seconds"] == 2
    assert left["bilstm_sequences_total"] == both["bilstm_sequences_total"] == 2
    assert left["bilstm_caller_tokens_total"] == 1 + 2
    assert left["bilstm_caller_dropped_total"] == 2
    assert "bilstm_model_info 1" not in left
    second.end()
    assert of("m") == {}
    assert of("other") == others
    first.drop("cancelled")  # a caller that left late
    assert of("m") == {}
    other.end()


def test_only_named_callers_are_told_apart() -> None:
    """What a caller is called comes from outside: it is a label only if the configuration has the
    name, and without any name there are no series."""
    metrics = Metrics()
    model = metrics.model("m")
    told = metrics.registry.get_sample_value

    def tokens(caller: str) -> float | None:
        return told("bilstm_caller_tokens_total", {"model": "m", "caller": caller})

    model.observe_caller("alice", 1)
    assert tokens("") is tokens("alice") is None
    metrics.name_callers(["alice"])
    for caller, count in (("alice", 2), ("mallory", 3), ("", 4)):
        model.observe_caller(caller, count)
        model.drop("overloaded", caller)
    assert (tokens("alice"), tokens(""), tokens("mallory")) == (2, 7, None)
    assert told("bilstm_caller_dropped_total", {"model": "m", "caller": ""}) == 2


def test_names_that_are_no_longer_given_are_forgotten() -> None:
    """However often names change, there are series for those of now only; what a caller gets whose
    name is gone counts with all others."""
    metrics = Metrics()
    model = metrics.model("m")

    def callers() -> list[tuple[str, str, float]]:
        return sorted(
            (sample.labels["model"], sample.labels["caller"], sample.value)
            for family in metrics.registry.collect()
            for sample in family.samples
            if sample.name.startswith("bilstm_caller_")
        )

    for generation in range(100):
        metrics.name_callers(["alice", f"caller {generation}"])
        for name in ("alice", f"caller {generation}"):
            model.observe_caller(name, 1)
            metrics.no_model.drop("overloaded", name)
    assert callers() == [
        ("", "alice", 100),
        ("", "caller 99", 1),
        ("m", "alice", 100),
        ("m", "caller 99", 1),
    ]
    model.observe_caller("caller 0", 7)
    assert ("m", "", 7) in callers()


@pytest.mark.gpu
def test_device_metrics(seen: Traffic) -> None:
    """On a GPU its memory, by kind, and its utilisation are told."""
    if seen.engines["small"].device.type != "cuda":
        pytest.skip("needs a CUDA device")
    memory = seen.after.nonzero("bilstm_device_memory_bytes", "kind")
    assert memory.keys() == {("total",), ("free",), ("reserved",), ("allocated",)}
    assert memory["free",] <= memory["total",]
    assert memory["allocated",] <= memory["reserved",]
