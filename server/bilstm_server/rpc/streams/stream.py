"""`Stream`: one EncodeStream call, from its chunks to the batcher, and from there to its `Outbox`.

One task reads. Where there is no room, for bytes, for sequences, or in the next batch, it waits,
and reads no further meanwhile: flow control slows the client down.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from bilstm.v1 import encoder_pb2 as pb

from ...batching.jobs import Result
from ...errors import InvalidInput, Overloaded, ServiceError, Stalled, Unavailable
from ...serving.registry import ServedModel
from ...settings import RequestLimits
from ..deadline import Deadline
from ..internal import Context, log_internal_error
from ..messages import EncodeStreamRequest, SequenceChunk
from ..replies import error_chunk, stream_opened
from ..status import drop_reason, internal_sequence_error, sequence_error
from .live import LiveSequence
from .memory import NoRoom, StreamRoom
from .outbox import Answer, Outbox
from .progress import Progress, Stall
from .requests import StreamOptions, parse_initial_state, parse_steps
from .sizes import StepBytes
from .whole import Entry, Shared, StreamSequence, WholeSequence

_RETRY_SECONDS = 1.0  # a guess: until a client has completed some of what it has half sent
# For so long a client that leaves looks like one that has ended its side of the stream.
_LEAVING_SECONDS = 0.05
_LEAST_SHARE = 32  # where others want its room, moving less than this part of it is not moving
_CHUNKS_IN_A_ROW = 64  # are taken before others of the event loop have their turn


class Stream:
    def __init__(
        self,
        model: ServedModel,
        options: StreamOptions,
        limits: RequestLimits,
        room: StreamRoom,
        context: Context,
    ):
        self.model = model
        self._options = options
        self._limits = limits
        self.room = room
        self._context = context
        self._deadline = Deadline.of(context)
        self._outbox = Outbox(options.any_order)
        self.progress = Progress()
        self._shared = Shared(
            model,
            options,
            limits.max_stream_bytes,
            room,
            self._outbox,
            self.progress,
            self._deadline.at,
            StepBytes(model, options),
            self._told,
        )
        self._open: dict[int, Entry] = {}  # whose client has sent none for longest, first
        self._highest_id: int | None = None
        self._results: set[asyncio.Future[Result]] = set()
        self._live: set[LiveSequence] = set()
        self._reading: asyncio.Task[None] | None = None
        self._draining = False
        self._broken = False  # the protocol
        self._stalled = False

    # -- its lifetime -----------------------------------------------------------------------------

    async def run(self, requests: AsyncIterator[EncodeStreamRequest]) -> AsyncGenerator[bytes]:
        """The replies. Whatever ends it, nothing of it is left."""
        reading = self._reading = asyncio.create_task(self._read(requests))
        reading.add_done_callback(self._read_to_end)
        if self._draining:
            reading.cancel()
        try:
            async with aclosing(self._replies()) as replies:
                async for reply in replies:
                    self.progress.telling = True
                    yield reply
                    self.progress.telling = False
                    self.progress.move(len(reply))
            if not reading.cancelled():
                await reading
            if self._draining:
                raise Unavailable("the server is draining; try another one")
        finally:
            tasks = self._close()
            await asyncio.wait(tasks)

    async def _replies(self) -> AsyncGenerator[bytes]:
        yield stream_opened(self.model)
        async with aclosing(self._outbox.messages()) as messages:
            async for message in messages:
                yield message

    def _read_to_end(self, reading: asyncio.Task[None]) -> None:
        if not reading.cancelled():
            reading.exception()  # asked for, even if the client has left and nobody is told
        self._outbox.close()

    def drain(self) -> None:
        """Read no further; what is complete is answered, and then the stream ends."""
        self._draining = True
        if self._reading is not None:
            self._reading.cancel()

    def stall(self) -> None:
        """It is about to be ended, because its client stands still."""
        self._stalled = True
        for _ in range(self._outbox.results):
            self.model.metrics.drop("stalled")

    def _close(self) -> set[asyncio.Task[None]]:
        """Let go of all that is there, at once: an await could be cancelled. Returns the tasks that
        have yet to notice."""
        reason = "expired" if self._deadline.ended() else "cancelled"
        reason = "invalid" if self._broken else "draining" if self._draining else reason
        reason = "stalled" if self._stalled else reason
        live = [sequence for sequence in self._live if not sequence.task.done()]
        half_sent = [e for e in self._open.values() if not e.failed and e.body not in live]
        for _ in (*half_sent, *live):
            self.model.metrics.drop(reason)
        assert self._reading is not None
        tasks = {self._reading, *(sequence.task for sequence in live)}
        for task in tasks:
            task.cancel()
        for result in list(self._results):
            if result.cancel():
                self.model.metrics.drop(reason)
        self._open.clear()
        self._outbox.clear()
        self.room.close()
        return tasks

    # -- its client's pace ------------------------------------------------------------------------

    @property
    def turn(self) -> Stall | None:
        """What its client does not do now, if it is the client's turn."""
        if self._draining and not self.progress.telling:
            return None
        half_sent = self.room.half_sent_sequences
        computing = sum(sequence.computing for sequence in self._live)
        complete = self.room.sequences - half_sent + computing
        return self.progress.turn(half_sent, complete)

    def pass_time(self, seconds: float, limit: float) -> None:
        """`limit`: seconds for which a sequence may stand still while others of the stream move."""
        least = self.room.used // _LEAST_SHARE if self.room.wanted else 0
        self.progress.pass_time(seconds, self.turn, least)
        if not self.progress.asking or self.progress.idle_seconds >= limit / 2:
            return  # in the end all of it stands still
        for entry in self._open.values():
            if self.progress.asked_seconds - entry.moved_at < limit:
                break
            if not entry.failed:
                self._fail(entry, Stalled(f"no steps of the sequence came for {limit:g} seconds"))

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
                await self._finish_live()

    async def _read_all(self, requests: AsyncIterator[EncodeStreamRequest]) -> None:
        """Raises `InvalidInput` where the protocol is broken."""
        self.progress.asking = True
        async for request in requests:
            self.progress.asking = False
            if request.options is not None:
                raise InvalidInput("options", "must come in the first message only")
            chunks, most = request.chunks, self._limits.max_request_sequences
            if len(chunks) > most:
                raise InvalidInput("chunks", f"must be at most {most}, got {len(chunks)}")
            for index in range(len(chunks)):
                if index % _CHUNKS_IN_A_ROW == _CHUNKS_IN_A_ROW - 1:
                    await asyncio.sleep(0)
                await self._take(chunks[index], index)
            self.progress.asking = True
        self.progress.asking = False
        if self._open:
            await asyncio.sleep(_LEAVING_SECONDS)
        for entry in self._open.values():
            if not entry.failed:
                self._fail(entry, InvalidInput("last", "the stream ended without it"))
        self._open.clear()
        await self._finish_live()

    async def _finish_live(self) -> None:
        """Wait for the live sequences that have ended; drop those that have not."""
        ended = [sequence.task for sequence in self._live if sequence.ended or sequence.failed]
        if ended:
            await asyncio.wait(ended)

    async def _take(self, chunk: SequenceChunk, index: int) -> None:
        entry = self._open.get(chunk.id)
        if entry is None:
            if self._highest_id is not None and chunk.id <= self._highest_id:
                raise InvalidInput(
                    f"chunks[{index}].id",
                    f"must be that of a sequence which is not complete, or higher than all before "
                    f"({self._highest_id}), got {chunk.id}",
                )
            self._highest_id = chunk.id
            entry = Entry(chunk.id, moved_at=self.progress.asked_seconds)
            self._open[chunk.id] = entry
        try:
            if not entry.failed:
                await self._advance(entry, chunk)
        except Unavailable:
            raise
        except ServiceError as error:
            self._fail(entry, error)
        except NoRoom:
            if answer := self._fail(entry, self._half_sent()):
                await answer.sent.wait()  # a client that reads nothing must not fill the memory so
        if chunk.last:
            del self._open[chunk.id]
        elif entry.failed and self._many_failed():
            raise InvalidInput("chunks", "too many sequences go on after they were refused")

    def _many_failed(self) -> bool:
        failed = sum(entry.failed for entry in self._open.values())
        return failed > self._limits.max_stream_sequences

    async def _advance(self, entry: Entry, chunk: SequenceChunk) -> None:
        if entry.body is None:
            await self.room.begin()
            entry.has_place = True
            entry.body = self._begin(chunk)
        elif chunk.initial_state is not None:
            raise InvalidInput("initial_state", "must come with the sequence's first chunk")
        steps = parse_steps(chunk, self.model.config)
        if steps is not None:
            await entry.body.add(steps, chunk.last)
            entry.moved_at = self.progress.asked_seconds
            self._open[entry.id] = self._open.pop(entry.id)
        if chunk.last:
            await entry.body.end()

    def _begin(self, chunk: SequenceChunk) -> StreamSequence:
        state = parse_initial_state(chunk, self.model.config)
        if self._options.live is None:
            return WholeSequence(self._shared, chunk.id, state, self._results)
        live = LiveSequence(self._shared, self._options.live, chunk.id, state)
        self._live.add(live)
        live.task.add_done_callback(lambda _: self._live.discard(live))
        return live

    # -- what fails -------------------------------------------------------------------------------

    def _fail(self, entry: Entry, error: Exception) -> Answer | None:
        """Answer that the sequence has no result, and let go what is there of it."""
        if entry.body is not None:
            return entry.body.fail(error)
        entry.refused = True
        chunk = error_chunk(entry.id, self._told(error))
        if not entry.has_place:
            return self._outbox.send(iter([chunk]))
        self.room.complete(0)
        return self._outbox.send(iter([chunk]), lambda: self.room.give(0, sequences=1))

    def _told(self, error: BaseException) -> pb.SequenceError:
        """The error as the client is told it, counted."""
        assert isinstance(error, Exception)
        self.model.metrics.drop(drop_reason(error))
        if isinstance(error, ServiceError):
            return sequence_error(error)
        return internal_sequence_error(log_internal_error(error, self._context))

    def _half_sent(self) -> Overloaded:
        return Overloaded(
            "the stream is full of sequences that are half sent: complete some before others begin",
            _RETRY_SECONDS,
        )
