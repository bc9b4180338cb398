"""`AioStream`: a stream of `AsyncClient`. Three tasks of one loop share its `Stream`: the caller's,
which reads replies; one that pulls from the source; and one that sends what there is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import AbstractContextManager, suppress
from typing import Any

from bilstm.v1 import encoder_pb2 as pb

from ._aio_call import StreamCall
from ._base import BaseClient
from ._entries import Entry
from ._sending import Sending
from ._stream import Stream
from .errors import Cancelled, Unavailable

# That items are taken from a source one after the other, before what was taken is sent: an iterable
# that is not asynchronous holds the loop up, and so should have its next item at hand.
_PULL_SECONDS = 0.001

OpenCall = Callable[[], Any]  # a grpc.aio.StreamStreamCall that sends bytes


class AioStream:
    def __init__(
        self,
        client: BaseClient,
        open_call: OpenCall,
        stream: Stream,
        source: Iterable[Any] | AsyncIterable[Any],
    ):
        self._client = client
        self._open_call = open_call
        self._stream = stream
        self._source = source
        self._changed = asyncio.Event()
        self._call: StreamCall | None = None
        self._failure: BaseException | None = None  # of the source
        self._puller: asyncio.Task[None] | None = None
        self._sender: asyncio.Task[None] | None = None

    async def results(self) -> AsyncGenerator[Any, None]:
        self._puller = asyncio.create_task(self._pull())
        try:
            while not self._stream.is_finished:
                call = await self._connect()
                while (response := await self._next(call)) is not None:
                    received = self._stream.receive(response, time.monotonic())
                    self._changed.set()
                    for entry, value in received:
                        yield self._stream.result(entry, value)
        finally:
            self._stream.close()
            if self._call is not None:
                self._call.cancel()
            await _end(self._puller)
            await _end(self._sender)

    # -- the caller's task

    async def _connect(self) -> StreamCall:
        sending = self._stream.begin_call()
        await _end(self._sender)
        self._check_source()
        with self._calling():
            self._call = StreamCall(self._open_call())
        self._sender = asyncio.create_task(self._send(self._call, sending))
        return self._call

    async def _next(self, call: StreamCall) -> pb.EncodeStreamResponse | None:
        """The next reply; None: the call is over, and if there is need another is to be made."""
        response: pb.EncodeStreamResponse | None = None
        lost: Unavailable | Cancelled | None = None
        try:
            with self._calling():
                response = await call.read()
        except (Unavailable, Cancelled) as error:
            lost = error
        except asyncio.CancelledError:
            if self._failure is None:  # if not, it was the call that was cancelled, not this task
                raise
        self._check_source()
        if lost is not None and not self._stream.is_finished:
            await self._pause(lost)
        elif response is None:
            self._stream.check_finished()
        return response

    async def _pause(self, lost: Unavailable | Cancelled) -> None:
        if self._client.is_closed:
            raise lost
        seconds = self._stream.interrupted(lost, time.monotonic())
        with suppress(TimeoutError):
            await asyncio.wait_for(self._until(lambda: self._failure is not None), seconds)
        self._check_source()

    def _check_source(self) -> None:
        """Outside of any handler: what the source has raised is raised as it is."""
        if self._failure is not None:
            raise self._failure

    def _calling(self) -> AbstractContextManager[None]:
        return self._client.calling(self._stream.options.encode.model_key)

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            self._changed.clear()
            await self._changed.wait()

    # -- the other tasks

    async def _pull(self) -> None:
        try:
            async for item in _each(self._source):
                self._stream.add(item)
                self._changed.set()
                await self._until(lambda: self._stream.has_room)
            self._stream.ended = True
        except Exception as error:
            self._fail(error)
        self._changed.set()

    async def _send(self, call: StreamCall, sending: Sending) -> None:
        try:
            is_open = await call.write(self._stream.options.opening())
            while is_open:
                await self._until(lambda: self._stream.has_unsent(sending))
                entries = self._stream.take(sending)
                if not entries:
                    break
                async for message in _messages(sending, entries):
                    if not (is_open := await call.write(message)):
                        break
            await call.done_writing()
        except Exception as error:  # of the chunks of a sequence
            if not sending.stopped:
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self._failure is None:
            self._failure = error
            self._changed.set()
            if self._call is not None:
                self._call.cancel()


async def _messages(sending: Sending, entries: list[Entry]) -> AsyncIterator[bytes]:
    for entry in entries:
        sending.begin(entry)
        if not entry.in_chunks:
            for message in sending.array(entry):
                yield message
            continue
        for message in sending.flush():  # each chunk may be long in coming
            yield message
        async for chunk in _each(() if entry.failure else entry.sequence):
            for message in (*sending.chunk(entry, chunk), *sending.flush()):
                yield message
            if sending.is_over(entry):
                break
        sending.end(entry)
    for message in sending.flush():
        yield message


async def _each(items: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
        return
    paused_at = time.monotonic()
    for item in items:
        yield item
        if time.monotonic() > paused_at + _PULL_SECONDS:
            await asyncio.sleep(0)
            paused_at = time.monotonic()


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait([task])
