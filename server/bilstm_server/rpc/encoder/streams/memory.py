"""What streams may hold in memory: bounded for each, and for all together.

One event loop owns it. Who finds no room waits, and so reads no further; nothing is dropped.
Streams that wait for one another's half-sent sequences would wait for ever: so a reserve, as large
as one stream may need, is kept for one stream at a time, whose half-sent sequences it can complete
whatever the others do (Dijkstra's banker, with one claim for all). It goes to whoever waits longest
of those for whom what is free suffices, and stays only until another one waits for whom it does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from ....settings import StreamLimits


class NoRoom(Exception):
    """A stream is full of sequences of which none is complete, so waiting would not help."""


@dataclass(slots=True, eq=False)
class _Waiting:
    """A stream that waits for room."""

    room: StreamRoom
    size: int
    last: bool
    stays: bool
    since: float  # in the event loop's time
    turn: asyncio.Future[None]


class StreamMemory:
    """The room of all streams, which it shares out."""

    def __init__(self, limits: StreamLimits):
        self.limits = limits
        self.used = 0  # bytes
        self._reserve = limits.max_stream_bytes
        self._general = limits.max_streams_bytes - self._reserve
        self._favoured: StreamRoom | None = None  # who has the reserve
        self._waiting: deque[_Waiting] = deque()

    def open(self) -> StreamRoom:
        """Return the room of one more stream, which holds nothing yet."""
        return StreamRoom(self)

    def wanted(self, room: StreamRoom) -> bool:
        """Tell whether another stream than `room`'s waits."""
        return any(w.room is not room and not w.turn.done() for w in self._waiting)

    async def take(self, room: StreamRoom, size: int, last: bool, stays: bool) -> None:
        """Wait until `room` holds so many bytes more.

        `last` says that they complete a sequence. `stays` says that they are held until their
        client ends a sequence that may have no end.
        """
        if not self._waiting and self._fits(room, size):
            self._grant(room, size)
            return
        loop = asyncio.get_running_loop()
        waiting = _Waiting(room, size, last, stays, loop.time(), loop.create_future())
        self._waiting.append(waiting)
        self._serve_waiting()
        try:
            await waiting.turn
        except asyncio.CancelledError:
            if waiting.turn.done() and not waiting.turn.cancelled():
                room.give(size)
            raise

    def give(self, size: int) -> None:
        """Take so many bytes back, and share them out to those that wait."""
        self.used -= size
        self._serve_waiting()

    def settle(self, room: StreamRoom) -> None:
        """Note that none of `room`'s sequences will take more, so that another room may have the
        reserve."""
        if self._favoured is room:
            self._favoured = None
            self._serve_waiting()

    def _grant(self, room: StreamRoom, size: int) -> None:
        self.used += size
        room.used += size

    def _fits(self, room: StreamRoom, size: int) -> bool:
        """Tell whether `room` may hold so many bytes more and leave the favoured one all that it
        may need."""
        if room is self._favoured:
            return self.used + size <= self.limits.max_streams_bytes
        of_favoured = 0 if self._favoured is None else self._favoured.used
        return (
            self.used - of_favoured + size <= self._general
            and self.used + size <= self.limits.max_streams_bytes
        )

    def _suffices(self, waiting: _Waiting) -> bool:
        """Tell whether what is free is all that the stream may need before it lets go of
        something."""
        needs = self._reserve - waiting.room.used
        if waiting.last and waiting.room.needing == 1:
            needs = waiting.size
        return self.used + needs <= self.limits.max_streams_bytes

    def _may_use_reserve(self, waiting: _Waiting) -> bool:
        """Tell whether the reserve is for this. It is not for what might never be let go of, unless
        that finds room nowhere else."""
        return not waiting.stays or waiting.size > self._general

    def _serve_waiting(self) -> None:
        """Let those take room that find it now. Whoever waits longest is asked first, and may be
        passed by one that wants less; by one that wants it of the reserve only for a time."""
        if not self._waiting:
            return
        now = asyncio.get_running_loop().time()
        kept: deque[_Waiting] = deque()
        kept_for_one = False  # the reserve
        while self._waiting:
            waiting = self._waiting.popleft()
            room, size = waiting.room, waiting.size
            if waiting.turn.done():
                continue
            wants_reserve = not self._fits(room, size) and self._may_use_reserve(waiting)
            if wants_reserve and not kept_for_one and self._suffices(waiting):
                self._favoured = room
            if self._fits(room, size):
                self._grant(room, size)
                waiting.turn.set_result(None)
            else:
                kept.append(waiting)
                if wants_reserve and now - waiting.since > self.limits.stream_wanted_seconds:
                    kept_for_one = True
        self._waiting = kept


class StreamRoom:
    """What one stream holds: bytes, and sequences in flight."""

    def __init__(self, memory: StreamMemory):
        self._memory = memory
        self._limits = memory.limits
        self.used = 0
        self.sequences = 0
        self._half_sent = 0  # bytes of sequences that are not complete
        self.half_sent_sequences = 0
        self.needing = 0  # of these, the ones that may take more
        self._freed = asyncio.Event()
        self._closed = False

    @property
    def wanted(self) -> bool:
        """Tell whether another stream waits for room while this one holds some."""
        return self.used > 0 and self._memory.wanted(self)

    async def begin(self) -> None:
        """Wait until one more sequence may begin. Raises `NoRoom`."""
        while self.sequences >= self._limits.max_stream_sequences:
            if self.half_sent_sequences >= self.sequences:
                raise NoRoom
            await self._next_release()
        self.sequences += 1
        self.half_sent_sequences += 1
        self.needing += 1

    async def take(self, size: int, last: bool = False, stays: bool = False) -> None:
        """Wait until so many bytes more of a half-sent sequence may be held. Raises `NoRoom`.

        `last` says that the sequence is complete with them. `stays` says that it will take no more,
        and holds them until its client ends it.
        """
        while self.used + size > self._limits.max_stream_bytes:
            if self._half_sent >= self.used:
                raise NoRoom
            await self._next_release()
        await self._memory.take(self, size, last, stays)
        self._half_sent += size
        if stays:
            self._settle(1)

    def complete(self, size: int, settled: bool = False) -> None:
        """Note that a sequence that held `size` bytes is complete, or given up. `settled` says that
        it has said before that it would take no more."""
        if self._closed:
            return
        self._half_sent -= size
        self.half_sent_sequences -= 1
        self._settle(0 if settled else 1)

    def _settle(self, sequences: int) -> None:
        self.needing -= sequences
        if not self.needing:
            self._memory.settle(self)

    def give(self, size: int, sequences: int = 0) -> None:
        """Let go of so many bytes of complete sequences, and of so many sequences."""
        if self._closed:
            return
        self.used -= size
        self.sequences -= sequences
        self._freed.set()
        self._memory.give(size)

    def close(self) -> None:
        """Let go of everything: the stream has ended, and what it still does has no effect."""
        self.give(self.used, self.sequences)
        self._closed = True
        self._memory.settle(self)

    async def _next_release(self) -> None:
        self._freed.clear()
        await self._freed.wait()
