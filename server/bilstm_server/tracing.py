"""Spans: one for each request, in its caller's trace, with a child for each of its stages; and one
for each batch, in a trace of its own, that the requests in it link to.

The only room for OpenTelemetry. Imported by `app` where traces are on; others know its types alone.
All times are the event loop's, in seconds: spans are made of them when a request ends. Nothing here
waits for a collector: a thread exports, and what it can't keep up with is lost, and said to be.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Self

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace import Tracer as SpanMaker
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

log = structlog.get_logger()

# The codes that are the server's fault; others are the caller's, and no error of its span.
_FAULTS = frozenset(
    ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
)
_MAX_WAITING_SPANS = 8_192  # to be exported; some 2 KB each
_EXPORT_SECONDS = 5.0
_CLOSE_SECONDS = 2.0  # to export what is left when the server stops
_QUIET_SECONDS = 60.0  # from one complaint of the exporter to the next
_propagator = TraceContextTextMapPropagator()


class Tracer:
    """Makes the spans of one server. `async with` of the app enters it, and closes it last."""

    def __init__(self, endpoint: str, sample_ratio: float):
        """`endpoint`: http://HOST:PORT, or https, of an OTLP collector over gRPC. `sample_ratio`:
        the share of requests to trace among those whose caller traces nothing."""
        self._endpoint = endpoint
        self._sampler = ParentBased(TraceIdRatioBased(sample_ratio))

    def __enter__(self) -> Self:
        _complaints.listen()
        self._exporter = OTLPSpanExporter(
            self._endpoint,
            insecure=self._endpoint.startswith("http:"),
            timeout=_EXPORT_SECONDS,
        )
        self._processor = BatchSpanProcessor(self._exporter, max_queue_size=_MAX_WAITING_SPANS)
        service = {"service.name": "bilstm-server", "service.version": version("bilstm")}
        resource = Resource.create(service).merge(OTELResourceDetector().detect())
        self._requests = self._span_maker(self._sampler, resource)
        # A batch with one sampled request is there to link to, whatever its own trace's id.
        self._batches = self._span_maker(ALWAYS_ON, resource)
        return self

    def __exit__(self, *_: object) -> None:
        """Export what is left, for a limited time: a collector that is down holds nobody up."""
        closing = threading.Thread(target=self._processor.shutdown, daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)
        if closing.is_alive():
            log.warning("spans lost", reason="the collector did not take the last ones in time")
            _complaints.ignore()
            self._exporter.shutdown()  # what it tries now fails

    def _span_maker(self, sampler: Sampler, resource: Resource) -> SpanMaker:
        provider = TracerProvider(sampler, resource, shutdown_on_exit=False)
        provider.add_span_processor(self._processor)
        return provider.get_tracer("bilstm_server", version("bilstm"))

    def request(
        self, method: str, metadata: Mapping[str, str | bytes], started_at: float
    ) -> RequestTrace | None:
        """A request that begins to be decoded; None if it is not sampled.

        `method`: PACKAGE.SERVICE/METHOD. The caller's trace is read from `metadata`.
        """
        offset = _offset()
        span = self._requests.start_span(
            method,
            _propagator.extract(metadata, Context()),
            SpanKind.SERVER,
            {"rpc.system.name": "grpc", "rpc.method": method},
            start_time=_nanoseconds(started_at, offset),
        )
        if not span.is_recording():
            return None
        return RequestTrace(self._requests, span, started_at, offset)

    def batch(
        self, requests: Iterable[RequestTrace | None], started_at: float, tokens: int
    ) -> BatchTrace | None:
        """A batch that begins to be computed; `requests` are those of each of its sequences.
        None if none of them is sampled."""
        of_each = list(requests)
        sampled = list(dict.fromkeys(request for request in of_each if request is not None))
        if not sampled:
            return None
        attributes: dict[str, str | int] = {
            "bilstm.model": sampled[0].model,
            "bilstm.batch.sequences": len(of_each),
            "bilstm.batch.tokens": tokens,
        }
        offset = _offset()
        start = _nanoseconds(started_at, offset)
        span = self._batches.start_span("batch", Context(), attributes=attributes, start_time=start)
        return BatchTrace(span, sampled, started_at, offset)


class RequestTrace:
    """One sampled request: its stages as they pass, and its spans when it ends.

    `decode` is all before admission; `queue` lasts until the first of its sequences is computed;
    each batch with some of them is a `compute`, which links to it; `encode` makes the reply.
    """

    def __init__(self, spans: SpanMaker, span: Span, started_at: float, offset: int):
        self.model = ""
        self._spans = spans
        self._span = span
        self._offset = offset
        self._stages: list[tuple[str, float, float, Link | None]] = []
        self._stage: tuple[str, float, Link | None] | None = ("decode", started_at, None)

    @property
    def trace_id(self) -> str:
        """The trace's id in hexadecimal, as collectors show it."""
        return f"{self._span.get_span_context().trace_id:032x}"

    def admit(self, sequences: int, tokens: int, now: float) -> None:
        """Note that the request was let into the queue, with what it brings."""
        self._span.set_attributes({"bilstm.sequences": sequences, "bilstm.tokens": tokens})
        self.enter("queue", now)

    def enter(self, stage: str, now: float, link: Link | None = None) -> None:
        """Begin a stage, and end the one before if it has not ended."""
        self.leave(now)
        self._stage = (stage, now, link)

    def leave(self, now: float) -> None:
        """End the present stage, if there is one."""
        if self._stage is not None:
            stage, started_at, link = self._stage
            self._stages.append((stage, started_at, now, link))
            self._stage = None

    def end(self, code: str, now: float) -> None:
        """Make the spans. `code`: the name of the gRPC status."""
        self.leave(now)
        parent = set_span_in_context(self._span, Context())
        for stage, started_at, ended_at, link in self._stages:
            start = _nanoseconds(started_at, self._offset)
            span = self._spans.start_span(
                stage, parent, links=[link] if link else None, start_time=start
            )
            span.end(_nanoseconds(ended_at, self._offset))
        if self.model:
            self._span.set_attribute("bilstm.model", self.model)
        self._span.set_attribute("rpc.response.status_code", code)
        if code in _FAULTS:
            _set_error(self._span, code)
        self._span.end(_nanoseconds(now, self._offset))


class BatchTrace:
    """One batch with sampled requests, while it is computed."""

    def __init__(self, span: Span, requests: list[RequestTrace], started_at: float, offset: int):
        self._span = span
        self._requests = requests
        self._offset = offset
        link = Link(span.get_span_context())
        for request in requests:
            request.enter("compute", started_at, link)

    def end(self, now: float, error: str = "") -> None:
        """`error`: the type of what the engine raised, if it did."""
        for request in self._requests:
            request.leave(now)
        if error:
            _set_error(self._span, error)
        self._span.end(_nanoseconds(now, self._offset))


class _Complaints(logging.Handler):
    """What OpenTelemetry logs, which may be much, as events of the server's log, which are few."""

    _quiet_until = 0.0

    def listen(self) -> None:
        logger = logging.getLogger("opentelemetry")
        logger.addHandler(self)
        logger.propagate = False
        self._quiet_until = 0.0

    def ignore(self) -> None:
        self._quiet_until = math.inf

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET_SECONDS
            log.warning("spans may be lost", reason=record.getMessage())


_complaints = _Complaints(logging.WARNING)


def _set_error(span: Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR))


def _offset() -> int:
    """Nanoseconds from the event loop's time to the calendar's. The calendar may be set while the
    server runs: asked anew for each request, so that its spans stay inside one another."""
    return time.time_ns() - time.monotonic_ns()


def _nanoseconds(at: float, offset: int) -> int:
    return int(1e9 * at) + offset
