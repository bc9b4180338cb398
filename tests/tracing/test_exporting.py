"""Spans that can't be exported, or are not wanted: without a collector, without OpenTelemetry,
without traces.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from tests.support.servers import settings, start_error
from tests.support.waiting import HANGS_AFTER_SECONDS, until
from tests.tracing.collecting import METHOD, SAMPLED, Collector, request, traced

# -- without a collector -------------------------------------------------------------------------


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


# -- without OpenTelemetry -----------------------------------------------------------------------


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
