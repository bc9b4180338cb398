"""`Streams`: all of the server: how many there may be, what they may hold, and their end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from ....errors import DRAINING, InvalidInput, Overloaded, Unavailable
from ....metrics import DropMetrics, Metrics
from ....serving.registry import ModelRegistry
from ....settings import RequestLimits
from ...context import Context
from ...flow.connections import has_name
from ...interceptors.open_streams import STREAM_RETRY_SECONDS
from ...interceptors.outcomes import current_call
from ...status import drop_reason
from ..messages import EncodeStreamRequest
from .memory import StreamMemory
from .requests import parse_stream_options
from .stream import Stream
from .watch import OpenCall, StreamWatch


class Streams:
    """Opens, counts and ends the streams of all clients."""

    def __init__(
        self,
        registry: ModelRegistry,
        limits: RequestLimits,
        memory: StreamMemory,
        metrics: Metrics,
    ):
        self._registry = registry
        self._limits = limits
        self._memory = memory
        self._metrics = metrics
        self._watch = StreamWatch(limits, metrics)
        # Of each connection, until gRPC has sent their end: it holds as long what the client does
        # not take, and has no way to let go of that.
        self._of_connection: Counter[str] = Counter()
        self._calls = 0
        self._streams: set[Stream] = set()
        self._opening: set[asyncio.Task[Stream | None]] = set()
        self._draining = False
        self._ended = asyncio.Event()
        self._ended.set()
        metrics.watch_streams(lambda: self._calls, lambda: memory.used, limits.max_streams_bytes)

    async def serve(
        self, requests: AsyncIterator[EncodeStreamRequest], context: Context
    ) -> AsyncGenerator[bytes]:
        """Give one stream's replies."""
        own = current_call.get()
        assert own.end is not None  # it is a stream
        call = OpenCall(context.peer(), own.caller.name, own.end)
        self._check_door(call.peer)
        self._of_connection[call.peer] += 1
        # Not by the context's own `peer()`: by then it may have no call, and would crash.
        context.add_done_callback(
            lambda _: self._forget(call.peer)  # type: ignore[arg-type]  # the stub's is a class
        )
        self._calls += 1
        self._ended.clear()
        stream: Stream | None = None
        try:
            with self._watch.watching(call):
                call.stream = stream = await self._opened(requests, context)
                if stream is None:
                    return
                self._streams.add(stream)
                if self._draining:
                    stream.drain()
                async with aclosing(stream.run(requests)) as messages:
                    async for message in messages:
                        yield message
        finally:
            self._calls -= 1
            if stream is not None:
                self._streams.discard(stream)
            if not self._calls:
                self._ended.set()

    def drain(self) -> None:
        """Refuse new streams. Those that are open end when what was complete is answered."""
        self._draining = True
        for opening in self._opening:
            opening.cancel()
        for stream in self._streams:
            stream.drain()

    @property
    def idle(self) -> bool:
        """Whether no stream is open."""
        return not self._calls

    async def ended(self) -> None:
        """Wait until no stream is open."""
        await self._ended.wait()

    def _check_door(self, peer: str) -> None:
        """Raise `Unavailable` or `Overloaded` where one more stream of the peer has no place."""
        count, own = self._watch.count, self._of_connection[peer]
        try:
            if self._draining:
                raise Unavailable(DRAINING)
            if own >= self._limits.max_connection_streams and has_name(peer):
                raise Overloaded(
                    f"{own} streams of this connection are open, no more may be",
                    STREAM_RETRY_SECONDS,
                )
            if count >= self._limits.max_streams and not self._watch.make_place():
                raise Overloaded(f"{count} streams are open, no more may be", STREAM_RETRY_SECONDS)
        except (Unavailable, Overloaded) as error:
            self._metrics.no_model.drop(drop_reason(error))
            raise

    def _forget(self, peer: str) -> None:
        self._of_connection[peer] -= 1
        if not self._of_connection[peer]:
            del self._of_connection[peer]

    async def _opened(
        self, requests: AsyncIterator[EncodeStreamRequest], context: Context
    ) -> Stream | None:
        """Wait for the first message, and open the stream, unless a drain comes before."""
        opening = asyncio.create_task(self._open(requests, context))
        self._opening.add(opening)
        try:
            await asyncio.wait({opening})
        finally:
            self._opening.discard(opening)
            opening.cancel()
        if opening.cancelled():
            raise Unavailable(DRAINING)
        return opening.result()

    async def _open(
        self, requests: AsyncIterator[EncodeStreamRequest], context: Context
    ) -> Stream | None:
        """Open a stream as its first message asks. Returns None if the client sends none."""
        metrics: DropMetrics = self._metrics.no_model
        call = current_call.get()
        request = await anext(aiter(requests), None)
        if request is None:
            return None
        try:
            if request.options is None:
                raise InvalidInput("options", "the first message must have it")
            if request.chunks:
                raise InvalidInput("chunks", "the first message must have none")
            model = self._registry.get(
                request.options.model, request.options.version, call.caller.models
            )
            metrics = model.metrics
            options = parse_stream_options(request.options, model.config, self._limits)
        except Exception as error:
            metrics.drop(drop_reason(error))
            raise
        room = self._memory.open()
        return Stream(model, options, self._limits, room, context, call.caller, call.priority)
