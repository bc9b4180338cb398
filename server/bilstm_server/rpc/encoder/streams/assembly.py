"""`Assembly`: a stream's chunks on their way to its sequences, and what becomes of a sequence that
is not complete yet.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from ....batching.jobs import Result
from ....errors import InvalidInput, Overloaded, ServiceError, Stalled, Unavailable
from ....settings import RequestLimits
from ..messages import SequenceChunk
from ..replies import error_chunk
from .live import LiveSequence
from .memory import NoRoom
from .outbox import Answer
from .requests import parse_initial_state, parse_steps
from .shared import Shared, StreamSequence
from .whole import WholeSequence

_RETRY_SECONDS = 1.0  # a guess: until a client has completed some of what it has half sent


@dataclass(slots=True, eq=False)
class _Entry:
    """A sequence that is not complete yet."""

    id: int
    has_place: bool = False  # among the stream's sequences
    body: StreamSequence | None = None
    refused: bool = False  # before it had a body
    moved_at: float = 0.0  # in seconds that the server has asked for more

    @property
    def failed(self) -> bool:
        """Whether it is answered with an error already, and what still comes of it is ignored."""
        return self.refused or (self.body is not None and self.body.failed)


class Assembly:
    """The sequences of one stream that have begun, by their ids."""

    def __init__(self, shared: Shared, limits: RequestLimits):
        self._shared = shared
        self._limits = limits
        self._open: dict[int, _Entry] = {}  # whose client has sent none for longest, first
        self._highest_id: int | None = None
        self._results: set[asyncio.Future[Result]] = set()
        self._live: set[LiveSequence] = set()

    @property
    def computing(self) -> int:
        """Live sequences of which a block is computed now."""
        return sum(sequence.computing for sequence in self._live)

    @property
    def has_half_sent(self) -> bool:
        """Whether some sequence is not complete."""
        return bool(self._open)

    # -- what comes -------------------------------------------------------------------------------

    async def take(self, chunk: SequenceChunk, index: int) -> None:
        """Give a chunk to its sequence, or begin one with it; `index` is its place in the message.

        What is wrong with the sequence is answered to it alone. Raises `InvalidInput` where the
        protocol is broken, and `Unavailable`.
        """
        entry = self._open.get(chunk.id) or self._begin_entry(chunk.id, index)
        try:
            if not entry.failed:
                await self._advance(entry, chunk)
        except Unavailable:
            raise
        except ServiceError as error:
            self._fail(entry, error)
        except NoRoom:
            if answer := self._fail(entry, _full_of_half_sent()):
                await answer.sent.wait()  # a client that reads nothing must not fill the memory so
        if chunk.last:
            del self._open[chunk.id]
        elif entry.failed and self._many_failed():
            raise InvalidInput("chunks", "too many sequences go on after they were refused")

    def _begin_entry(self, sequence_id: int, index: int) -> _Entry:
        if self._highest_id is not None and sequence_id <= self._highest_id:
            raise InvalidInput(
                f"chunks[{index}].id",
                "must be that of a sequence which is not complete, or higher than all before "
                f"({self._highest_id}), got {sequence_id}",
            )
        self._highest_id = sequence_id
        entry = _Entry(sequence_id, moved_at=self._shared.idleness.asked_seconds)
        self._open[sequence_id] = entry
        return entry

    def _many_failed(self) -> bool:
        failed = sum(entry.failed for entry in self._open.values())
        return failed > self._limits.max_stream_sequences

    async def _advance(self, entry: _Entry, chunk: SequenceChunk) -> None:
        if entry.body is None:
            await self._shared.room.begin()
            entry.has_place = True
            entry.body = self._begin_body(chunk)
        elif chunk.initial_state is not None:
            raise InvalidInput("initial_state", "must come with the sequence's first chunk")
        steps = parse_steps(chunk, self._shared.model.config)
        if steps is not None:
            await entry.body.add(steps, chunk.last)
            entry.moved_at = self._shared.idleness.asked_seconds
            self._open[entry.id] = self._open.pop(entry.id)
        if chunk.last:
            await entry.body.end()

    def _begin_body(self, chunk: SequenceChunk) -> StreamSequence:
        state = parse_initial_state(chunk, self._shared.model.config)
        options = self._shared.options.live
        if options is None:
            return WholeSequence(self._shared, chunk.id, state, self._results)
        live = LiveSequence(self._shared, options, chunk.id, state)
        self._live.add(live)
        live.task.add_done_callback(lambda _: self._live.discard(live))
        return live

    # -- what ends --------------------------------------------------------------------------------

    def fail_half_sent(self) -> None:
        """Answer the sequences that will never be complete: the client sends no more."""
        for entry in self._open.values():
            if not entry.failed:
                self._fail(entry, InvalidInput("last", "the stream ended without it"))
        self._open.clear()

    def fail_stalled(self, limit: float) -> None:
        """Answer the sequences of which none came while others moved on, for `limit` seconds."""
        for entry in self._open.values():
            if self._shared.idleness.asked_seconds - entry.moved_at < limit:
                break
            if not entry.failed:
                self._fail(entry, Stalled(f"no steps of the sequence came for {limit:g} seconds"))

    async def finish_live(self) -> None:
        """Wait for the live sequences that have ended; those that have not are left as they are."""
        ended = [sequence.task for sequence in self._live if sequence.ended or sequence.failed]
        if ended:
            await asyncio.wait(ended)

    def close(self, reason: str) -> set[asyncio.Task[None]]:
        """Let go of all sequences, and count those that have no result under `reason`. Returns the
        tasks that have yet to notice."""
        live = [sequence for sequence in self._live if not sequence.task.done()]
        half_sent = [e for e in self._open.values() if not e.failed and e.body not in live]
        for _ in (*half_sent, *live):
            self._shared.drop(reason)
        for sequence in live:
            sequence.task.cancel()
        for result in list(self._results):
            if result.cancel():
                self._shared.drop(reason)
        self._open.clear()
        return {sequence.task for sequence in live}

    def _fail(self, entry: _Entry, error: Exception) -> Answer | None:
        """Answer that the sequence has no result, and let go of what is there of it."""
        if entry.body is not None:
            return entry.body.fail(error)
        entry.refused = True
        outbox, room = self._shared.outbox, self._shared.room
        chunk = error_chunk(entry.id, self._shared.report(error))
        if not entry.has_place:
            return outbox.send(iter([chunk]))
        room.complete(0)
        return outbox.send(iter([chunk]), lambda: room.give(0, sequences=1))


def _full_of_half_sent() -> Overloaded:
    return Overloaded(
        "the stream is full of sequences that are half sent: complete some before others begin",
        _RETRY_SECONDS,
    )
