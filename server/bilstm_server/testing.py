"""A server in a process of its own, for demos, benchmarks and tests; its log and metrics, read."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import urlopen

TIMEOUT_SECONDS = 60.0

Event = dict[str, Any]


class ServerProcess:
    """A process of `bilstm-server serve`, on free ports unless flags say otherwise, and the events
    that it has logged so far.

    A thread reads the log all the time: a server whose log nobody reads would block.
    """

    def __init__(self, *flags: str, module: str = "bilstm_server"):
        """Start it. `module` is run in place of `bilstm_server`: one that replaces parts of it, for
        instance."""
        command = [sys.executable, "-m", module, "serve"]
        command += ["--port=0", "--metrics-port=0", "--log-format=json", *flags]
        self._process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, errors="backslashreplace"
        )
        self._logged = threading.Condition()
        self._log: list[Event] = []
        self._lines: list[str] = []  # those that are no events
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                with self._logged:
                    if line.startswith("{"):
                        self._log.append(json.loads(line))
                    else:
                        self._lines.append(line.strip())
                    self._logged.notify_all()
        with self._logged:
            self._ended = True
            self._logged.notify_all()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def target(self) -> str:
        """The server's HOST:PORT of gRPC. Waits until it listens."""
        listening = self.wait_for("listening")
        return f"{listening['host']}:{listening['port']}"

    @property
    def metrics_url(self) -> str:
        """The URL of the server's metrics. Waits until it listens."""
        listening = self.wait_for("listening")
        return f"http://{listening['host']}:{listening['metrics_port']}/metrics"

    @property
    def log(self) -> list[Event]:
        """The events that the server has logged so far; all of them once `wait` has returned."""
        with self._logged:
            return list(self._log)

    @property
    def lines(self) -> list[str]:
        """What is on its standard error so far beside the events, such as a traceback."""
        with self._logged:
            return list(self._lines)

    def wait_for(self, name: str) -> Event:
        """Wait for the first event of that name, and return it.

        Raises `RuntimeError`, with the server's last lines, if it ends without.
        """

        def found() -> Event | None:
            return next((event for event in self._log if event["event"] == name), None)

        with self._logged:
            self._logged.wait_for(lambda: self._ended or found(), TIMEOUT_SECONDS)
            if event := found():
                return event
            raise RuntimeError(f"the server did not log {name!r}: {self._lines or self._log}")

    def send(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait until the process has ended by itself, and return its exit code."""
        code = self._process.wait(TIMEOUT_SECONDS)
        self._reader.join()
        return code

    def stop(self) -> int:
        """Send SIGTERM, wait until it has drained, and return its exit code."""
        self.send(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self.wait()

    def metrics(self) -> dict[str, float]:
        """Scrape the metrics: each sample by its name and labels, as they are written."""
        with urlopen(self.metrics_url, timeout=TIMEOUT_SECONDS) as response:
            lines = response.read().decode().splitlines()
        samples = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in samples}


@contextmanager
def server_process(*flags: str, module: str = "bilstm_server") -> Iterator[ServerProcess]:
    """Run `bilstm-server serve` with these flags for as long as the block lasts, which begins when
    the server is ready.

    Raises `RuntimeError`, with the server's last lines, if it doesn't start.
    """
    process = ServerProcess(*flags, module=module)
    try:
        process.wait_for("ready")
        yield process
    finally:
        process.kill()
