"""The metrics of RPC methods, by the names that py-grpc-prometheus gave them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from .buckets import SECONDS
from .tallies import Counters, Histograms, Tally

_LABELS = ("grpc_type", "grpc_service", "grpc_method")


class RpcFamilies:
    """The metrics of all RPC methods."""

    def __init__(self, registry: CollectorRegistry):
        self.started = Counters(
            "grpc_server_started_total", "RPCs started.", _LABELS, registry=registry
        )
        self.handled = Counters(
            "grpc_server_handled_total",
            "RPCs completed, by status code.",
            (*_LABELS, "grpc_code"),
            registry=registry,
        )
        self.handling = Histograms(
            "grpc_server_handling_seconds",
            "Time from an RPC's start to its completion on the server.",
            _LABELS,
            buckets=SECONDS,
            registry=registry,
        )


class RpcMetrics:
    """The metrics of one RPC method."""

    def __init__(self, families: RpcFamilies, kind: str, service: str, method: str):
        self._handled = families.handled
        self._labels = (kind, service, method)
        self._by_code: dict[str, Tally] = {}
        self._started = families.started.labels(*self._labels)
        self._handling = families.handling.labels(*self._labels)

    def start(self) -> None:
        """Count a call that starts."""
        self._started.inc()

    def finish(self, code: str, seconds: float) -> None:
        """Count a call that has ended with the gRPC status code of that name, after so long."""
        if code not in self._by_code:
            self._by_code[code] = self._handled.labels(*self._labels, code)
        self._by_code[code].inc()
        self._handling.observe(seconds)
