"""`UntakenReplies`: what replies hold of memory, from when they are begun until their callers have
taken them. Bounded for each connection, and for all together.

No connection may hold more than is left for others then (dynamic thresholds: Choudhury and Hahne,
1998), and where little is left, those that hold most and take nothing are ended one by one. So
however many try to hold all of it, a connection that takes its replies finds room.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from ...errors import Overloaded
from ...metrics import DropMetrics
from ...settings import ReplyLimits
from ..context import Context
from .connections import has_name

log = structlog.get_logger()

_CALL_BYTES = 24 * 1024  # that gRPC holds of a call, beside its reply
_RETRY_SECONDS = 0.1  # a guess: until some of what is there has been taken
_PRESSURE = 0.75  # share of the room that is held, from which connections are ended
_PRESSURE_SECONDS = 1.0  # for which they have taken nothing then
_RELIEF_SECONDS = 0.1  # from one of them to the next


@dataclass(slots=True, eq=False)
class UntakenReply:
    """What one call's reply holds of memory."""

    peer: str
    size: int  # bytes
    metrics: DropMetrics | None  # that count it if it is not taken
    given_at: float | None = None  # to gRPC, in the loop's time
    lost: bool = False  # its connection was ended, because it was not taken

    def give(self) -> None:
        """Note that the reply is computed, and goes to gRPC now."""
        self.given_at = asyncio.get_running_loop().time()


class UntakenReplies:
    """The replies of all calls that their callers have not taken."""

    def __init__(self, limits: ReplyLimits, end_connection: Callable[[str], bool]):
        self._limits = limits
        self._end_connection = end_connection
        self._replies: dict[UntakenReply, None] = {}
        self._by_peer: Counter[str] = Counter()  # bytes
        self._sweep: asyncio.TimerHandle | None = None
        self._relieved_at = -math.inf  # in the loop's time
        self.used = 0  # bytes

    def begin(
        self, context: Context, size: int, metrics: DropMetrics | None = None
    ) -> UntakenReply:
        """Hold so many bytes for a reply that is to be made, until its call has ended. `metrics`
        count it if it is not taken.

        Raises `Overloaded` if its connection holds too many already.
        """
        size += _CALL_BYTES
        if self.used + size > _PRESSURE * self._limits.max_reply_bytes:
            self._relieve()
        peer = context.peer()
        held = self._by_peer[peer] + size
        room = self._limits.max_reply_bytes - self.used - size
        if has_name(peer):
            room = min(room, self._limits.max_connection_reply_bytes)
        if held > room:
            raise Overloaded(
                f"the replies that this connection has not taken would be {held} bytes; there is "
                f"room for {max(room, 0)}",
                _RETRY_SECONDS,
            )
        return self._hold(context, peer, size, metrics)

    def hold(self, context: Context, size: int) -> UntakenReply:
        """Hold so many bytes that are there already, whatever the bounds, until the call has
        ended."""
        return self._hold(context, context.peer(), size + _CALL_BYTES, None)

    def _hold(
        self, context: Context, peer: str, size: int, metrics: DropMetrics | None
    ) -> UntakenReply:
        reply = UntakenReply(peer, size, metrics)
        self._replies[reply] = None
        self._by_peer[peer] += size
        self.used += size
        ended: Any = lambda _: self._end(reply)  # noqa: E731 (its type is grpc's own)
        context.add_done_callback(ended)
        if self._sweep is None:
            self._schedule(self._limits.reply_seconds)
        return reply

    def _end(self, reply: UntakenReply) -> None:
        """Let go of a reply whose call has ended: it was taken, or nobody waits for it."""
        del self._replies[reply]
        self.used -= reply.size
        self._by_peer[reply.peer] -= reply.size
        if not self._by_peer[reply.peer]:
            del self._by_peer[reply.peer]

    def _relieve(self) -> None:
        """End the connection that holds most of what was not taken for a while."""
        now = asyncio.get_running_loop().time()
        if now < self._relieved_at + _RELIEF_SECONDS:
            return
        self._relieved_at = now
        peers = {reply.peer for reply in self._given_before(now - _PRESSURE_SECONDS)}
        if peers:
            self._end_peer(max(peers, key=self._by_peer.__getitem__))

    def _given_before(self, time: float) -> list[UntakenReply]:
        """Return the replies that gRPC has had since then, and whose connections are not ended
        yet."""
        return [
            reply
            for reply in self._replies
            if reply.given_at is not None and reply.given_at <= time and not reply.lost
        ]

    def _end_peer(self, peer: str) -> None:
        if not self._end_connection(peer):
            return  # it has ended by itself
        replies = [reply for reply in self._replies if reply.peer == peer and not reply.lost]
        log.warning(
            "connection ended",
            peer=peer,
            reason="its replies were not taken",
            replies=len(replies),
            bytes=self._by_peer[peer],
        )
        for reply in replies:
            reply.lost = True
            if reply.metrics is not None:
                reply.metrics.drop("stalled")

    def _schedule(self, seconds: float) -> None:
        self._sweep = asyncio.get_running_loop().call_later(seconds, self._end_stalled)

    def _end_stalled(self) -> None:
        """End the connections that have not taken their replies in time, and come again when the
        next one may have to be ended."""
        self._sweep = None
        now, seconds = asyncio.get_running_loop().time(), self._limits.reply_seconds
        for peer in {reply.peer for reply in self._given_before(now - seconds)}:
            self._end_peer(peer)
        if self._replies:
            oldest = min((r.given_at or now for r in self._given_before(now)), default=now)
            self._schedule(max(oldest + seconds - now, seconds / 10))
