"""Every metric's name, labels and buckets, once. With `tallies` the only room for
prometheus_client.

Label children are resolved when a model or an RPC method is made known, not per request.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    make_wsgi_app,
)
from prometheus_client.exposition import choose_encoder

from .tallies import Counters, Histograms, ReadCounter, Tally

SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
SEQUENCES = tuple(float(2**n) for n in range(11))  # 1 to 1,024
TOKENS = tuple(float(2**n) for n in range(18))  # 1 to 131,072

# Why a request ended without a result.
DROP_REASONS = (
    "overloaded",  # the queue was full
    "expired",  # its deadline passed
    "cancelled",  # its caller left
    "stalled",  # its client sent no more, or took no replies
    "invalid",  # it, or the model it names
    "loading",  # it came too early
    "draining",  # it came too late
    "failed",  # the engine, or the device's memory
)
# What the client of a stream did not do, so that the server ended it.
STALLS = (
    "opening",  # send the first message
    "reading",  # take replies
    "sending",  # send the rest of a sequence
    "quiet",  # anything, with nothing in flight
)
_RPC = ("grpc_type", "grpc_service", "grpc_method")


class Metrics:
    """All metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._scrape = make_wsgi_app(registry)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        model = ("model",)
        self._started = Counters(
            "grpc_server_started_total", "RPCs started.", _RPC, registry=registry
        )
        self._handled = Counters(
            "grpc_server_handled_total",
            "RPCs completed, by status code.",
            (*_RPC, "grpc_code"),
            registry=registry,
        )
        self._handling = Histograms(
            "grpc_server_handling_seconds",
            "Time from an RPC's start to its completion on the server.",
            _RPC,
            buckets=SECONDS,
            registry=registry,
        )
        self._sequences = Counters(
            "bilstm_sequences_total", "Sequences encoded.", model, registry=registry
        )
        self._tokens = Counters(
            "bilstm_tokens_total", "Tokens (steps) encoded.", model, registry=registry
        )
        self._queue_sequences = Gauge(
            "bilstm_queue_sequences", "Sequences in the queue now.", model, registry=registry
        )
        self._queue_tokens = Gauge(
            "bilstm_queue_tokens", "Tokens in the queue now.", model, registry=registry
        )
        self._queue_limit_tokens = Gauge(
            "bilstm_queue_limit_tokens",
            "Tokens that the queue has room for, of all versions.",
            model,
            registry=registry,
        )
        self._queue_seconds = Histograms(
            "bilstm_queue_seconds",
            "Time of a sequence from admission until its batch began to be computed.",
            model,
            buckets=SECONDS,
            registry=registry,
        )
        self._batch_sequences = Histograms(
            "bilstm_batch_sequences",
            "Sequences in a computed batch.",
            model,
            buckets=SEQUENCES,
            registry=registry,
        )
        self._batch_tokens = Histograms(
            "bilstm_batch_tokens",
            "Tokens in a computed batch.",
            model,
            buckets=TOKENS,
            registry=registry,
        )
        self._batch_compute = Histograms(
            "bilstm_batch_compute_seconds",
            "Time to compute a batch.",
            model,
            buckets=SECONDS,
            registry=registry,
        )
        self._slice_seconds = Histograms(
            "bilstm_slice_compute_seconds",
            "Time to compute a slice of long sequences.",
            model,
            buckets=SECONDS,
            registry=registry,
        )
        self._streams = Gauge("bilstm_streams", "Streams that are open now.", registry=registry)
        self._stream_bytes = Gauge(
            "bilstm_stream_bytes",
            "Bytes that streams have in flight, with their results, of --max-streams-bytes.",
            registry=registry,
        )
        self._stream_limit_bytes = Gauge(
            "bilstm_stream_limit_bytes", "Bytes that streams may have in flight.", registry=registry
        )
        self._calls = Gauge(
            "bilstm_calls", "Calls that are in flight, streams not counted.", registry=registry
        )
        self._slow_requests = Gauge(
            "bilstm_slow_requests",
            "Requests that have not come at once, and are not complete, of --max-receive-bytes.",
            registry=registry,
        )
        self._reply_bytes = Gauge(
            "bilstm_reply_bytes",
            "Bytes of replies that are computed or on their way, of --max-reply-bytes.",
            registry=registry,
        )
        self._streams_stalled = Counters(
            "bilstm_streams_stalled_total",
            "Streams that the server ended because their clients stood still, by what these did "
            f"not do: {', '.join(STALLS)}.",
            ("reason",),
            registry=registry,
        )
        self._stalled = {reason: self._streams_stalled.labels(reason) for reason in STALLS}
        self._dropped = Counters(
            "bilstm_dropped_total",
            f"Requests, and sequences of streams, that ended without a result: "
            f"{', '.join(DROP_REASONS)}. The model is '' where the request names none that is "
            "served, or can't be read.",
            ("model", "reason"),
            registry=registry,
        )
        self._info = Gauge(
            "bilstm_model_info",
            "A model that is served: always 1. There is none until all are loaded.",
            ("model", "version", "kernel", "device", "dtype"),
            registry=registry,
        )
        self._load_seconds = Gauge(
            "bilstm_model_load_seconds",
            "Time to load the model and warm it up, all its versions.",
            model,
            registry=registry,
        )
        self._device_memory = Gauge(
            "bilstm_device_memory_bytes",
            "Memory of the GPU, by kind: total, free, reserved, allocated.",
            ("device", "kind"),
            registry=registry,
        )
        self._device_utilization = Gauge(
            "bilstm_device_utilization_ratio",
            "Share of the last sample period in which the GPU was busy.",
            ("device",),
            registry=registry,
        )
        self._log_dropped = ReadCounter(
            "bilstm_log_lines_dropped_total",
            "Lines of the log that could not be written, or that nobody read.",
            registry=registry,
        )
        self.no_model = DropMetrics(self, "")  # of requests that name none, or can't be read
        self._models: dict[str, ModelMetrics] = {}

    def exposition(
        self, query: str, accept: str, accept_encoding: str
    ) -> tuple[list[tuple[str, str]], bytes]:
        """The headers and body of a scrape, in the format that `accept` asks for. `query`:
        `name[]=` of those that are wanted, or empty for all. Raises `ValueError` for an `accept`
        that can't be read."""
        try:
            choose_encoder(accept)
        except (TypeError, ValueError) as error:
            raise ValueError("the Accept header can't be read") from error
        headers: list[tuple[str, str]] = []
        request = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": "/metrics",
            "QUERY_STRING": query,
            "HTTP_ACCEPT": accept,
            "HTTP_ACCEPT_ENCODING": accept_encoding,
        }
        body = self._scrape(request, lambda _, sent: headers.extend(sent))
        return headers, b"".join(body)

    def model(self, name: str) -> ModelMetrics:
        """The metrics of one model, shared by its versions; `name` must be one that is served."""
        if name not in self._models:
            self._models[name] = ModelMetrics(self, name)
        return self._models[name]

    def rpc(self, kind: str, service: str, method: str) -> RpcMetrics:
        """The metrics of one RPC method."""
        return RpcMetrics(self, kind, service, method)

    def watch_streams(
        self, streams: Callable[[], int], used: Callable[[], int], max_bytes: int
    ) -> None:
        """Read at each scrape how many streams are open, and how many bytes they hold."""
        self._streams.set_function(streams)
        self._stream_bytes.set_function(used)
        self._stream_limit_bytes.set(max_bytes)

    def watch_log(self, dropped_lines: Callable[[], int]) -> None:
        """Read at each scrape how many lines of the log were dropped so far."""
        self._log_dropped.read = dropped_lines

    def watch_calls(
        self,
        calls: Callable[[], int],
        slow_requests: Callable[[], int],
        reply_bytes: Callable[[], int],
    ) -> None:
        """Read at each scrape what calls hold."""
        self._calls.set_function(calls)
        self._slow_requests.set_function(slow_requests)
        self._reply_bytes.set_function(reply_bytes)

    def stall(self, reason: str) -> None:
        """Count a stream that was ended, for one of STALLS."""
        self._stalled[reason].inc()

    def watch_device(
        self, device: str, memory: dict[str, Callable[[], float]], utilization: Callable[[], float]
    ) -> None:
        """Read a GPU's memory (bytes by kind) and utilisation (0 to 1) at each scrape."""
        for kind, read in memory.items():
            self._device_memory.labels(device, kind).set_function(_or_nan(read))
        self._device_utilization.labels(device).set_function(_or_nan(utilization))


def _or_nan(read: Callable[[], float]) -> Callable[[], float]:
    """A device that can't be read, a dead one say, must not take the other metrics with it."""

    def value() -> float:
        try:
            return read()
        except Exception:
            return math.nan

    return value


class RpcMetrics:
    """One RPC method's children."""

    def __init__(self, metrics: Metrics, kind: str, service: str, method: str):
        self._handled = metrics._handled
        self._labels = (kind, service, method)
        self._by_code: dict[str, Tally] = {}
        self._started = metrics._started.labels(*self._labels)
        self._handling = metrics._handling.labels(*self._labels)

    def start(self) -> None:
        self._started.inc()

    def finish(self, code: str, seconds: float) -> None:
        """`code`: the gRPC status code's name."""
        if code not in self._by_code:
            self._by_code[code] = self._handled.labels(*self._labels, code)
        self._by_code[code].inc()
        self._handling.observe(seconds)


class DropMetrics:
    """The requests to one model that ended without a result."""

    def __init__(self, metrics: Metrics, model: str):
        self._dropped = {reason: metrics._dropped.labels(model, reason) for reason in DROP_REASONS}

    def drop(self, reason: str) -> None:
        """Count one, for one of DROP_REASONS."""
        self._dropped[reason].inc()


class ModelMetrics(DropMetrics):
    """One model's children."""

    def __init__(self, metrics: Metrics, model: str):
        super().__init__(metrics, model)
        self._model = model
        self._info = metrics._info
        self._sequences = metrics._sequences.labels(model)
        self._tokens = metrics._tokens.labels(model)
        self._queue_seconds = metrics._queue_seconds.labels(model)
        self._batch_sequences = metrics._batch_sequences.labels(model)
        self._batch_tokens = metrics._batch_tokens.labels(model)
        self._batch_compute = metrics._batch_compute.labels(model)
        self._slice_seconds = metrics._slice_seconds.labels(model)
        self._load_seconds = metrics._load_seconds.labels(model)
        self._queue_limit_tokens = metrics._queue_limit_tokens.labels(model)
        # Versions of one model have queues of their own, and share its label.
        self._queues: list[tuple[Callable[[], int], Callable[[], int]]] = []
        metrics._queue_sequences.labels(model).set_function(
            lambda: sum(sequences() for sequences, _ in self._queues)
        )
        metrics._queue_tokens.labels(model).set_function(
            lambda: sum(tokens() for _, tokens in self._queues)
        )

    def watch_queue(
        self, sequences: Callable[[], int], tokens: Callable[[], int], max_tokens: int
    ) -> None:
        """Read a queue's length and tokens at each scrape; `max_tokens` may wait in it."""
        self._queue_limit_tokens.inc(max_tokens)
        self._queues.append((sequences, tokens))

    def observe_load(self, seconds: float) -> None:
        """A version that is loaded and warm."""
        self._load_seconds.inc(seconds)

    def observe_ready(self, version: str, kernel: str, device: str, dtype: str) -> None:
        """A version that is served: all models are loaded."""
        self._info.labels(self._model, version, kernel, device, dtype).set(1)

    def observe_batch(
        self, sequences: int, tokens: int, seconds: float, queue_seconds: Iterable[float]
    ) -> None:
        """A batch that was computed, and how long each of its sequences had waited."""
        self._batch_sequences.observe(sequences)
        self._batch_tokens.observe(tokens)
        self._batch_compute.observe(seconds)
        for waited in queue_seconds:
            self._queue_seconds.observe(waited)

    def observe_encoded(self, sequences: int, tokens: int) -> None:
        """What has its result."""
        self._sequences.inc(sequences)
        self._tokens.inc(tokens)

    def observe_slice(self, seconds: float) -> None:
        """A slice that was computed, of one long sequence or several."""
        self._slice_seconds.observe(seconds)

    def observe_wait(self, seconds: float) -> None:
        """How long a sequence had waited that is in no batch."""
        self._queue_seconds.observe(seconds)
