"""Damaged handshakes and frames, a connection for each: none may end the server, or keep anything
of it."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from random import Random

from ..findings import Finding
from ..floods import CLIENT_HELLO, HTTP1
from ..wire import PREFACE
from .frames import damaged_frames
from .messages import damaged_bytes
from .standing import attacks
from .traffic import Frame, Traffic, frames_of, numbered, recorded

NAME = "fuzz-connections"
CASES = 100_000
SEED = 0
_WARM_UP = 10  # a part of them that comes before what the server grows by is counted
_OPEN = 16  # at a time
_RATE = 800.0  # a second, at most: a flood is another trial
_PATIENCE_SECONDS = 0.1  # for an answer to all that was sent: many are none that has one
_POLL_SECONDS = 0.002
_STRANGE = 0.05  # of them are no HTTP/2
_PING = b"fuzzing!"
_LAST = Frame(6, 0, 0, _PING).serialize()  # whoever answers this has understood what came before
_ANSWER = Frame(6, 1, 0, _PING).serialize()
_AT_ONCE = struct.pack("ii", 1, 0)  # closed by a reset: no port waits for what may still come


def trial(cases: int = CASES) -> Iterator[Finding]:
    sent = f"{cases:,} connections, damaged frames and handshakes, seed {SEED}"
    ends: Counter[str] = Counter()
    yield from attacks(
        NAME,
        sent,
        warm_up=lambda target: send(target, cases // _WARM_UP, Counter()),
        attack=lambda target: send(target, cases, ends),
    )
    for end in sorted(ends):
        yield Finding(NAME, sent, f"that ended {end}", ends[end])
    yield Finding(NAME, sent, "that could not be opened", ends[_REFUSED], most=0)


_REFUSED = "refused"


def cases_of(traffic: Traffic, count: int, seed: int = SEED) -> Iterator[tuple[int, bytes]]:
    """What each connection sends, and its number."""
    recordings = [tuple(frames_of(connection)) for connection in traffic.connections]
    for number, random in numbered(seed, count):
        if random.random() < _STRANGE:
            yield number, _strange(random)
        else:
            yield number, damaged_frames(random.choice(recordings), PREFACE, random)


def _strange(random: Random) -> bytes:
    data = random.choice((CLIENT_HELLO, HTTP1 + b"\r\n", random.randbytes(500)))
    return damaged_bytes(data, random)


def send(target: str, count: int, ends: Counter[str], first: int = 0) -> None:
    """Open the connections below `count`, from `first` on, several at a time, and count how they
    end."""
    host, _, port = target.rpartition(":")
    address = host, int(port)
    cases = (case for case in cases_of(recorded(), count) if case[0] >= first)
    opened: dict[int, _Connection] = {}
    more = True
    started_at, begun = time.perf_counter(), 0
    with select.epoll() as epoll:
        while more or opened:
            while (
                more and len(opened) < _OPEN and begun <= _RATE * (time.perf_counter() - started_at)
            ):
                begun += 1
                if (case := next(cases, None)) is None:
                    more = False
                elif (connection := _Connection.to(address, case[1])) is None:
                    ends[_REFUSED] += 1
                else:
                    opened[connection.number] = connection
                    epoll.register(connection.number, select.EPOLLIN | select.EPOLLOUT)
            for number, events in epoll.poll(_POLL_SECONDS):
                if opened[number].advance(events) and not opened[number].end:
                    epoll.modify(number, select.EPOLLIN)
            now = time.perf_counter()
            for connection in [each for each in opened.values() if each.has_ended(now)]:
                ends[connection.end] += 1
                epoll.unregister(connection.number)
                del opened[connection.number]
                connection.close()


class _Connection:
    """One connection on its way: it sends all that it has, and waits for an answer, or an end."""

    def __init__(self, opened: socket.socket, data: bytes):
        self._socket = opened
        self._left = memoryview(data + _LAST)
        self._came = b""
        self._gives_up_at = time.perf_counter() + _PATIENCE_SECONDS
        self.number = opened.fileno()
        self.end = ""

    @classmethod
    def to(cls, address: tuple[str, int], data: bytes) -> _Connection | None:
        """Connect; None if that is refused."""
        opened = socket.socket()
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        try:
            opened.connect(address)
        except OSError:
            opened.close()
            return None
        opened.setblocking(False)
        return cls(opened, data)

    def advance(self, events: int) -> bool:
        """Send and take what can be now. Returns whether all is sent."""
        try:
            if events & select.EPOLLOUT and self._left:
                self._left = self._left[self._socket.send(self._left) :]
            if events & ~select.EPOLLOUT:
                came = self._socket.recv(1 << 16)
                self._came = self._came[-len(_ANSWER) :] + came
                if _ANSWER in self._came:
                    self.end = "with an answer to a ping"
                elif not came:
                    self.end = "closed"
        except BlockingIOError:
            pass
        except OSError:
            self.end = "closed"
        return not self._left

    def has_ended(self, now: float) -> bool:
        if not self.end and now > self._gives_up_at:
            self.end = "silent"
        return bool(self.end)

    def close(self) -> None:
        with suppress(OSError):
            self._socket.close()
