"""The spans of a real server, as a real collector receives them over OTLP."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
import structlog
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from bilstm_server.app import App
from bilstm_server.engine.staging import StagedBatch
from tests.support.waiting import until
from tests.tracing.collecting import (
    METHOD,
    PARENT,
    SAMPLED,
    TRACE,
    Collector,
    attributes,
    request,
    traced,
)

UNSAMPLED = (("traceparent", f"00-{TRACE}-{PARENT}-00"),)


# -- one request ---------------------------------------------------------------------------------


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
    """A request's children are its stages, one after the other from its start to its end."""
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


# -- sampling ------------------------------------------------------------------------------------


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


# -- errors --------------------------------------------------------------------------------------


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
