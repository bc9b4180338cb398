"""`Streams`: all of the server: how many there may be, what they may hold, and their end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from ..batching.memory import StreamMemory
from ..errors import DeadlineExpired, InvalidInput, Overloaded, Unavailable
from ..metrics import DropMetrics, Metrics
from .internal import Context
from .messages import EncodeStreamRequest
from .registry import ModelRegistry
from .requests import RequestLimits
from .status import drop_reason
from .stream import Stream
from .stream_requests import parse_stream_options

_RETRY_SECONDS = 1.0  # a guess: until one of the streams has ended
_DRAINING = "the server is draining; try another one"
_OPENING_SECONDS = 30.0  # within which the first message must come


class Streams:
    def __init__(
        self,
        registry: ModelRegistry,
        limits: RequestLimits,
        memory: StreamMemory,
        max_streams: int,
        metrics: Metrics,
    ):
        self._registry = registry
        self._limits = limits
        self._memory = memory
        self._max_streams = max_streams
        self._metrics = metrics
        self._calls = 0
        self._streams: set[Stream] = set()
        self._opening: set[asyncio.Task[Stream | None]] = set()
        self._draining = False
        self._ended = asyncio.Event()
        self._ended.set()
        metrics.watch_streams(
            lambda: self._calls, lambda: memory.used, memory.limits.max_streams_bytes
        )

    async def serve(
        self, requests: AsyncIterator[EncodeStreamRequest], context: Context
    ) -> AsyncGenerator[bytes]:
        """One stream's replies."""
        self._admit()
        self._calls += 1
        self._ended.clear()
        stream: Stream | None = None
        try:
            stream = await self._opened(requests, context)
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
        """Refuse new streams; those that there are end when what was complete is answered."""
        self._draining = True
        for opening in self._opening:
            opening.cancel()
        for stream in self._streams:
            stream.drain()

    @property
    def idle(self) -> bool:
        """Whether there is none."""
        return not self._calls

    async def ended(self) -> None:
        """Wait until there is none."""
        await self._ended.wait()

    def _admit(self) -> None:
        try:
            if self._draining:
                raise Unavailable(_DRAINING)
            if self._calls >= self._max_streams:
                raise Overloaded(f"{self._calls} streams are open, no more may be", _RETRY_SECONDS)
        except (Unavailable, Overloaded) as error:
            self._metrics.no_model.drop(drop_reason(error))
            raise

    async def _opened(
        self, requests: AsyncIterator[EncodeStreamRequest], context: Context
    ) -> Stream | None:
        """What `_open` gives, unless a drain comes before."""
        opening = asyncio.create_task(self._open(requests, context))
        self._opening.add(opening)
        try:
            await asyncio.wait({opening})
        finally:
            self._opening.discard(opening)
            opening.cancel()
        if opening.cancelled():
            raise Unavailable(_DRAINING)
        return opening.result()

    async def _open(
        self, requests: AsyncIterator[EncodeStreamRequest], context: Context
    ) -> Stream | None:
        """By the first message; None if there is none."""
        metrics: DropMetrics = self._metrics.no_model
        try:
            async with asyncio.timeout(_OPENING_SECONDS):
                request = await anext(aiter(requests), None)
        except TimeoutError as error:
            metrics.drop("expired")
            raise DeadlineExpired(
                f"the stream's first message did not come within {_OPENING_SECONDS:.0f} seconds"
            ) from error
        if request is None:
            return None
        try:
            if request.options is None:
                raise InvalidInput("options", "the first message must have it")
            if request.chunks:
                raise InvalidInput("chunks", "the first message must have none")
            model = self._registry.get(request.options.model, request.options.version)
            metrics = model.metrics
            options = parse_stream_options(request.options, model.config, self._limits)
        except Exception as error:
            metrics.drop(drop_reason(error))
            raise
        return Stream(model, options, self._limits, self._memory.open(), context)
