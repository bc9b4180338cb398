"""`AioStream`: a stream of `AsyncClient`. Four tasks of one loop share its `Stream`: the caller's,
which reads replies; one that pulls from the source; one that sends what there is; and one that sees
to it that the server lives.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from contextlib import aclosing, suppress
from typing import Any

from bilstm.v1 import encoder_pb2 as pb

from .._calls.asynchronous import AsyncChannel
from ..errors import Unauthenticated
from ..types import Metadata
from .aio_call import StreamCall
from .entries import Entry
from .options import StreamOptions
from .runner import ENDS_CALL, StreamRunner
from .sending import Sending
from .silence import Action
from .stream import Stream

# How long items are taken from a source before what was taken is sent: an iterable that is not
# asynchronous holds the loop up, and so should have its next item at hand.
_PULL_SECONDS = 0.001


class AioStream(StreamRunner):
    """A running stream of `AsyncClient`; see the module for its tasks."""

    def __init__(
        self,
        channel: AsyncChannel,
        options: StreamOptions,
        source: Iterable[Any] | AsyncIterable[Any],
        timeout_seconds: float | None,
        metadata: Metadata | None,
    ):
        call = channel.session.begin(timeout_seconds, metadata)
        has_length = hasattr(source, "__len__")
        super().__init__(channel.session, call, Stream(options, call.timeout_seconds, has_length))
        self._channel = channel
        self._source = source
        self._changed = asyncio.Event()
        self._call: StreamCall | None = None
        self._puller: asyncio.Task[None] | None = None
        self._sender: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def results(self) -> AsyncGenerator[Any, None]:
        """What the caller iterates. The stream begins with the first result that is asked for, and
        ends with the generator."""
        self._session.check_process()
        self._channel.streams.add(self)
        self._puller = asyncio.create_task(self._pull())
        self._watcher = asyncio.create_task(self._watch())
        try:
            while not self._stream.is_finished:
                call = await self._connect()
                while (response := await self._next(call)) is not None:
                    received = self._stream.receive(response, time.monotonic())
                    self._changed.set()
                    self._report()
                    for entry, value in received:
                        self._session.check_process()
                        yield self._stream.result(entry, value)
        finally:
            if not self._session.is_inherited:
                self._channel.streams.discard(self)
                self._stopped = True
                self._stream.close()
                await self.end()

    async def end(self) -> None:
        """End the tasks: the caller has left, or the client is closed."""
        self._stream.stop()
        self._changed.set()
        if self._call is not None:
            self._call.cancel()
        tasks = self._puller, self._sender, self._watcher
        self._puller = self._sender = self._watcher = None  # which hold the source, and this
        self._source = ()
        await _end(*tasks)

    # -- the caller's task

    async def _connect(self) -> StreamCall:
        self._check()
        sending = self._stream.begin_call()
        await _end(self._sender)
        self._check()
        headers = self._next_headers()
        try:
            with self._calling():
                self._call = StreamCall(self._channel.open_stream(headers), sending)
        except Exception:  # grpc.aio's own: the channel is closed
            self._check()
            raise
        self._sender = asyncio.create_task(self._send(self._call, sending))
        return self._call

    async def _next(self, call: StreamCall) -> pb.EncodeStreamResponse | None:
        """The next reply. None: the call is over, and if more is owed another one is to be made."""
        response: pb.EncodeStreamResponse | None = None
        ended = None
        cancellations = _cancellations()
        self._session.check_process()
        self._is_reading = True
        try:
            with self._calling():
                response = await call.read()
        except ENDS_CALL as error:
            ended = error
        except asyncio.CancelledError:
            # Of this task, or of the call, because the source has failed or the client was closed.
            if _cancellations() > cancellations or not self._is_over:
                raise
        finally:
            self._is_reading = False
        if isinstance(ended, Unauthenticated):
            self._renew(ended)
        if seconds := self._pause_after(response, ended):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._until(lambda: self._is_over), seconds)
            self._check()
        return response

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            self._changed.clear()
            await self._changed.wait()

    # -- the other tasks

    async def _pull(self) -> None:
        try:
            async with aclosing(_each(self._source)) as items:
                async for item in items:
                    self._stream.add(item)
                    self._changed.set()
                    await self._until(lambda: self._is_over or self._stream.has_room)
                    if self._is_over:
                        return
            self._stream.ended = True
        except BaseException as error:
            self._fail(error)
        self._changed.set()

    async def _send(self, call: StreamCall, sending: Sending) -> None:
        try:
            is_open = await call.write(self._stream.options.opening())
            while is_open and await self._wait_for_unsent(sending):
                while is_open and (entry := self._stream.take(sending)) is not None:
                    is_open = await self._send_entry(call, sending, entry)
                is_open = is_open and await self._write(call, sending.flush())
            await call.done_writing()
        except BaseException as error:  # of the chunks of a sequence
            self._fail(error, sending)

    async def _send_entry(self, call: StreamCall, sending: Sending, entry: Entry) -> bool:
        """Send all of the entry; False if the call is over."""
        if not entry.in_chunks:
            return await self._write(call, sending.array(entry))
        if not await self._write(call, sending.flush()):  # each chunk may be long in coming
            return False
        if not sending.is_over(entry):
            async with aclosing(_each(entry.sequence)) as chunks:
                async for chunk in chunks:
                    if not await self._write(call, sending.chunk(entry, chunk)):
                        return False
                    if sending.is_over(entry):
                        break
        sending.end(entry)
        return True

    async def _write(self, call: StreamCall, messages: Iterable[bytes]) -> bool:
        """Send the messages; False if the call is over."""
        for message in messages:
            if not await call.write(message):
                return False
            self._report()
        return True

    async def _wait_for_unsent(self, sending: Sending) -> bool:
        """Wait for something to send; False if there will be nothing more."""
        stream = self._stream
        await self._until(lambda: stream.has_unsent(sending) or stream.has_no_more(sending))
        return stream.has_unsent(sending)

    async def _watch(self) -> None:
        silence = self._stream.silence
        while not self._is_over:
            await asyncio.sleep(silence.look_seconds)
            action = self._stream.look(time.monotonic(), self._is_reading)
            if action is Action.ASK and await self._is_alive(silence.ask_seconds):
                silence.heard(time.monotonic())
            elif action is Action.GIVE_UP:
                self._fail(self._given_up())

    async def _is_alive(self, seconds: float) -> bool:
        try:
            return await self._channel.ask(seconds, self._options.sent_headers()) is not None
        except Exception:  # grpc.aio's own, of many kinds
            return False

    def _fail(self, error: BaseException, sending: Sending | None = None) -> None:
        """The caller's own code has raised, or this task was ended."""
        if _cancellations():
            raise error
        if self._is_over or (sending is not None and sending.stopped):
            return
        self._failure = error
        self._changed.set()
        if self._call is not None:
            self._call.cancel()


async def _each(items: Iterable[Any] | AsyncIterable[Any]) -> AsyncGenerator[Any, None]:
    """All items. An asynchronous generator is closed with this one, wherever it is."""
    if isinstance(items, AsyncIterable):
        iterator = aiter(items)
        try:
            async for item in iterator:
                yield item
        finally:
            if isinstance(iterator, AsyncGenerator):
                await iterator.aclose()
        return
    paused_at = time.monotonic()
    for item in items:
        yield item
        if time.monotonic() > paused_at + _PULL_SECONDS:
            await asyncio.sleep(0)
            paused_at = time.monotonic()


def _cancellations() -> int:
    """How often the present task was cancelled itself, and not only what it awaits."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


async def _end(*tasks: asyncio.Task[None] | None) -> None:
    """Cancel the tasks and wait for them, but not for the present one: a source may close the
    client."""
    others = {task for task in tasks if task and task is not asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others)
