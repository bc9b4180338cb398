"""Connections of many calls, each of which is sent whole, and of what comes only how it ended is
looked at. They cost their process little.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Sequence
from typing import NamedTuple

from hyperframe.frame import SettingsFrame, WindowUpdateFrame

from .wire import PREFACE, connect

_LARGEST_WINDOW = 2**31 - 1
_FIRST_WINDOW = 65_535
_HEADERS, _RESET, _SETTINGS, _PING, _GO_AWAY, _WINDOW = 1, 3, 4, 6, 7, 8
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


class Ended(NamedTuple):
    """How a call ended: its stream, its gRPC status or a word, when, and how long after it was to
    arrive."""

    stream: int
    status: str
    at: float
    seconds: float


class ManyCalls:
    """A connection that sends calls as its window lets it, and reads how each ended."""

    def __init__(self, target: str):
        self._socket = connect(target)
        self._descriptor = self._socket.fileno()
        self._window = _FIRST_WINDOW
        self._next = 1
        self._in: bytes = b""
        self._out = bytearray(_GREETING)
        self.max_streams = _LARGEST_WINDOW  # until the server says
        self.due: dict[int, float] = {}  # when each open call was to arrive
        self.ended: list[Ended] = []
        self.lost = False

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._descriptor

    def has_room(self, size: int) -> bool:
        """Whether a call with so many bytes of data may be sent now."""
        return not self.lost and len(self.due) < self.max_streams and self._window >= size

    def call(self, frames: Sequence[bytes], size: int, due: float) -> int:
        """Begin a call that was to arrive then, of these frames of stream 1, which have `size`
        bytes of data. It is sent with the next `write`. Returns its stream."""
        stream, self._next = self._next, self._next + 2
        number = stream.to_bytes(4, "big")
        for frame in frames:
            self._out += frame[:5]
            self._out += number
            self._out += frame[9:]
        self._window -= size
        self.due[stream] = due
        return stream

    def end(self, stream: int, status: str) -> None:
        """Note how a call has ended."""
        due = self.due.pop(stream, None)
        if due is not None:
            now = time.perf_counter()
            self.ended.append(Ended(stream, status, now, now - due))

    def write(self) -> None:
        """Send what the peer takes now."""
        if not self._out or self.lost:
            return
        try:
            sent = self._socket.send(self._out, 64)  # MSG_DONTWAIT
        except BlockingIOError:
            return
        except OSError:
            self._lose()
            return
        del self._out[:sent]

    def read(self) -> None:
        """Take what has come."""
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
            self.end(stream, found[1].decode() if found else "none")
        elif kind == _RESET:
            self.end(stream, "reset")
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

    def _lose(self) -> None:
        self.lost = True
        for stream in list(self.due):
            self.end(stream, "lost")
