"""A collector of spans, and a server that sends them to it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_server.app import App
from tests.support.engines import Gated, gated_server
from tests.support.servers import settings
from tests.support.waiting import HANGS_AFTER_SECONDS

METHOD = "bilstm.v1.EncoderService/Encode"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)

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


def attributes(of: Any) -> dict[str, Any]:
    values = {pair.key: pair.value for pair in of.attributes}
    return {key: getattr(value, value.WhichOneof("value")) for key, value in values.items()}


def request(*lengths: int, model: str = "") -> pb.EncodeRequest:
    sequences = [tensors.encode(np.ones((n, 5), np.float32)) for n in lengths]
    return pb.EncodeRequest(model=model, sequences=sequences, outputs=[pb.OUTPUT_FINAL])


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
