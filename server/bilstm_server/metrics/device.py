"""The gauges of devices, which are read when they are scraped."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Gauge


class DeviceGauges:
    """The memory and the utilisation of each GPU that is watched."""

    def __init__(self, registry: CollectorRegistry):
        self.memory = Gauge(
            "bilstm_device_memory_bytes",
            "Memory of the GPU, by kind: total, free, reserved, allocated.",
            ("device", "kind"),
            registry=registry,
        )
        self.utilization = Gauge(
            "bilstm_device_utilization_ratio",
            "Share of the last sample period in which the GPU was busy.",
            ("device",),
            registry=registry,
        )

    def watch(
        self,
        device: str,
        memory: Mapping[str, Callable[[], float]],
        utilization: Callable[[], float],
    ) -> None:
        """Read at each scrape the device's memory, in bytes by kind, and its utilisation, 0 to
        1."""
        for kind, read in memory.items():
            self.memory.labels(device, kind).set_function(_or_nan(read))
        self.utilization.labels(device).set_function(_or_nan(utilization))


def _or_nan(read: Callable[[], float]) -> Callable[[], float]:
    """A device that can't be read, a dead one say, must not take the other metrics with it."""

    def value() -> float:
        try:
            return read()
        except Exception:
            return math.nan

    return value
