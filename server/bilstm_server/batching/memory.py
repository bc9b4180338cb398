"""What streams may hold in memory: bounded for each, and for all together.

One event loop owns it. Who finds no room waits, and so reads no further; nothing is dropped.
Streams that wait for one another's half-sent sequences would wait for ever: so a part of the room,
as large as one stream may need, is kept for one of those that wait at a time, until none of its
sequences may need more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    max_stream_bytes: int
    max_stream_sequences: int
    max_streams_bytes: int


class NoRoom(Exception):
    """A stream is full of sequences of which none is complete: waiting would not help."""


class StreamMemory:
    """The room of all streams."""

    def __init__(self, limits: MemoryLimits):
        self.limits = limits
        self.used = 0  # bytes
        self._reserve = limits.max_stream_bytes
        self._favoured: StreamRoom | None = None  # who may use the reserve
        self._waiting: deque[tuple[StreamRoom, int, asyncio.Future[None]]] = deque()

    def open(self) -> StreamRoom:
        return StreamRoom(self)

    async def take(self, room: StreamRoom, size: int) -> None:
        """Wait until `room` may hold so much more."""
        if not self._waiting and self._fits(room, size):
            self.used += size
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((room, size, turn))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(size)
            raise

    def give(self, size: int) -> None:
        self.used -= size
        self._admit()

    def settle(self, room: StreamRoom) -> None:
        """None of `room`'s sequences will take more: another one may have the reserve."""
        if self._favoured is room:
            self._favoured = None
            self._admit()

    def _fits(self, room: StreamRoom, size: int) -> bool:
        reserve = 0 if room is self._favoured else self._reserve
        return self.used + size <= self.limits.max_streams_bytes - reserve

    def _admit(self) -> None:
        """Let in those that find room now; who waits longest is asked first, and may be passed by
        one that wants less."""
        kept: deque[tuple[StreamRoom, int, asyncio.Future[None]]] = deque()
        while self._waiting:
            room, size, turn = self._waiting.popleft()
            if turn.done():
                continue
            if self._favoured is None and not self._fits(room, size):
                self._favoured = room
            if self._fits(room, size):
                self.used += size
                turn.set_result(None)
            else:
                kept.append((room, size, turn))
        self._waiting = kept


class StreamRoom:
    """What one stream holds: bytes, and sequences in flight."""

    def __init__(self, memory: StreamMemory):
        self._memory = memory
        self._limits = memory.limits
        self.used = 0
        self.sequences = 0
        self._half_sent = 0  # bytes of sequences that are not complete
        self._half_sent_sequences = 0
        self._needing = 0  # of these, the ones that may take more
        self._freed = asyncio.Event()
        self._closed = False

    async def begin(self) -> None:
        """Wait until one more sequence may begin. Raises `NoRoom`."""
        while self.sequences >= self._limits.max_stream_sequences:
            if self._half_sent_sequences >= self.sequences:
                raise NoRoom
            await self._next_release()
        self.sequences += 1
        self._half_sent_sequences += 1
        self._needing += 1

    async def take(self, size: int, final: bool = False) -> None:
        """Wait until so much more of a half-sent sequence may be held. Raises `NoRoom`.

        `final`: it will take no more.
        """
        while self.used + size > self._limits.max_stream_bytes:
            if self._half_sent >= self.used:
                raise NoRoom
            await self._next_release()
        await self._memory.take(self, size)
        self.used += size
        self._half_sent += size
        if final:
            self._settle(1)

    def complete(self, size: int, settled: bool = False) -> None:
        """A sequence that held `size` is complete, or given up. `settled`: it has said before that
        it would take no more."""
        if self._closed:
            return
        self._half_sent -= size
        self._half_sent_sequences -= 1
        self._settle(0 if settled else 1)

    def _settle(self, sequences: int) -> None:
        self._needing -= sequences
        if not self._needing:
            self._memory.settle(self)

    def give(self, size: int, sequences: int = 0) -> None:
        """So much of a complete sequence, or those sequences, are held no longer."""
        if self._closed:
            return
        self.used -= size
        self.sequences -= sequences
        self._freed.set()
        self._memory.give(size)

    def close(self) -> None:
        """The stream has ended: nothing is held any more, and what it still does has no effect."""
        self.give(self.used, self.sequences)
        self._closed = True
        self._memory.settle(self)

    async def _next_release(self) -> None:
        self._freed.clear()
        await self._freed.wait()
