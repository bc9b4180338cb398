"""`AsyncChannel`: the connection of an `AsyncClient`; flows run over it in an event loop."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol, TypeVar

import grpc

from .channel import ANY_SERVICE, channel_options, methods_of
from .flows import Flow, Pause, Send
from .metadata import Headers
from .session import Session

T = TypeVar("T")


class RunningStream(Protocol):
    """A stream that a client has open."""

    async def end(self) -> None:
        """End it, and wait for its tasks."""


class AsyncChannel:
    """A connection that opens with the first call, and belongs to the event loop of that; once
    that loop is closed, to the next call's."""

    def __init__(self, session: Session):
        self.session = session
        self.streams: set[RunningStream] = set()  # that run
        self._channel: grpc.aio.Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # the channel's
        self._methods: dict[str, Any] = {}

    async def run(self, flow: Flow[T]) -> T:
        """What the flow returns."""
        try:
            wanted = next(flow)
            while True:
                try:
                    outcome = await self._do(wanted)
                except BaseException as error:
                    wanted = flow.throw(self._as_closed(error))
                else:
                    wanted = flow.send(outcome)
        except StopIteration as end:
            result: T = end.value
            return result

    def open_stream(self, headers: Headers) -> Any:
        """A `grpc.aio.StreamStreamCall` that sends bytes."""
        return self._connected()["EncodeStream"](metadata=headers)

    def ask(self, seconds: float, headers: Headers) -> Any:
        """A call that any server answers that is alive, within so many seconds."""
        return self._connected()["Check"](ANY_SERVICE, timeout=seconds, metadata=headers)

    async def close(self) -> None:
        """End all streams and calls; a forked process only forgets what is its parent's."""
        session = self.session
        if not session.is_inherited:
            self._check_loop()
        session.is_closed = True
        if session.is_inherited or self._loop is not asyncio.get_running_loop():
            return  # there is nothing of this process or loop
        for stream in list(self.streams):
            await stream.end()
        if self._channel is not None:
            await self._channel.close()

    def _connected(self) -> dict[str, Any]:
        """The channel's methods."""
        self.session.check_open()
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._check_loop()
            self._channel, self._loop = self._open(), loop
            self._methods = methods_of(self._channel)
        return self._methods

    def _check_loop(self) -> None:
        loop = self._loop
        if loop is not None and loop is not asyncio.get_running_loop() and not loop.is_closed():
            raise RuntimeError("the client is used by another event loop; make one for each loop")

    def _open(self, *, checked: bool = True) -> grpc.aio.Channel:
        address, tls = self.session.address, self.session.tls
        options = channel_options(address, tls, checked=checked)
        if tls is None:
            return grpc.aio.insecure_channel(address.name, options)
        return grpc.aio.secure_channel(address.name, tls.credentials, options)

    async def _do(self, wanted: Send | Pause) -> Any:
        if isinstance(wanted, Pause):
            return await asyncio.sleep(wanted.seconds)
        methods = self._connected()
        if wanted.to_any:
            async with self._open(checked=False) as channel:
                return await _send(methods_of(channel), wanted)
        return await _send(methods, wanted)

    def _as_closed(self, error: BaseException) -> BaseException:
        """To close a channel cancels its calls, but not the tasks that wait for them: these are
        to end as any that fails."""
        task = asyncio.current_task()
        was_cancelled = isinstance(error, asyncio.CancelledError)
        if was_cancelled and self.session.is_closed and task is not None and not task.cancelling():
            closed = self.session.closed_error()
            closed.__cause__ = error
            return closed
        return error


async def _send(methods: dict[str, Any], wanted: Send) -> Any:
    call = methods[wanted.method](
        wanted.request, timeout=wanted.timeout_seconds, metadata=wanted.headers
    )
    return await call
