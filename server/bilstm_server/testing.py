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
    """`bilstm-server serve`, on free ports unless flags say otherwise, and the events in its log so
    far.

    A thread reads the log all the time: a server whose log nobody reads would block.
    """

    def __init__(self, *flags: str, module: str = "bilstm_server"):
        """`module` is run as the server: one with parts put in place of others, for instance."""
        command = [sys.executable, "-m", module, "serve"]
        command += ["--port=0", "--metrics-port=0", "--log-format=json", *flags]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self._logged = threading.Condition()
        self._log: list[Event] = []
        self._words: list[str] = []  # lines that are no events
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
                        self._words.append(line.strip())
                    self._logged.notify_all()
        with self._logged:
            self._ended = True
            self._logged.notify_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def target(self) -> str:
        """HOST:PORT of gRPC, once it listens."""
        listening = self.wait_for("listening")
        return f"{listening['host']}:{listening['port']}"

    @property
    def metrics_url(self) -> str:
        """Where its metrics are, once it listens."""
        listening = self.wait_for("listening")
        return f"http://{listening['host']}:{listening['metrics_port']}/metrics"

    @property
    def log(self) -> list[Event]:
        """What it has logged so far; all, once `wait` has returned."""
        with self._logged:
            return list(self._log)

    def wait_for(self, name: str) -> Event:
        """The first event of that name, once it is logged.

        Raises `RuntimeError`, with the server's last words, if it ends without.
        """

        def found() -> Event | None:
            return next((event for event in self._log if event["event"] == name), None)

        with self._logged:
            self._logged.wait_for(lambda: self._ended or found(), TIMEOUT_SECONDS)
            if event := found():
                return event
            raise RuntimeError(f"the server did not log {name!r}: {self._words or self._log}")

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Its exit code, once it has ended by itself."""
        code = self._process.wait(TIMEOUT_SECONDS)
        self._reader.join()
        return code

    def stop(self) -> int:
        """Send SIGTERM, wait until it has drained, and return its exit code."""
        self.send(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """Whatever it does, end it."""
        self._process.kill()
        self.wait()

    def metrics(self) -> dict[str, float]:
        """The scraped samples, by name and labels as they are written."""
        with urlopen(self.metrics_url, timeout=TIMEOUT_SECONDS) as response:
            lines = response.read().decode().splitlines()
        samples = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in samples}


@contextmanager
def server_process(*flags: str, module: str = "bilstm_server") -> Iterator[ServerProcess]:
    """Run `bilstm-server serve` with these flags; enter when it is ready.

    Whatever happens, it is gone at the end. Raises `RuntimeError`, with its last words, if it
    doesn't start.
    """
    process = ServerProcess(*flags, module=module)
    try:
        process.wait_for("ready")
        yield process
    finally:
        process.kill()
