"""Another caller: asks for health, and for a small encoding, every 10 ms, and tells how long it
waited. In a process of its own, so that what is measured is the server and not the attacker.

    python -m benchmarks.faults.prober HOST:PORT

For each line that it reads it prints one, as JSON: the waits since the line before.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import grpc
import numpy as np

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb

from .findings import Finding

_INTERVAL_SECONDS = 0.01
_TIMEOUT_SECONDS = 60.0
_STEPS = 8
HEALTH = "/grpc.health.v1.Health/Check"
ENCODE = "/bilstm.v1.EncoderService/Encode"


def _result(reply: bytes) -> bytes:
    """What an encoding is, to the bit. A reply tells how long it took, too."""
    encodings = pb.EncodeResponse.FromString(reply).encodings
    return encodings[0].SerializeToString(deterministic=True) if encodings else b""


_CONTENTS: Mapping[str, Callable[[bytes], bytes]] = {HEALTH: bytes, ENCODE: _result}


@dataclass(frozen=True, slots=True)
class Waits:
    """Of one method's calls, in milliseconds; the one still unanswered is among them. A call whose
    answer is not that of the first one has failed."""

    longest: float
    p99: float
    answered: int
    failed: int


class _Asker(threading.Thread):
    """Asks again and again."""

    def __init__(self, channel: grpc.Channel, path: str, request: bytes):
        super().__init__(daemon=True)
        self._content = _CONTENTS[path]
        self._first: bytes | None = None  # that was answered
        self._call: Any = channel.unary_unary(path)
        self._request = request
        self._lock = threading.Lock()  # the reader of the waits is another thread
        self._waits: list[float] = []
        self._failed = 0
        self._since = time.perf_counter()  # of the waits
        self._asked_at: float | None = None

    def run(self) -> None:
        while True:
            self._asked_at = time.perf_counter()
            failed = False
            try:
                content = self._content(self._call(self._request, timeout=_TIMEOUT_SECONDS))
                self._first = content if self._first is None else self._first
                failed = content != self._first
            except grpc.RpcError:
                failed = True
            with self._lock:
                self._waits.append(time.perf_counter() - max(self._asked_at, self._since))
                self._failed += failed
                self._asked_at = None
            time.sleep(_INTERVAL_SECONDS)

    def waits(self) -> Waits:
        """Since they were last asked for."""
        with self._lock:
            now = time.perf_counter()
            waits, self._waits = self._waits, []
            failed, self._failed = self._failed, 0
            answered = len(waits) - failed
            if (asked_at := self._asked_at) is not None:
                waits.append(now - max(asked_at, self._since))
            self._since = now
        milliseconds = 1e3 * np.array(waits or [0.0])
        p99 = float(np.quantile(milliseconds, 0.99))
        return Waits(float(milliseconds.max()), p99, answered, failed)


class Prober:
    """The other side of the process."""

    def __init__(self, process: subprocess.Popen[str]):
        self._process = process

    def waits(self) -> dict[str, Waits]:
        """By path, since they were last asked for."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(file=self._process.stdin, flush=True)
        by_path = json.loads(self._process.stdout.readline())
        return {path: Waits(**waits) for path, waits in by_path.items()}

    def longest(self) -> float:
        """Of all waits since they were last asked for, in milliseconds."""
        return max(waits.longest for waits in self.waits().values())


def served(
    trial: str, sent: str, waits: dict[str, Waits], most: float = math.inf
) -> Iterator[Finding]:
    """What another caller had of the server meanwhile: its waits, at most so many milliseconds."""
    p99 = max(of.p99 for of in waits.values())
    answered = sum(of.answered for of in waits.values())
    failed = sum(of.failed for of in waits.values())
    yield Finding(trial, sent, "p99 of another caller's waits", p99, "ms", most)
    share = answered / max(answered + failed, 1)
    yield Finding(trial, sent, "share of its calls answered", share, least=0.99)


@contextmanager
def probing(target: str, width: int = 12) -> Iterator[Prober]:
    """Enter when both methods have been answered."""
    command = [sys.executable, "-m", "benchmarks.faults.prober", target, f"--width={width}"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            prober = Prober(process)
            while not all(waits.answered > 1 for waits in prober.waits().values()):
                time.sleep(0.2)
            yield prober
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("target", metavar="HOST:PORT")
    parser.add_argument("--width", type=int, default=12, help="of the model that it asks")
    chosen = parser.parse_args()
    x = np.random.default_rng(0).standard_normal((_STEPS, chosen.width), dtype=np.float32)
    encode = pb.EncodeRequest(sequences=[tensors.encode(x)], outputs=[pb.OUTPUT_FINAL])
    askers = {
        # Connections of their own: one that is refused does not hinder the other.
        path: _Asker(_channel(chosen.target, number), path, request)
        for number, (path, request) in enumerate(
            {HEALTH: b"", ENCODE: encode.SerializeToString()}.items()
        )
    }
    for asker in askers.values():
        asker.start()
    for _ in sys.stdin:  # it ends with the process that asks
        print(json.dumps({path: asdict(asker.waits()) for path, asker in askers.items()}))
        sys.stdout.flush()


def _channel(target: str, number: int) -> grpc.Channel:
    return grpc.insecure_channel(
        target, options=[("grpc.use_local_subchannel_pool", 1), ("prober.number", number)]
    )


if __name__ == "__main__":
    main()
