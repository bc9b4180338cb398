"""The spans of a real server, as a real collector receives them over OTLP; and what happens without
a collector, without OpenTelemetry, and without traces.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import structlog
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_server.app import App
from bilstm_server.engine.staging import StagedBatch
from tests.support.engines import HANGS_AFTER_SECONDS, Gated, gated_server, until
from tests.support.servers import settings, start_error

METHOD = "bilstm.v1.EncoderService/Encode"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
UNSAMPLED = (("traceparent", f"00-{TRACE}-{PARENT}-00"),)

Metadata = tuple[tuple[str, str], ...]


class Collector(otlp_grpc.TraceServiceServicer):
    """An OTLP collector that keeps what it receives."""

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._arrived = threading.Condition()
        self.resource: dict[str, Any] = {}
        self.answers = threading.Event()  # cleared: it takes spans, and does not say so
        self.answers.set()
        self._server = grpc.server(ThreadPoolExecutor(2))
        add: Any = otlp_grpc.add_TraceServiceServicer_to_server  # generated, without types
        add(self, self._server)
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def Export(  # noqa: N802
        self, request: otlp.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> otlp.ExportTraceServiceResponse:
        with self._arrived:
            for group in request.resource_spans:
                self.resource = attributes(group.resource)
                self._spans += [span for scope in group.scope_spans for span in scope.spans]
            self._arrived.notify_all()
        assert self.answers.wait(HANGS_AFTER_SECONDS)
        return otlp.ExportTraceServiceResponse()

    @property
    def spans(self) -> list[Span]:
        with self._arrived:
            return list(self._spans)

    async def requests(self, count: int = 1) -> list[Span]:
        """The first so many request spans, once they are there; a request's come last of its."""

        def wait() -> list[Span]:
            def found() -> list[Span]:
                return [span for span in self._spans if span.name == METHOD]

            with self._arrived:
                assert self._arrived.wait_for(lambda: len(found()) >= count, HANGS_AFTER_SECONDS)
                return found()[:count]

        return await asyncio.to_thread(wait)

    def children(self, parent: Span) -> list[Span]:
        """In the order of their starts; equal ones in that of their ends."""
        own = [span for span in self.spans if span.parent_span_id == parent.span_id]
        return sorted(own, key=lambda s: (s.start_time_unix_nano, s.end_time_unix_nano))

    def batches(self, parent: Span) -> list[Span]:
        """The batches that a request's stages link to, in order."""
        by_id = {(span.trace_id, span.span_id): span for span in self.spans}
        links = [link for child in self.children(parent) for link in child.links]
        return [by_id[link.trace_id, link.span_id] for link in links]

    def close(self) -> None:
        self.answers.set()
        self._server.stop(None).wait()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")  # milliseconds from one export to the next
    running = Collector()
    yield running
    running.close()


def attributes(of: Any) -> dict[str, Any]:
    values = {pair.key: pair.value for pair in of.attributes}
    return {key: getattr(value, value.WhichOneof("value")) for key, value in values.items()}


def request(*lengths: int, model: str = "") -> pb.EncodeRequest:
    sequences = [tensors.encode(np.ones((n, 5), np.float32)) for n in lengths]
    return pb.EncodeRequest(model=model, sequences=sequences, outputs=[pb.OUTPUT_FINAL])


Encode = Callable[[pb.EncodeRequest, Metadata], Any]


@asynccontextmanager
async def traced(folder: Path, endpoint: str, **more: Any) -> AsyncIterator[tuple[App, Gated, Any]]:
    """A server whose gates the test opens, and its `Encode`."""
    values = {"model": [("small", folder)], "tracing_endpoint": endpoint, **more}
    async with (
        gated_server(settings(**values)) as (app, gated),
        grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel,
    ):
        stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)

        def encode(message: pb.EncodeRequest, metadata: Metadata = ()) -> Any:
            return stub.Encode(message, metadata=metadata, timeout=HANGS_AFTER_SECONDS)

        yield app, gated, encode


# -- one request ------------------------------------------------------------------------------


async def test_request_in_its_callers_trace(collector: Collector, model_folder: Path) -> None:
    """A request is a server span in its caller's trace, named and described by OpenTelemetry's
    conventions, of this service."""
    async with traced(model_folder, collector.endpoint) as (_, gated, encode):
        gated.open()
        await encode(request(3, 2), SAMPLED)
        (span,) = await collector.requests()
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.kind == Span.SPAN_KIND_SERVER
    assert attributes(span) == {
        "rpc.system.name": "grpc",
        "rpc.method": METHOD,
        "rpc.response.status_code": "OK",
        "bilstm.model": "small",
        "bilstm.sequences": 2,
        "bilstm.tokens": 5,
    }
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert collector.resource["service.name"] == "bilstm-server"


async def test_stages(collector: Collector, model_folder: Path) -> None:
    """Its children are its stages, one after the other from its start to its end."""
    async with traced(model_folder, collector.endpoint) as (_, gated, encode):
        gated.open()
        await encode(request(3), SAMPLED)
        (span,) = await collector.requests()
    stages = collector.children(span)
    assert [stage.name for stage in stages] == ["decode", "queue", "compute", "encode"]
    times = [span.start_time_unix_nano]
    for stage in stages:
        assert stage.trace_id == span.trace_id
        times += [stage.start_time_unix_nano, stage.end_time_unix_nano]
    times.append(span.end_time_unix_nano)
    assert times == sorted(times)
    assert (times[0], times[-1]) == (times[1], times[-2])


async def test_coalesced_requests_link_to_one_batch(
    collector: Collector, model_folder: Path
) -> None:
    """Requests that are computed together link to the same batch, which is in a trace of its own
    and tells its model and size."""
    async with traced(model_folder, collector.endpoint) as (app, gated, encode):
        first = asyncio.ensure_future(encode(request(1)))
        await gated.engines[model_folder.name].arrival()
        others = [asyncio.ensure_future(encode(request(n))) for n in (2, 3)]
        waiting = 'bilstm_queue_sequences{model="small"}'
        await until(lambda: _value(app, waiting) == 2)
        gated.open()
        await asyncio.gather(first, *others)
        spans = await collector.requests(3)
    by_tokens = {attributes(span)["bilstm.tokens"]: span for span in spans}
    alone, left, right = ([b.span_id for b in collector.batches(by_tokens[n])] for n in (1, 2, 3))
    assert left == right != alone
    (batch,) = collector.batches(by_tokens[2])
    assert (batch.name, batch.parent_span_id) == ("batch", b"")
    assert batch.trace_id not in {span.trace_id for span in spans}
    assert attributes(batch) == {
        "bilstm.model": "small",
        "bilstm.batch.sequences": 2,
        "bilstm.batch.tokens": 5,
    }


def _value(app: App, name: str) -> float | None:
    metric, label = name.removesuffix('"}').split('{model="')
    return app.metrics.registry.get_sample_value(metric, {"model": label})


async def test_request_of_several_batches(collector: Collector, model_folder: Path) -> None:
    """A request whose sequences fall into several batches has a `compute` for each, and a link to
    each."""
    more = {"max_batch_sequences": 1}
    async with traced(model_folder, collector.endpoint, **more) as (_, gated, encode):
        gated.open()
        await encode(request(3, 4, 5))
        (span,) = await collector.requests()
    names = [stage.name for stage in collector.children(span)]
    assert names == ["decode", "queue", "compute", "compute", "compute", "encode"]
    tokens = [attributes(batch)["bilstm.batch.tokens"] for batch in collector.batches(span)]
    assert tokens == [3, 4, 5]


# -- sampling ---------------------------------------------------------------------------------


async def test_unsampled_caller(collector: Collector, model_folder: Path) -> None:
    """A request whose caller does not sample its trace gives no span, nor does its batch."""
    async with traced(model_folder, collector.endpoint) as (_, gated, encode):
        gated.open()
        await encode(request(7), UNSAMPLED)
        await encode(request(2))
        await collector.requests()
    batches = [attributes(span) for span in collector.spans if span.name == "batch"]
    assert [batch["bilstm.batch.tokens"] for batch in batches] == [2]
    assert TRACE not in {span.trace_id.hex() for span in collector.spans}


async def test_sample_ratio(collector: Collector, model_folder: Path) -> None:
    """The ratio is for callers that trace nothing; one that samples its trace is followed."""
    more = {"tracing_sample_ratio": 0.0}
    async with traced(model_folder, collector.endpoint, **more) as (_, gated, encode):
        gated.open()
        await encode(request(7))
        await encode(request(2), (("traceparent", "no such thing"),))
        await encode(request(2), SAMPLED)
        (span,) = await collector.requests()
    assert span.trace_id.hex() == TRACE
    assert [batch.name for batch in collector.batches(span)] == ["batch"]
    assert len(collector.spans) == 6


# -- errors -----------------------------------------------------------------------------------


def _fail(staged: object) -> None:
    raise RuntimeError("a secret of the engine")


async def test_failure(collector: Collector, model_folder: Path) -> None:
    """A fault of the server is an error of its span and of its batch, by kind and not in words;
    the log names the trace."""
    async with traced(model_folder, collector.endpoint) as (_, gated, encode):
        gated.engines[model_folder.name].fault = _fail
        gated.open()
        with structlog.testing.capture_logs() as events, pytest.raises(grpc.RpcError):
            await encode(request(3), SAMPLED)
        (span,) = await collector.requests()
    assert attributes(span)["rpc.response.status_code"] == "INTERNAL"
    (batch,) = collector.batches(span)
    for failed, kind in ((span, "INTERNAL"), (batch, "RuntimeError")):
        assert failed.status.code == Status.STATUS_CODE_ERROR
        assert attributes(failed)["error.type"] == kind
    assert "secret" not in str(collector.spans)
    (logged,) = (event for event in events if event["event"] == "internal error")
    assert logged["trace_id"] == TRACE


async def test_batch_that_is_halved(collector: Collector, model_folder: Path) -> None:
    """A batch that fails and the halves that are computed in its place are batches of their own;
    the request that was in all of them is none the worse."""

    def fail_together(staged: StagedBatch) -> None:
        if len(staged.sequences) > 1:
            raise RuntimeError("two at a time are too many")

    async with traced(model_folder, collector.endpoint) as (_, gated, encode):
        gated.engines[model_folder.name].fault = fail_together
        gated.open()
        await encode(request(3, 4))
        (span,) = await collector.requests()
    sizes = [attributes(batch)["bilstm.batch.tokens"] for batch in collector.batches(span)]
    assert sizes == [7, 3, 4]
    errors = [batch.status.code == Status.STATUS_CODE_ERROR for batch in collector.batches(span)]
    assert errors == [True, False, False]
    assert span.status.code == Status.STATUS_CODE_UNSET


async def test_bad_request(collector: Collector, model_folder: Path) -> None:
    """A request that is refused got as far as `decode`; its code is told, and is no error of the
    server; what it held is not told."""
    async with traced(model_folder, collector.endpoint) as (_, _, encode):
        with pytest.raises(grpc.RpcError):
            await encode(request(3, model="payload"), SAMPLED)
        (span,) = await collector.requests()
    assert [stage.name for stage in collector.children(span)] == ["decode"]
    assert attributes(span)["rpc.response.status_code"] == "NOT_FOUND"
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert "payload" not in str(collector.spans)


async def test_caller_that_leaves(collector: Collector, model_folder: Path) -> None:
    """A caller that leaves while its batch is computed leaves a span that says so, with a link."""
    async with traced(model_folder, collector.endpoint) as (_, gated, encode):
        call = encode(request(3), SAMPLED)
        leaving = asyncio.ensure_future(call)
        await gated.engines[model_folder.name].arrival()
        leaving.cancel()
        (span,) = await collector.requests()
        gated.open()
        await encode(request(2))
        await collector.requests(2)
    assert [stage.name for stage in collector.children(span)] == ["decode", "queue", "compute"]
    assert attributes(span)["rpc.response.status_code"] == "CANCELLED"
    assert [batch.name for batch in collector.batches(span)] == ["batch"]


# -- without a collector ----------------------------------------------------------------------


async def test_dead_collector(collector: Collector, model_folder: Path) -> None:
    """Where no collector answers, requests are served, and the log says once that spans are
    lost."""
    collector.close()
    with structlog.testing.capture_logs() as events:
        async with traced(model_folder, collector.endpoint) as (app, gated, encode):
            gated.open()
            for _ in range(10):
                reply = await encode(request(3), SAMPLED)
                assert len(reply.encodings) == 1
            lost = "spans may be lost"
            await until(lambda: lost in [event["event"] for event in events])
            assert await app.drain()
    assert [event["event"] for event in events].count(lost) == 1


async def test_collector_that_hangs(collector: Collector, model_folder: Path) -> None:
    """A collector that doesn't answer doesn't hold up the end: it is given up, and the log says
    so."""
    collector.answers.clear()
    with structlog.testing.capture_logs() as events:
        async with traced(model_folder, collector.endpoint) as (app, gated, encode):
            gated.open()
            await encode(request(3), SAMPLED)
            await collector.requests()
            assert await app.drain()
    assert "spans lost" in [event["event"] for event in events]


async def test_last_spans(
    collector: Collector, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has not been exported yet when the server stops is exported then."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", str(1000 * HANGS_AFTER_SECONDS))
    async with traced(model_folder, collector.endpoint) as (app, gated, encode):
        gated.open()
        await encode(request(3), SAMPLED)
        assert collector.spans == []
        assert await app.drain()
    assert METHOD in [span.name for span in collector.spans]


# -- without OpenTelemetry --------------------------------------------------------------------

ENDPOINT = "--tracing-endpoint=http://127.0.0.1:4317"


def run(code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, "serve", "--port=0", "--metrics-port=0", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANGS_AFTER_SECONDS)


def test_without_the_extra() -> None:
    """Where OpenTelemetry is not installed, traces are refused at the start in one line."""
    code = "import sys; sys.modules['opentelemetry'] = None; "
    done = run(code + "from bilstm_server.cli.main import main; sys.exit(main())", ENDPOINT)
    assert done.returncode == 1
    reason = start_error(done.stderr)
    assert reason.startswith("--tracing-endpoint: opentelemetry")
    assert reason.endswith("pip install '.[tracing]'")


OFF = """
import asyncio, sys
from bilstm_client import AsyncClient
from bilstm_server.app import App
from bilstm_server.settings import Settings

async def main():
    async with App(Settings(port=0, metrics_port=0)) as app:
        await app.load()
        async with AsyncClient(f"127.0.0.1:{app.port}") as client:
            await client.encode([[0.0] * 12])
        await app.drain()

asyncio.run(main())
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""


def test_off() -> None:
    """A server without traces never imports OpenTelemetry, even where it is installed."""
    assert run(OFF).stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "url",
    ["collector:4317", "ftp://collector", "http://", "http://:4317", "http://c:x", "http://c/v1"],
)
def test_no_endpoint(url: str) -> None:
    """What is no URL of a collector is refused."""
    with pytest.raises(ValueError, match="must be http://HOST:PORT or https://HOST:PORT"):
        settings(tracing_endpoint=url)


def test_endpoint() -> None:
    """The port is OTLP's own unless it is given."""
    for url, full in {
        "http://collector": "http://collector:4317",
        "https://collector:443/": "https://collector:443",
        "http://[::1]:4318": "http://[::1]:4318",
    }.items():
        assert settings(tracing_endpoint=url).tracing_endpoint == full


def test_secrets_in_the_endpoint() -> None:
    """An endpoint with a password is refused without repeating it."""
    code = "import sys; from bilstm_server.cli.main import main; sys.exit(main())"
    done = run(code, "--tracing-endpoint=http://user:hidden@collector:4317")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "hidden" not in line
    assert "OTEL_EXPORTER_OTLP_HEADERS" in line
