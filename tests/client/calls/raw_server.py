"""A server that speaks HTTP/2 by hand, so that it can say what no gRPC server would: any status,
any headers, any bytes.
"""

from __future__ import annotations

import base64
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_DATA, _HEADERS, _SETTINGS, _PING = 0, 1, 4, 6
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_PREFACE_BYTES = 24

Headers = list[tuple[str, bytes]]


@dataclass
class Answer:
    """What every call is told."""

    messages: list[bytes] = field(default_factory=list)
    trailers: Headers = field(default_factory=lambda: [("grpc-status", b"0")])
    status: bytes = b"200"
    content_type: bytes = b"application/grpc"
    body: bytes = b""  # in place of messages


def status(code: int | str, message: bytes = b"", details: bytes | None = None) -> Answer:
    """No message and this status."""
    trailers = [("grpc-status", str(code).encode()), ("grpc-message", message)]
    if details is not None:
        trailers.append(("grpc-status-details-bin", base64.b64encode(details).rstrip(b"=")))
    return Answer(trailers=trailers)


def _number(value: int) -> bytes:
    """A length as HPACK has it, with a prefix of 7 bits."""
    if value < 127:
        return bytes([value])
    value, out = value - 127, bytearray([127])
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


def _block(headers: Headers) -> bytes:
    """Headers, none of them indexed or compressed."""
    parts = [
        b"\0" + _number(len(name)) + name.encode() + _number(len(value)) + value
        for name, value in headers
    ]
    return b"".join(parts)


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _reply(stream: int, answer: Answer) -> bytes:
    head = _block([(":status", answer.status), ("content-type", answer.content_type)])
    body = answer.body or b"".join(
        b"\0" + struct.pack(">I", len(message)) + message for message in answer.messages
    )
    frames = [_frame(_HEADERS, _END_HEADERS, stream, head)]
    frames += [_frame(_DATA, 0, stream, body[i : i + 16384]) for i in range(0, len(body), 16384)]
    end = _END_HEADERS | _END_STREAM
    return b"".join([*frames, _frame(_HEADERS, end, stream, _block(answer.trailers))])


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionError
        data += part
    return data


def _serve(connection: socket.socket, answer: Callable[[], Answer]) -> None:
    with suppress(OSError), connection:
        _read(connection, _PREFACE_BYTES)
        connection.sendall(_frame(_SETTINGS, 0, 0))
        while True:
            head = _read(connection, 9)
            size = int.from_bytes(head[:3], "big")
            kind, flags, stream = struct.unpack(">BBI", head[3:])
            payload = _read(connection, size)
            if kind in (_SETTINGS, _PING) and not flags & _ACK:
                connection.sendall(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
            elif kind == _HEADERS:
                connection.sendall(_reply(stream, answer()))


@contextmanager
def answering(answer: Callable[[], Answer]) -> Iterator[str]:
    """Runs it; gives its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []
    connections: list[socket.socket] = []

    def accept() -> None:
        with suppress(OSError):
            while True:
                connections.append(listener.accept()[0])
                threads.append(threading.Thread(target=_serve, args=(connections[-1], answer)))
                threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    for ended in (listener, *connections):
        with suppress(OSError):
            ended.shutdown(socket.SHUT_RDWR)
        ended.close()
    for thread in (acceptor, *threads):
        thread.join()
