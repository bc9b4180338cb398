"""`UntakenReplies`: what replies hold of memory, from when they are begun until their callers have
taken them. Bounded for each connection, and for all together.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from ..errors import Overloaded
from .internal import Context

log = structlog.get_logger()

_RETRY_SECONDS = 0.1  # a guess: until some of what is there has been taken
_STALLED_SECONDS = 1.0  # without being taken, after which a reply gives way to others'
_ROOM_SECONDS = 1.0  # at the most, until there is room


@dataclass(slots=True, eq=False)
class Reply:
    """One call's reply."""

    peer: str
    size: int  # bytes
    given_at: float | None = None  # to gRPC, in the loop's time
    lost: bool = False  # its connection was ended, because it was not taken

    def give(self) -> None:
        """It is computed, and goes to gRPC now."""
        self.given_at = asyncio.get_running_loop().time()


class UntakenReplies:
    """The replies of all calls."""

    def __init__(
        self,
        max_bytes: int,
        max_connection_bytes: int,
        seconds: float,
        end_connection: Callable[[str], bool],
    ):
        """`seconds`: in which a reply must be taken; otherwise its connection is ended."""
        self._max_bytes = max_bytes
        self._max_connection_bytes = max_connection_bytes
        self._seconds = seconds
        self._end_connection = end_connection
        self._replies: dict[Reply, None] = {}  # in the order in which they were begun
        self._by_peer: Counter[str] = Counter()  # bytes
        self._freed = asyncio.Event()
        self._sweep: asyncio.TimerHandle | None = None
        self.used = 0  # bytes

    async def begin(self, context: Context, size: int) -> Reply:
        """A reply of so many bytes is to be made, and holds them until the call has ended.

        Raises `Overloaded` if its connection has too many already. Where all together have, waits
        a while for those that are being taken; one that is not gives way.
        """
        peer = context.peer()
        mine = self._by_peer[peer] + size
        if mine > self._max_connection_bytes:
            raise Overloaded(
                f"the replies to this connection that are not taken yet would be {mine} bytes, "
                f"more than the server's {self._max_connection_bytes}",
                _RETRY_SECONDS,
            )
        if self.used + size > self._max_bytes:
            await self._wait_for_room(size)
        reply = Reply(peer, size)
        self._replies[reply] = None
        self._by_peer[peer] += size
        self.used += size
        ended: Any = lambda _: self._end(reply)  # noqa: E731 (its type is grpc's own)
        context.add_done_callback(ended)
        if self._sweep is None:
            self._schedule(self._seconds)
        return reply

    def _end(self, reply: Reply) -> None:
        """Its call has ended: it was taken, or nobody waits for it."""
        del self._replies[reply]
        self._by_peer[reply.peer] -= reply.size
        if not self._by_peer[reply.peer]:
            del self._by_peer[reply.peer]
        self.used -= reply.size
        self._freed.set()

    async def _wait_for_room(self, size: int) -> None:
        try:
            async with asyncio.timeout(_ROOM_SECONDS):
                while self.used + size > self._max_bytes:
                    self._end_stalled(_STALLED_SECONDS, most=1)
                    self._freed.clear()
                    await self._freed.wait()
        except TimeoutError:
            raise Overloaded(
                f"the replies that are not taken yet are {self.used} bytes, no room for {size} "
                f"more in the server's {self._max_bytes}",
                _RETRY_SECONDS,
            ) from None

    def _schedule(self, seconds: float) -> None:
        self._sweep = asyncio.get_running_loop().call_later(seconds, self._swept)

    def _swept(self) -> None:
        """End the connections that have not taken their replies, and look again when the next one
        may have to be."""
        self._sweep = None
        self._end_stalled(self._seconds, most=len(self._replies))
        if self._replies:
            now = asyncio.get_running_loop().time()
            oldest = min((r.given_at or now for r in self._replies if not r.lost), default=now)
            self._schedule(max(oldest + self._seconds - now, self._seconds / 10))

    def _end_stalled(self, seconds: float, most: int) -> None:
        """End the connections, `most` of them, whose replies were given so long ago."""
        limit = asyncio.get_running_loop().time() - seconds
        stalled = [r for r in self._replies if r.given_at is not None and r.given_at <= limit]
        for peer in list(dict.fromkeys(r.peer for r in stalled if not r.lost))[:most]:
            theirs = [r for r in stalled if r.peer == peer]
            for reply in theirs:
                reply.lost = True
            ended = self._end_connection(peer)
            log.warning(
                "connection ended",
                peer=peer,
                reason="its replies were not taken",
                replies=len(theirs),
                bytes=self._by_peer[peer],
                found=ended,
            )
