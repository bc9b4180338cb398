"""Load of one request, again and again, in a process of its own that costs little: raw frames.

    python -m benchmarks.faults.generator HOST:PORT --steps 64 --width 64 --rate 4000 --seconds 10

With `--callers` each sends its next request when it has its answer; with `--rate` requests arrive
by themselves, evenly, and those of a few milliseconds go out together over one connection after the
other, as from proxies. Seconds are counted from when each was to arrive. With `--timeout` each has
a deadline, so many milliseconds after it is sent. Prints JSON: how many a second were answered with
OK before the end, and within the timeout; for each status, how many calls ended so and their p50
and p99 in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import math
import select
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from hyperframe.frame import DataFrame

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb

from .many_calls import Ended, ManyCalls
from .prober import ENCODE
from .wire import begin, block_of, framed

CONNECTIONS = 64  # so that the server refuses, and its bound of calls does not make them wait here
_LAST_SECONDS = 20.0  # for answers to what was sent
_PACK_SECONDS = 0.004  # in which what arrives is sent together
_OK = "0"


class Load:
    """Calls over several connections, until they have all ended."""

    def __init__(
        self,
        opened: Sequence[ManyCalls],
        message: bytes,
        callers: int,
        rate: float,
        timeout_ms: int = 0,
    ):
        """Have `callers` of them in flight, or if that is 0, let `rate` a second arrive. `message`
        is as gRPC frames it. Each has a deadline if `timeout_ms` is not 0."""
        data = DataFrame(1, message, flags=["END_STREAM"]).serialize()
        deadline = [("grpc-timeout", f"{timeout_ms}m")] if timeout_ms else []
        self._frames, self._bytes = (begin(1, block_of(ENCODE, *deadline)), data), len(message)
        self._opened = deque(opened)  # whose turn it is, first
        self._by_number = {connection.fileno(): connection for connection in opened}
        self._epoll = select.epoll()
        for number in self._by_number:
            self._epoll.register(number, select.EPOLLIN)
        self._callers = callers
        self._rate = rate
        self._arrived = 0
        self.waiting: deque[float] = deque()  # that have arrived, and no connection takes

    @property
    def in_flight(self) -> int:
        return sum(len(connection.due) for connection in self._opened)

    def run(self, seconds: float) -> float:
        """Let calls arrive for so long, and wait for their answers. Returns when no more came."""
        started_at = time.perf_counter()
        ends_at = started_at + seconds
        with self._epoll:
            while (now := time.perf_counter()) < ends_at + _LAST_SECONDS:
                if now < ends_at:
                    self._arrive(started_at, now)
                elif not self.in_flight:
                    break
                self._send()
                self._receive_until(now + _PACK_SECONDS)
        return ends_at

    def _arrive(self, started_at: float, now: float) -> None:
        if self._callers:
            self.waiting.extend([now] * (self._callers - self.in_flight - len(self.waiting)))
            return
        while (due := started_at + self._arrived / self._rate) <= now:
            self.waiting.append(due)
            self._arrived += 1

    def _send(self) -> None:
        """Give what waits to the connections in turns, to each as much as it takes."""
        for _ in range(len(self._opened)):
            connection = self._opened[0]
            while self.waiting and connection.has_room(self._bytes):
                connection.call(self._frames, self._bytes, self.waiting.popleft())
            self._opened.rotate(-1)
            if not self.waiting:
                break
        for connection in self._opened:
            connection.write()

    def _receive_until(self, time_to_send: float) -> None:
        while True:
            left = max(0.0, time_to_send - time.perf_counter())
            for number, _ in self._epoll.poll(left):
                connection = self._by_number[number]
                connection.read()
                if connection.lost:
                    self._epoll.unregister(number)
            if self._callers or time.perf_counter() >= time_to_send:
                return


def load(chosen: argparse.Namespace) -> dict[str, Any]:
    x = np.random.default_rng(0).standard_normal((chosen.steps, chosen.width), dtype=np.float32)
    request = pb.EncodeRequest(sequences=[tensors.encode(x)], outputs=[pb.OUTPUT_FINAL])
    opened = [ManyCalls(chosen.target) for _ in range(CONNECTIONS)]
    message = framed(request.SerializeToString())
    calls = Load(opened, message, chosen.callers or 0, chosen.rate or 0.0, chosen.timeout)
    most_seconds = chosen.timeout / 1e3 or math.inf
    began_at = time.process_time()
    ends_at = calls.run(chosen.seconds)
    ended = [each for connection in opened for each in connection.ended]
    in_time = sum(
        each.status == _OK and each.at <= ends_at and each.seconds <= most_seconds for each in ended
    )
    return {
        "goodput": in_time / chosen.seconds,
        "statuses": _by_status(ended),
        "unanswered": calls.in_flight,
        "unsent": len(calls.waiting),
        "cpu_seconds": time.process_time() - began_at,
    }


def _by_status(ended: Sequence[Ended]) -> dict[str, dict[str, float]]:
    by_status: dict[str, list[float]] = {}
    for each in ended:
        by_status.setdefault(each.status, []).append(each.seconds)
    return {
        status: {
            "calls": len(taken),
            "p50": 1e3 * float(np.quantile(taken, 0.5)),
            "p99": 1e3 * float(np.quantile(taken, 0.99)),
        }
        for status, taken in by_status.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("target", metavar="HOST:PORT")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--width", type=int, required=True)
    load_of = parser.add_mutually_exclusive_group(required=True)
    load_of.add_argument("--callers", type=int)
    load_of.add_argument("--rate", type=float, help="requests a second")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--timeout", type=int, default=0, help="of each request, in milliseconds")
    print(json.dumps(load(parser.parse_args())))


if __name__ == "__main__":
    main()
