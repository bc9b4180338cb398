"""The server that is attacked: a process of its own, its memory, threads and counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil

from benchmarks.memory import peak, resident
from bilstm_server.settings import Settings
from bilstm_server.testing import ServerProcess, server_process

_IDLE_SECONDS = 0.5
_GRPC_THREAD = "event_engine"
_IDLE_SHARE = 0.3  # of one core; a prober costs it a part of that


class Attacked:
    def __init__(self, server: ServerProcess):
        self._process = psutil.Process(server.pid)
        self.server = server
        self.target = server.target
        self.before = self.resident

    @property
    def resident(self) -> float:
        """MB."""
        return resident(self.server.pid)

    @property
    def grown(self) -> float:
        """By how many MB since the attack began."""
        return self.resident - self.before

    def peak(self) -> AbstractContextManager[list[float]]:
        return peak(self.server.pid)

    @property
    def threads(self) -> int:
        return self._process.num_threads()

    @property
    def descriptors(self) -> int:
        return self._process.num_fds()

    @property
    def errors(self) -> list[str]:
        """What its log has of its own faults."""
        events = [event for event in self.server.log if event["level"] in ("error", "critical")]
        return [*map(str, events), *self.server.lines]

    @property
    def cpu_seconds(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system

    @property
    def wire_seconds(self) -> float:
        """Of processor time, that its event loop and gRPC's own threads have had."""
        times = [
            thread.user_time + thread.system_time
            for thread in self._process.threads()
            if thread.id == self.server.pid or self._name_of(thread.id) == _GRPC_THREAD
        ]
        return float(sum(times))

    def _name_of(self, thread: int) -> str:
        return Path(f"/proc/{self.server.pid}/task/{thread}/comm").read_text().strip()

    def settle(self, most: float = 15.0) -> None:
        """Wait until the server has done what it was given: until it is all but idle."""

        def idle() -> bool:
            before = self.cpu_seconds
            time.sleep(_IDLE_SECONDS)
            return self.cpu_seconds - before < _IDLE_SHARE * _IDLE_SECONDS

        seconds_until(idle, most)

    def handled(self, method: str, code: str = "") -> float:
        """Calls of a method that have ended, with this code or any."""
        return sum(
            value
            for name, value in self.server.metrics().items()
            if name.startswith("grpc_server_handled_total{")
            and f'grpc_method="{method}"' in name
            and f'grpc_code="{code}' in name
        )


@contextmanager
def attacked(*flags: str, **settings: object) -> Iterator[Attacked]:
    """A server that is ready. Settings that this version does not have are left out, so that one
    that bounds less can be attacked too."""
    named = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in settings.items()
        if name in Settings.model_fields
    ]
    with server_process(*flags, *named) as server:
        yield Attacked(server)


def seconds_until(condition: Callable[[], bool], most: float) -> float:
    """How long it takes until it holds; `most` if it does not."""
    started_at = time.perf_counter()
    while not condition():
        if time.perf_counter() - started_at > most:
            return most
        time.sleep(0.05)
    return time.perf_counter() - started_at
