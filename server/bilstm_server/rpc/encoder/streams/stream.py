"""`Stream`: one EncodeStream call, from its messages to its `Assembly`, and from its `Outbox` back.

One task reads. Where there is no room, for bytes, for sequences, or in the next batch, it waits,
and reads no further meanwhile: flow control slows the client down.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from ....callers import Caller, Priority
from ....errors import DRAINING, InvalidInput, Unavailable
from ....serving.registry import ServedModel
from ....settings import RequestLimits
from ...context import Context
from ...deadline import Deadline
from ..messages import EncodeStreamRequest
from ..replies import stream_opened
from .assembly import Assembly
from .idleness import Idleness, Stall
from .memory import StreamRoom
from .outbox import Outbox
from .requests import StreamOptions
from .shared import SequenceBytes, Shared

# For so long a client that leaves looks like one that has ended its side of the stream.
_LEAVING_SECONDS = 0.05
_LEAST_SHARE = 32  # where others want its room, moving less than this part of it is not moving
_CHUNKS_IN_A_ROW = 64  # are taken before others of the event loop have their turn


class Stream:
    """One stream of one client to one model."""

    def __init__(
        self,
        model: ServedModel,
        options: StreamOptions,
        limits: RequestLimits,
        room: StreamRoom,
        context: Context,
        caller: Caller,
        priority: Priority,
    ):
        self.model = model
        self.room = room
        self._outputs = options.outputs
        self.idleness = Idleness()
        self._deadline = Deadline.of(context)
        self._outbox = Outbox(options.any_order)
        self._shared = Shared(
            model,
            options,
            limits.max_stream_bytes,
            limits.whole_tokens,
            room,
            self._outbox,
            self.idleness,
            self._deadline.at,
            SequenceBytes(model, options),
            context,
            caller,
            priority,
        )
        self._assembly = Assembly(self._shared, limits)
        self._reading: asyncio.Task[None] | None = None
        self._draining = False
        self._broken = False  # its client does not keep to the protocol
        self._stalled = False

    # -- its lifetime -----------------------------------------------------------------------------

    async def run(self, requests: AsyncIterator[EncodeStreamRequest]) -> AsyncGenerator[bytes]:
        """Give the replies. Whatever ends the stream, nothing of it is left."""
        reading = self._reading = asyncio.create_task(self._read(requests))
        reading.add_done_callback(self._read_to_end)
        if self._draining:
            reading.cancel()
        try:
            async with aclosing(self._replies()) as replies:
                async for reply in replies:
                    self.idleness.answering = True
                    yield reply
                    self.idleness.answering = False
                    self.idleness.move(len(reply))
            if not reading.cancelled():
                await reading
            if self._draining:
                raise Unavailable(DRAINING)
        finally:
            tasks = self._close()
            await asyncio.wait(tasks)

    async def _replies(self) -> AsyncGenerator[bytes]:
        yield stream_opened(self.model, self._outputs)
        async with aclosing(self._outbox.messages()) as messages:
            async for message in messages:
                yield message

    def _read_to_end(self, reading: asyncio.Task[None]) -> None:
        if not reading.cancelled():
            reading.exception()  # asked for, even if the client has left and nobody gets it
        self._outbox.close()

    def drain(self) -> None:
        """Read no further; what is complete is answered, and then the stream ends."""
        self._draining = True
        if self._reading is not None:
            self._reading.cancel()

    def stall(self) -> None:
        """Note that it is about to be ended because its client stands still."""
        self._stalled = True
        for _ in range(self._outbox.results):
            self._shared.drop("stalled")

    def _close(self) -> set[asyncio.Task[None]]:
        """Let go of all that is there, at once, because an await could be cancelled. Returns the
        tasks that have yet to notice."""
        reason = "expired" if self._deadline.ended() else "cancelled"
        reason = "invalid" if self._broken else "draining" if self._draining else reason
        reason = "stalled" if self._stalled else reason
        assert self._reading is not None
        self._reading.cancel()
        tasks = {self._reading, *self._assembly.close(reason)}
        self._outbox.clear()
        self.room.close()
        return tasks

    # -- its client's pace ------------------------------------------------------------------------

    @property
    def turn(self) -> Stall | None:
        """What its client does not do now, if it is the client's turn."""
        if self._draining and not self.idleness.answering:
            return None
        half_sent = self.room.half_sent_sequences
        complete = self.room.sequences - half_sent + self._assembly.computing
        return self.idleness.turn(half_sent, complete)

    def pass_time(self, seconds: float, limit: float) -> None:
        """Note that so many seconds have passed, and fail the sequences that have stood still for
        `limit` seconds while others of the stream moved."""
        least = self.room.used // _LEAST_SHARE if self.room.wanted else 0
        self.idleness.pass_time(seconds, self.turn, least)
        if not self.idleness.asking or self.idleness.idle_seconds >= limit / 2:
            return  # in the end all of it stands still
        self._assembly.fail_stalled(limit)

    # -- reading ----------------------------------------------------------------------------------

    async def _read(self, requests: AsyncIterator[EncodeStreamRequest]) -> None:
        try:
            await self._read_all(requests)
        except asyncio.CancelledError:
            if not self._draining:
                raise
        except InvalidInput:
            self._broken = True
            raise
        finally:
            if self._draining:
                await self._assembly.finish_live()

    async def _read_all(self, requests: AsyncIterator[EncodeStreamRequest]) -> None:
        """Take every message. Raises `InvalidInput` where the protocol is broken."""
        self.idleness.asking = True
        async for request in requests:
            self.idleness.asking = False
            if request.options is not None:
                raise InvalidInput("options", "must come in the first message only")
            for index, chunk in enumerate(request.chunks):
                if index % _CHUNKS_IN_A_ROW == _CHUNKS_IN_A_ROW - 1:
                    await asyncio.sleep(0)
                await self._assembly.take(chunk, index)
            self.idleness.asking = True
        self.idleness.asking = False
        if self._assembly.has_half_sent:
            await asyncio.sleep(_LEAVING_SECONDS)
        self._assembly.fail_half_sent()
        await self._assembly.finish_live()
