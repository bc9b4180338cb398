"""Load of one request, again and again, in a process of its own that costs little: raw frames.

    python -m benchmarks.faults.generator HOST:PORT --steps 64 --width 64 --rate 4000 --seconds 10

With `--callers` each sends its next request when it has its answer; with `--rate` requests arrive
by themselves, evenly. Seconds are counted from when each was to arrive. With `--timeout` each has a
deadline, so many milliseconds after that. Prints JSON: how many a second were answered with OK,
before the end and their deadlines, and for each status, how many calls ended so and their p50 and
p99 in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import select
import struct
import time
from collections import deque
from typing import Any, NamedTuple

import numpy as np
from hyperframe.frame import DataFrame, SettingsFrame, WindowUpdateFrame

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb

from .prober import ENCODE
from .wire import PREFACE, begin, block_of, connect, framed

CONNECTIONS = 64  # so that the server refuses, and its bound of calls does not make them wait here
_LARGEST_WINDOW = 2**31 - 1
_FIRST_WINDOW = 65_535
_LAST_SECONDS = 20.0  # for answers to what was sent
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GO_AWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_OK = "0"
_END_STREAM, _ACK = 1, 1
# A table of no entries makes the server write every name out.
_GREETING = (
    PREFACE
    + SettingsFrame(
        0,
        {SettingsFrame.HEADER_TABLE_SIZE: 0, SettingsFrame.INITIAL_WINDOW_SIZE: _LARGEST_WINDOW},
    ).serialize()
    + WindowUpdateFrame(0, _LARGEST_WINDOW - _FIRST_WINDOW).serialize()
)
_STATUS = re.compile(rb"grpc-status[\x01\x02](\d\d?)")


class _Ended(NamedTuple):
    status: str
    at: float
    seconds: float


class _Connection:
    """Sends one request on stream after stream, as its windows let it, and reads how each ended."""

    def __init__(self, target: str, block: bytes, message: bytes):
        self._socket = connect(target)
        self._block = block
        self._message = message
        self._window = _FIRST_WINDOW
        self._next = 1
        self._in: bytes = b""
        self._out = bytearray(_GREETING)
        self.max_streams = _LARGEST_WINDOW  # until the server says
        self.due: dict[int, float] = {}  # when each open call was to arrive
        self.ended: list[_Ended] = []
        self.lost = False

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def has_room(self) -> bool:
        return (
            not self.lost
            and len(self.due) < self.max_streams
            and self._window >= len(self._message)
        )

    @property
    def has_output(self) -> bool:
        return bool(self._out)

    def call(self, due: float) -> None:
        stream, self._next = self._next, self._next + 2
        data = DataFrame(stream, self._message, flags=["END_STREAM"])
        self._out += begin(stream, self._block) + data.serialize()
        self._window -= len(self._message)
        self.due[stream] = due

    def write(self) -> None:
        try:
            sent = self._socket.send(self._out, 64)  # MSG_DONTWAIT
        except BlockingIOError:
            return
        except OSError:
            self._lose()
            return
        del self._out[:sent]

    def read(self) -> None:
        try:
            data = self._socket.recv(1 << 18)
        except OSError:
            data = b""
        if not data:
            self._lose()
            return
        data = self._in + data
        at = 0
        while len(data) - at >= 9:
            high, low, kind, flags, stream = struct.unpack_from(">BHBBL", data, at)
            end = at + 9 + (high << 16) + low
            if len(data) < end:
                break
            self._take(kind, flags, stream, data[at + 9 : end])
            at = end
        self._in = data[at:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _HEADERS and flags & _END_STREAM:
            found = _STATUS.search(payload)
            self._end(stream, found[1].decode() if found else "none")
        elif kind == _RESET:
            self._end(stream, "reset")
        elif kind == _WINDOW and not stream:
            self._window += int.from_bytes(payload, "big")
        elif kind == _SETTINGS and not flags & _ACK:
            for name, value in struct.iter_unpack(">HL", payload):
                if name == SettingsFrame.MAX_CONCURRENT_STREAMS:
                    self.max_streams = value
            self._out += SettingsFrame(0, flags=["ACK"]).serialize()
        elif kind == _PING and not flags & _ACK:
            self._out += b"\0\0\x08\x06\x01" + bytes(4) + payload
        elif kind == _GO_AWAY:
            self.max_streams = 0

    def _end(self, stream: int, status: str) -> None:
        due = self.due.pop(stream, None)
        if due is not None:
            now = time.perf_counter()
            self.ended.append(_Ended(status, now, now - due))

    def _lose(self) -> None:
        self.lost = True
        for stream in list(self.due):
            self._end(stream, "lost")


def load(chosen: argparse.Namespace) -> dict[str, Any]:
    x = np.random.default_rng(0).standard_normal((chosen.steps, chosen.width), dtype=np.float32)
    request = pb.EncodeRequest(sequences=[tensors.encode(x)], outputs=[pb.OUTPUT_FINAL])
    message = framed(request.SerializeToString())
    deadline = [("grpc-timeout", f"{chosen.timeout}m")] if chosen.timeout else []
    block = block_of(ENCODE, *deadline)
    most_seconds = chosen.timeout / 1e3 if chosen.timeout else math.inf
    opened = [_Connection(chosen.target, block, message) for _ in range(CONNECTIONS)]
    started_at = time.perf_counter()
    ends_at = started_at + chosen.seconds
    waiting: deque[float] = deque()  # calls that have arrived, and no connection takes
    arrived = 0
    while True:
        now = time.perf_counter()
        calls = sum(len(connection.due) for connection in opened)
        if now < ends_at:
            if chosen.callers:
                waiting.extend([now] * (chosen.callers - calls - len(waiting)))
            while not chosen.callers and (due := started_at + arrived / chosen.rate) <= now:
                waiting.append(due)
                arrived += 1
        elif not calls or now > ends_at + _LAST_SECONDS:
            break
        _send(opened, waiting)
        living = [connection for connection in opened if not connection.lost]
        writers = [connection for connection in living if connection.has_output]
        readable, writable, _ = select.select(living, writers, [], 0.002)
        for connection in readable:
            connection.read()
        for connection in writable:
            connection.write()
    unanswered = sum(len(connection.due) for connection in opened)
    ended = [each for connection in opened for each in connection.ended]
    in_time = sum(
        each.status == _OK and each.at <= ends_at and each.seconds <= most_seconds for each in ended
    )
    return {
        "goodput": in_time / chosen.seconds,
        "statuses": _by_status(ended),
        "unanswered": unanswered,
        "unsent": len(waiting),
        "cpu_seconds": time.process_time(),
    }


def _send(opened: list[_Connection], waiting: deque[float]) -> None:
    """To the connections in turns, the least loaded first."""
    for connection in sorted(opened, key=lambda each: len(each.due)):
        share = len(waiting) // len(opened) + 1
        while waiting and share and connection.has_room:
            connection.call(waiting.popleft())
            share -= 1


def _by_status(ended: list[_Ended]) -> dict[str, dict[str, float]]:
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
    parser.add_argument("--timeout", type=int, help="of each request, in milliseconds")
    print(json.dumps(load(parser.parse_args())))


if __name__ == "__main__":
    main()
