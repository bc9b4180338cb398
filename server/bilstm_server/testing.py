"""A server in a process of its own, for demos, benchmarks and tests; and its metrics, read."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.request import urlopen

STOP_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class ServerProcess:
    target: str  # HOST:PORT of gRPC
    metrics_url: str
    process: subprocess.Popen[str]

    def stop(self) -> int:
        """Send SIGTERM, wait until it has drained, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_TIMEOUT_SECONDS)

    def metrics(self) -> dict[str, float]:
        """The scraped samples, by name and labels as they are written."""
        with urlopen(self.metrics_url, timeout=10) as response:
            lines = response.read().decode().splitlines()
        samples = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in samples}


@contextmanager
def server_process(*flags: str) -> Iterator[ServerProcess]:
    """Run `bilstm-server serve` on free ports with these flags; enter when it is ready.

    Whatever happens, it is gone at the end. Raises `RuntimeError`, with its last words, if it
    doesn't start.
    """
    command = [sys.executable, "-m", "bilstm_server.cli", "serve", *flags]
    command += ["--port=0", "--metrics-port=0", "--log-format=json"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield _wait_until_ready(process)
        finally:
            if process.poll() is None:
                process.kill()


def _wait_until_ready(process: subprocess.Popen[str]) -> ServerProcess:
    assert process.stderr is not None
    listening: dict[str, object] = {}
    last = ""
    for last in process.stderr:
        try:
            event = json.loads(last)
        except ValueError:
            continue
        if event.get("event") == "listening":
            listening = event
        if event.get("event") == "ready":
            host = listening["host"]
            return ServerProcess(
                f"{host}:{listening['port']}",
                f"http://{host}:{listening['metrics_port']}/metrics",
                process,
            )
    raise RuntimeError(f"the server did not start: {last.strip()}")
