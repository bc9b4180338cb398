"""A collector of spans."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.tracing.collecting import Collector


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")  # milliseconds from one export to the next
    running = Collector()
    yield running
    running.close()
