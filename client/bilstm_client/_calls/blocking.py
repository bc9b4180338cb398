"""`BlockingChannel`: the connection of a `Client`; flows run over it in the caller's thread."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Protocol, TypeVar

import grpc

from bilstm.v1 import encoder_pb2 as pb

from .channel import ANY_SERVICE, channel_options, methods_of
from .flows import Flow, Pause, Send
from .metadata import Headers
from .session import Session

T = TypeVar("T")


class RunningStream(Protocol):
    """A stream that a client has open."""

    def end(self) -> None:
        """End it, and wait for its threads."""


class BlockingChannel:
    """A connection, and the streams that run over it. Threads may share it."""

    def __init__(self, session: Session):
        self.session = session
        self.streams: set[RunningStream] = set()  # that run
        self._channel = self._open()
        self._methods = methods_of(self._channel)

    def run(self, flow: Flow[T]) -> T:
        """What the flow returns."""
        try:
            wanted = next(flow)
            while True:
                try:
                    outcome = self._do(wanted)
                except BaseException as error:
                    wanted = flow.throw(error)
                else:
                    wanted = flow.send(outcome)
        except StopIteration as end:
            result: T = end.value
            return result

    def open_stream(
        self, requests: Iterator[bytes], headers: Headers
    ) -> Iterator[pb.EncodeStreamResponse]:
        """A call that sends these requests, in a thread of gRPC's; also a `grpc.Call`."""
        call: Iterator[pb.EncodeStreamResponse] = self._methods["EncodeStream"](
            requests, metadata=headers
        )
        return call

    def ask(self, seconds: float, headers: Headers) -> grpc.Future[Any]:
        """A call that any server answers that is alive, within so many seconds."""
        asked: grpc.Future[Any] = self._methods["Check"].future(
            ANY_SERVICE, timeout=seconds, metadata=headers
        )
        return asked

    def close(self) -> None:
        """End all streams and calls; a forked process only forgets what is its parent's."""
        self.session.is_closed = True
        if self.session.is_inherited:
            return
        for stream in list(self.streams):
            stream.end()
        self._channel.close()

    def _open(self, *, checked: bool = True) -> grpc.Channel:
        address, tls = self.session.address, self.session.tls
        options = channel_options(address, tls, checked=checked)
        if tls is None:
            return grpc.insecure_channel(address.name, options)
        return grpc.secure_channel(address.name, tls.credentials, options)

    def _do(self, wanted: Send | Pause) -> Any:
        if isinstance(wanted, Pause):
            return time.sleep(wanted.seconds)
        if wanted.to_any:
            with self._open(checked=False) as channel:
                return _send(methods_of(channel), wanted)
        return _send(self._methods, wanted)


def _send(methods: dict[str, Any], wanted: Send) -> Any:
    return methods[wanted.method](
        wanted.request, timeout=wanted.timeout_seconds, metadata=wanted.headers
    )
