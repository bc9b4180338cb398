"""HTTP/2 as no gRPC client would send it: frames without a state machine, or calls that stop."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterable
from typing import Self

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    Event,
    ResponseReceived,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from hpack import Encoder, NeverIndexedHeaderTuple
from hyperframe.frame import HeadersFrame, SettingsFrame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_CONNECT_SECONDS = 10.0
_LARGEST_WINDOW = 2**31 - 1
_READ_BYTES = 1 << 20


def connect(target: str) -> socket.socket:
    if target.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(target.removeprefix("unix:"))
        return connection
    host, _, port = target.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS)


def headers_of(path: str, *more: tuple[str, str]) -> list[tuple[str, str]]:
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *more,
    ]


def block_of(path: str, *more: tuple[str, str]) -> bytes:
    """Of headers, never indexed: the same bytes mean the same in every frame."""
    return Encoder().encode([NeverIndexedHeaderTuple(*pair) for pair in headers_of(path, *more)])


def begin(stream: int, block: bytes) -> bytes:
    """The frame that begins a call, and does not end it."""
    return HeadersFrame(stream, block, flags=["END_HEADERS"]).serialize()


class RawConnection:
    """Sends whatever bytes it is told to. What comes back is read and thrown away."""

    def __init__(self, target: str, greeting: bytes = PREFACE + SettingsFrame(0).serialize()):
        self._socket = connect(target)
        self.ended = False
        self.send(greeting)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, data: bytes, seconds: float = 10.0) -> bool:
        """False if the peer has ended the connection, or takes no byte for so long."""
        left = memoryview(data)
        while left and not self.ended:
            readable, writable, _ = select.select([self], [self], [], seconds)
            if not readable and not writable:
                return False
            try:
                if readable and not self._socket.recv(_READ_BYTES):
                    self.ended = True
                if writable:
                    left = left[self._socket.send(left, socket.MSG_DONTWAIT) :]
            except BlockingIOError:
                continue
            except OSError:
                self.ended = True
        return not self.ended

    def read(self, seconds: float = 0.0) -> bool:
        """What has come is thrown away. False if the peer has ended the connection."""
        while not self.ended and select.select([self], [], [], seconds)[0]:
            try:
                self.ended = not self._socket.recv(_READ_BYTES)
            except OSError:
                self.ended = True
        return not self.ended


class PatientConnection:
    """Calls that keep to HTTP/2's rules, windows too, and stop wherever they are told to."""

    def __init__(
        self,
        target: str,
        takes_replies: bool = False,
        receive_buffer: int = 0,
        stream_window: int | None = None,
    ):
        """Unless it `takes_replies` the peer may send a window of them, and no more."""
        self._socket = connect(target)
        if receive_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._http = H2Connection(
            H2Configuration(header_encoding=None, validate_outbound_headers=False)
        )
        self._http.initiate_connection()
        if stream_window is not None:
            self._http.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: stream_window})
        if takes_replies:
            self._http.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: _LARGEST_WINDOW})
            self._http.increment_flow_control_window(_LARGEST_WINDOW - 65_535)
        self.statuses: dict[int, str] = {}  # of calls that have ended, by stream
        self.ended = False
        self._flush()
        self.pump(1.0)  # the peer's settings

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def begin(self, path: str, *more: tuple[str, str]) -> int:
        stream = self._http.get_next_available_stream_id()
        self._http.send_headers(stream, headers_of(path, *more))
        self._flush()
        return stream

    @property
    def address(self) -> tuple[str, int]:
        """Its own, by which the peer knows it."""
        host, port, *_ = self._socket.getsockname()
        return host, port

    def end(self, stream: int) -> None:
        """No more comes of this call."""
        self._http.end_stream(stream)
        self._flush()

    def ping(self) -> None:
        self._http.ping(b"12345678")
        self._flush()

    def call(
        self,
        path: str,
        message: bytes,
        missing: int = 0,
        seconds: float = 2.0,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> int:
        """A call of one message, of which so many of the last bytes are not sent. Returns how many
        were, if the peer takes no more of them for `seconds`."""
        stream = self.begin(path, *headers)
        data = framed(message)
        return self.send(stream, data[: len(data) - missing], not missing, seconds)

    def send(self, stream: int, data: bytes, end: bool, seconds: float = 2.0) -> int:
        sent = 0
        waits_until = time.perf_counter() + seconds
        while sent < len(data) and not self.ended and stream not in self.statuses:
            window = self._http.local_flow_control_window(stream)
            size = min(window, self._http.max_outbound_frame_size, len(data) - sent)
            if size > 0:
                last = end and sent + size == len(data)
                self._http.send_data(stream, data[sent : sent + size], end_stream=last)
                self._flush()
                sent += size
                waits_until = time.perf_counter() + seconds
            elif time.perf_counter() > waits_until:
                break
            self.pump(0.0 if size > 0 else 0.1)
        return sent

    def pump(self, seconds: float) -> None:
        """Take what has come, or comes within that time."""
        if not self.ended and select.select([self._socket], [], [], seconds)[0]:
            self._receive(_READ_BYTES)

    def read_byte(self) -> None:
        """As slow a reader as there is."""
        if not self.ended and select.select([self._socket], [], [], 0)[0]:
            self._receive(1)

    def _receive(self, most: int) -> None:
        try:
            data = self._socket.recv(most)
        except OSError:
            data = b""
        if not data:
            self.ended = True
            return
        try:
            self._note(self._http.receive_data(data))
        except ProtocolError:  # whatever comes after a GOAWAY, to h2
            self.ended = True
        self._flush()

    def _note(self, events: Iterable[Event]) -> None:
        """The window of what was received is never given back."""
        for event in events:
            if isinstance(event, ResponseReceived | TrailersReceived):
                for name, value in event.headers or ():
                    if name == b"grpc-status" and event.stream_id is not None:
                        self.statuses[event.stream_id] = value.decode()
            elif isinstance(event, StreamReset):
                self.statuses.setdefault(event.stream_id, f"reset {event.error_code}")
            elif isinstance(event, ConnectionTerminated):
                self.ended = True

    def _flush(self) -> None:
        self._socket.settimeout(_CONNECT_SECONDS)
        try:
            self._socket.sendall(self._http.data_to_send())
        except OSError:
            self.ended = True


def framed(message: bytes) -> bytes:
    """A message as gRPC sends it: uncompressed, and its length before it."""
    return b"\0" + len(message).to_bytes(4, "big") + message
