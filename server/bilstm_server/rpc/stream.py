"""`Stream`: one EncodeStream call, from its chunks to the batcher, and from there to its `Outbox`.

One task reads. Where there is no room, for bytes, for sequences, or in the next batch, it waits,
and reads no further meanwhile: flow control slows the client down.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial

import numpy as np

from bilstm.v1 import encoder_pb2 as pb

from ..batching.jobs import Result
from ..batching.memory import NoRoom, StreamRoom
from ..batching.sequence import Array, ChunkedSteps, SequenceInput, Steps
from ..errors import InvalidInput, Overloaded, ServiceError, Unavailable
from .deadline import Deadline
from .internal import Context, log_internal_error
from .live import LiveSequence
from .outbox import Answer, Outbox, result_chunks
from .registry import ServedModel
from .replies import error_chunk, stream_opened
from .requests import RequestLimits
from .sizes import StepBytes
from .status import drop_reason, internal_sequence_error, sequence_error
from .stream_requests import StreamOptions, parse_initial_state, parse_steps

_RETRY_SECONDS = 1.0  # a guess: until a client has completed some of what it has half sent
# For so long a client that leaves looks like one that has ended its side of the stream.
_LEAVING_SECONDS = 0.05


@dataclass(slots=True, eq=False)
class _Sequence:
    """One that is not complete yet."""

    id: int
    steps: Steps | None = None
    initial_state: tuple[Array, Array] | None = None
    dtype: np.dtype[np.generic] | None = None  # of its steps, once there are some
    begun: bool = False
    size: int = 0  # bytes that it holds of the stream's room
    failed: bool = False  # and answered: what still comes of it is ignored
    live: LiveSequence | None = None


class Stream:
    def __init__(
        self,
        model: ServedModel,
        options: StreamOptions,
        limits: RequestLimits,
        room: StreamRoom,
        context: Context,
    ):
        self._model = model
        self._options = options
        self._limits = limits
        self._room = room
        self._context = context
        self._deadline = Deadline.of(context)
        self._step_bytes = StepBytes(model, options)
        self._open: dict[int, _Sequence] = {}
        self._highest_id: int | None = None
        self._results: set[asyncio.Future[Result]] = set()
        self._live: set[asyncio.Task[None]] = set()
        self._outbox = Outbox(options.any_order)
        self._reading: asyncio.Task[None] | None = None
        self._draining = False

    # -- its lifetime -----------------------------------------------------------------------------

    async def run(self, requests: AsyncIterator[pb.EncodeStreamRequest]) -> AsyncGenerator[bytes]:
        """The replies. Whatever ends it, nothing of it is left."""
        yield stream_opened(self._model)
        self._reading = asyncio.create_task(self._read(requests))
        if self._draining:
            self._reading.cancel()
        try:
            async with aclosing(self._outbox.messages()) as messages:
                async for message in messages:
                    yield message
            with suppress(asyncio.CancelledError):
                self._reading.result()
            if self._draining:
                raise Unavailable("the server is draining; try another one")
        finally:
            await self._close()

    def drain(self) -> None:
        """Read no further; what is complete is answered, and then the stream ends."""
        self._draining = True
        if self._reading is not None:
            self._reading.cancel()

    async def _close(self) -> None:
        reason = "expired" if self._deadline.ended() else "cancelled"
        reason = "draining" if self._draining else reason
        for sequence in self._open.values():
            if not sequence.failed:
                self._model.metrics.drop(reason)
        tasks = {task for task in (self._reading, *self._live) if task is not None}
        for task in tasks:
            task.cancel()
        for result in list(self._results):
            if result.cancel():
                self._model.metrics.drop(reason)
        if tasks:
            await asyncio.wait(tasks)
        self._open.clear()
        self._room.close()

    # -- reading ----------------------------------------------------------------------------------

    async def _read(self, requests: AsyncIterator[pb.EncodeStreamRequest]) -> None:
        try:
            async for request in requests:
                if request.HasField("options"):
                    raise InvalidInput("options", "must come in the first message only")
                chunks = request.chunks
                for index in range(len(chunks)):
                    await self._take(chunks[index], index)
            if self._open:
                await asyncio.sleep(_LEAVING_SECONDS)
            for sequence in self._open.values():
                if not sequence.failed:
                    self._fail(sequence, InvalidInput("last", "the stream ended without it"))
            self._open.clear()
            if self._live:
                await asyncio.wait(self._live)
        except Unavailable:
            self._draining = True
        finally:
            self._outbox.close()

    async def _take(self, chunk: pb.SequenceChunk, index: int) -> None:
        """Raises `InvalidInput` where the protocol is broken."""
        sequence = self._open.get(chunk.id)
        if sequence is None:
            if self._highest_id is not None and chunk.id <= self._highest_id:
                raise InvalidInput(
                    f"chunks[{index}].id",
                    f"must be that of a sequence which is not complete, or higher than all before "
                    f"({self._highest_id}), got {chunk.id}",
                )
            self._highest_id = chunk.id
            sequence = self._open[chunk.id] = _Sequence(chunk.id)
        try:
            if not sequence.failed:
                await self._advance(sequence, chunk)
        except Unavailable:
            raise
        except ServiceError as error:
            self._fail(sequence, error)
        except NoRoom:
            if answer := self._fail(sequence, self._half_sent()):
                await answer.sent.wait()  # a client that reads nothing must not fill the memory so
        if chunk.last:
            del self._open[chunk.id]
        elif sequence.failed and sum(s.failed for s in self._open.values()) > self._most_failed:
            raise InvalidInput("chunks", "too many sequences go on after they were refused")

    @property
    def _most_failed(self) -> int:
        return self._limits.max_stream_sequences

    async def _advance(self, sequence: _Sequence, chunk: pb.SequenceChunk) -> None:
        steps = parse_steps(chunk, self._model.config)
        if not sequence.begun:
            sequence.initial_state = parse_initial_state(chunk, self._model.config)
            await self._room.begin()
            sequence.begun = True
            if self._options.live is not None:
                self._begin_live(sequence)
        elif chunk.HasField("initial_state"):
            raise InvalidInput("initial_state", "must come with the sequence's first chunk")
        if steps is not None:
            await self._hold(sequence, steps)
            self._append(sequence, steps, chunk.last)
        if chunk.last:
            await self._complete(sequence)

    async def _hold(self, sequence: _Sequence, steps: Array) -> None:
        """Wait until there is room for the steps and for what they will become."""
        if sequence.dtype is None:
            sequence.dtype = steps.dtype
        elif steps.dtype != sequence.dtype:
            raise InvalidInput("steps.data_type", "must be that of the sequence's first steps")
        size = len(steps) * self._step_bytes.held(steps.dtype)
        most = self._limits.max_stream_bytes
        if size + (0 if sequence.live else sequence.size) > most:
            raise InvalidInput(
                "steps",
                f"with its result the sequence is larger than a stream may hold, {most} bytes",
            )
        await self._room.take(size)
        sequence.size += size

    def _append(self, sequence: _Sequence, steps: Array, last: bool) -> None:
        if sequence.live is not None:
            sequence.live.append(steps)
        elif sequence.steps is None and last:
            sequence.steps = steps
        else:
            if sequence.steps is None:
                sequence.steps = ChunkedSteps(steps.shape[1:], steps.dtype)
            assert isinstance(sequence.steps, ChunkedSteps)
            sequence.steps.append(steps)

    async def _complete(self, sequence: _Sequence) -> None:
        if sequence.dtype is None:
            raise InvalidInput("steps", "the sequence must have at least one step")
        if sequence.live is not None:
            sequence.live.end()
            return
        assert sequence.steps is not None
        whole = SequenceInput(sequence.steps, self._options.outputs, sequence.initial_state)
        taken = whole.tokens * self._step_bytes.taken(sequence.dtype)
        self._room.complete(sequence.size)
        answer = Answer(partial(self._room.give, sequence.size - taken, sequences=1))
        sequence.steps = None
        result = await self._model.batcher.enqueue(whole, self._deadline.at)
        self._outbox.expect(answer)
        self._results.add(result)
        result.add_done_callback(partial(self._answer, sequence.id, answer, whole.tokens, taken))

    def _answer(
        self,
        sequence_id: int,
        answer: Answer,
        tokens: int,
        taken: int,
        result: asyncio.Future[Result],
    ) -> None:
        """What became of a complete sequence; `taken`: bytes of its steps, which are let go."""
        self._results.discard(result)
        if result.cancelled():
            return
        self._room.give(taken)
        if error := result.exception():
            self._outbox.put(answer, iter([error_chunk(sequence_id, self._told(error))]))
            return
        encoded = result.result()
        if encoded.timing.batch_tokens > tokens:
            encoded = Result(encoded.output.own(), encoded.timing)
        self._outbox.put(answer, result_chunks(sequence_id, encoded, self._options.reply_dtype))

    # -- what fails -------------------------------------------------------------------------------

    def _fail(self, sequence: _Sequence, error: Exception) -> Answer | None:
        """Answer that the sequence has no result, and let go what is there of it."""
        sequence.failed = True
        sequence.steps = None
        if sequence.live is not None:
            sequence.live.fail(error)
            return None
        written = partial(self._room.give, 0, sequences=1) if sequence.begun else lambda: None
        if sequence.begun:
            self._room.complete(sequence.size)
            self._room.give(sequence.size)
        return self._outbox.send(iter([error_chunk(sequence.id, self._told(error))]), written)

    def _told(self, error: BaseException) -> pb.SequenceError:
        """The error as the client is told it, counted."""
        assert isinstance(error, Exception)
        self._model.metrics.drop(drop_reason(error))
        if isinstance(error, ServiceError):
            return sequence_error(error)
        return internal_sequence_error(log_internal_error(error, self._context))

    def _half_sent(self) -> Overloaded:
        return Overloaded(
            "the stream is full of sequences that are half sent: complete some before others begin",
            _RETRY_SECONDS,
        )

    # -- live -------------------------------------------------------------------------------------

    def _begin_live(self, sequence: _Sequence) -> None:
        assert self._options.live is not None
        self._room.complete(0)
        sequence.live = LiveSequence(
            sequence.id,
            sequence.initial_state,
            self._model,
            self._options,
            self._options.live,
            self._room,
            self._step_bytes,
            self._outbox,
            self._deadline,
        )
        task = asyncio.create_task(sequence.live.run(self._told))
        self._live.add(task)
        task.add_done_callback(self._live.discard)
