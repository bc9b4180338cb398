"""`Metrics`: all of one server's, and what is scraped of them."""

from __future__ import annotations

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

from .device import DeviceGauges
from .model_families import ModelFamilies
from .models import DropMetrics, ModelMetrics
from .rpcs import RpcFamilies, RpcMetrics
from .security import FileMetrics, RefusedCalls, SecurityFamilies
from .tallies import Counters, ReadCounter

# What the client of a stream did not do, so that the server ended it.
STALLS = (
    "opening",  # send the first message
    "reading",  # take replies
    "sending",  # send the rest of a sequence
    "quiet",  # anything, with nothing in flight
)
# The limit that a connection was beyond, so that the server closed it.
CONNECTION_LIMITS = ("peer", "all")


def can_accept(accept: str) -> bool:
    """Whether the `Accept` header of a scrape can be read."""
    try:
        choose_encoder(accept)
    except (TypeError, ValueError):
        return False
    return True


class Metrics:
    """All metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._scrape = make_wsgi_app(registry)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        self.rpcs = RpcFamilies(registry)
        self.models = ModelFamilies(registry)
        self.security = SecurityFamilies(registry)
        self.refused_calls = RefusedCalls(self.security)
        self._streams = Gauge("bilstm_streams", "Streams that are open now.", registry=registry)
        self._stream_bytes = Gauge(
            "bilstm_stream_bytes",
            "Bytes that streams have in flight, with their results, of --max-streams-bytes.",
            registry=registry,
        )
        self._stream_limit_bytes = Gauge(
            "bilstm_stream_limit_bytes", "Bytes that streams may have in flight.", registry=registry
        )
        self._streams_stalled = Counters(
            "bilstm_streams_stalled_total",
            "Streams that the server ended because their clients stood still, by what these did "
            f"not do: {', '.join(STALLS)}.",
            ("reason",),
            registry=registry,
        )
        self._stalled = {reason: self._streams_stalled.labels(reason) for reason in STALLS}
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
        self._connections = Gauge(
            "bilstm_connections",
            "Connections that are open now, of --max-connections.",
            registry=registry,
        )
        self._connections_closed = Counters(
            "bilstm_connections_closed_total",
            "Connections that the server closed because there were too many: of one address (peer) "
            "or of all.",
            ("limit",),
            registry=registry,
        )
        self._closed = {
            limit: self._connections_closed.labels(limit) for limit in CONNECTION_LIMITS
        }
        self.devices = DeviceGauges(registry)
        self._log_dropped = ReadCounter(
            "bilstm_log_lines_dropped_total",
            "Lines of the log that could not be written, or that nobody read.",
            registry=registry,
        )
        # Counts the requests that name no model that is served, or can't be read.
        self.no_model = DropMetrics(self.models, "")

    def exposition(
        self, query: str, accept: str, accept_encoding: str
    ) -> tuple[list[tuple[str, str]], bytes]:
        """The headers and body of a scrape, in the format that `accept` asks for. `query` has the
        `name[]=` of each metric that is wanted, or is empty for all; `can_accept(accept)`."""
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
        """The metrics of one more version of the model of that name, until its `end`."""
        return ModelMetrics(self.models, name)

    def name_callers(self, names: Iterable[str]) -> None:
        """Count apart what callers of these names get from now on; all others are one. What was
        counted for a name that is not among them is forgotten."""
        self.models.name_callers(frozenset(names))

    def rpc(self, kind: str, service: str, method: str) -> RpcMetrics:
        """The metrics of one RPC method; `kind` is `unary`, `bidi_stream` or the like."""
        return RpcMetrics(self.rpcs, kind, service, method)

    def file(self, setting: str) -> FileMetrics:
        """The metrics of the file that a setting names, by the setting's name."""
        return FileMetrics(self.security, setting)

    def watch_streams(
        self, streams: Callable[[], int], used: Callable[[], int], max_bytes: int
    ) -> None:
        """Read at each scrape how many streams are open, and how many bytes they hold."""
        self._streams.set_function(streams)
        self._stream_bytes.set_function(used)
        self._stream_limit_bytes.set(max_bytes)

    def watch_calls(
        self,
        calls: Callable[[], int],
        slow_requests: Callable[[], int],
        reply_bytes: Callable[[], int],
    ) -> None:
        """Read at each scrape how many calls are in flight, how many requests come slowly, and how
        many bytes replies hold."""
        self._calls.set_function(calls)
        self._slow_requests.set_function(slow_requests)
        self._reply_bytes.set_function(reply_bytes)

    def watch_connections(self, connections: Callable[[], int]) -> None:
        """Read at each scrape how many connections are open."""
        self._connections.set_function(connections)

    def close_connection(self, limit: str) -> None:
        """Count a connection that was closed, beyond one of CONNECTION_LIMITS."""
        self._closed[limit].inc()

    def watch_device(
        self, device: str, memory: dict[str, Callable[[], float]], utilization: Callable[[], float]
    ) -> None:
        """Read at each scrape a GPU's memory, in bytes by kind, and its utilisation, 0 to 1."""
        self.devices.watch(device, memory, utilization)

    def watch_log(self, dropped_lines: Callable[[], int]) -> None:
        """Read at each scrape how many lines of the log were dropped so far."""
        self._log_dropped.read = dropped_lines

    def stall(self, reason: str) -> None:
        """Count a stream that was ended, for one of STALLS."""
        self._stalled[reason].inc()
