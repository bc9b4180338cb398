"""`StreamWatch`: the calls of EncodeStream that are open, and the end of those whose clients stand
still: so that none can keep memory, or a place, from the others for long.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote

import structlog

from ....errors import DeadlineExpired, ServiceError, Stalled
from ....metrics import Metrics
from ....settings import StreamLimits
from .idleness import Idleness, Stall
from .stream import Stream

log = structlog.get_logger()

_OPENING_SECONDS = 30.0  # within which the first message must come
_ROUNDS = 100  # in the time that a client may stand still
_LONGEST_ROUND_SECONDS = 1.0
_STALLS: dict[Stall, str] = {
    "opening": "the stream's first message did not come within {} seconds",
    "reading": "the stream was ended: no replies were taken for {} seconds",
    "sending": "the stream was ended: no steps of a sequence that had begun came for {} seconds",
    "quiet": "the stream was ended: nothing came for {} seconds",
}


@dataclass(slots=True, eq=False)
class OpenCall:
    """A call of `EncodeStream` from its start. It has a stream once its first message has come."""

    peer: str
    caller: str
    end: asyncio.Future[ServiceError]  # ends it, wherever it waits
    stream: Stream | None = None
    opening: Idleness = field(default_factory=Idleness)

    @property
    def turn(self) -> Stall | None:
        """What its client does not do now, if it is the client's turn."""
        return "opening" if self.stream is None else self.stream.turn

    @property
    def idle_seconds(self) -> float:
        """The seconds for which its client has stood still, if it is its turn."""
        if self.stream is None:
            return self.opening.idle_seconds
        return 0.0 if self.turn is None else self.stream.idleness.idle_seconds

    def pass_time(self, seconds: float, limits: StreamLimits) -> None:
        """Note that so many seconds have passed."""
        if self.stream is None:
            self.opening.pass_time(seconds, "opening")
            return
        wanted = self.stream.room.wanted
        limit = limits.stream_wanted_seconds if wanted else limits.stream_idle_seconds
        self.stream.pass_time(seconds, limit)


class StreamWatch:
    """Watches the open calls, and ends those whose clients stand still for too long."""

    def __init__(self, limits: StreamLimits, metrics: Metrics):
        self._limits = limits
        self._metrics = metrics
        self._calls: set[OpenCall] = set()
        self._rounds: asyncio.Task[None] | None = None

    @property
    def count(self) -> int:
        """The calls that are open and not about to end."""
        return len(self._calls)

    @contextmanager
    def watching(self, call: OpenCall) -> Iterator[None]:
        """Watch a call for as long as the block lasts."""
        self._calls.add(call)
        if self._rounds is None:
            self._rounds = asyncio.create_task(self._watch(), name="watch streams")
        try:
            yield
        finally:
            self._calls.discard(call)
            if not self._calls and self._rounds is not None:
                self._rounds.cancel()
                self._rounds = None

    def make_place(self) -> bool:
        """End a call whose client has stood still for long enough, one of the connection that has
        most of them. Returns False if there is none."""
        idle = [c for c in self._calls if c.idle_seconds >= self._limits.stream_wanted_seconds]
        if not idle:
            return False
        calls = Counter(call.peer for call in idle)
        self._end(max(idle, key=lambda call: (calls[call.peer], call.idle_seconds)))
        return True

    async def _watch(self) -> None:
        seconds = min(self._limits.stream_idle_seconds / _ROUNDS, _LONGEST_ROUND_SECONDS)
        while True:
            await asyncio.sleep(seconds)
            for call in self._calls:
                call.pass_time(seconds, self._limits)
            for call in [c for c in self._calls if c.idle_seconds >= self._limit(c)]:
                self._end(call)
            self._make_room()

    def _limit(self, call: OpenCall) -> float:
        limit = self._limits.stream_idle_seconds
        return min(limit, _OPENING_SECONDS) if call.stream is None else limit

    def _make_room(self) -> None:
        """End the stream that holds most of those that stand still, where others wait for room."""
        holding = [
            (call.stream.room.used, call.idle_seconds, call)
            for call in self._calls
            if call.stream is not None
            and call.stream.room.wanted
            and call.idle_seconds >= self._limits.stream_wanted_seconds
        ]
        if holding:
            self._end(max(holding, key=lambda one: one[:2])[2])

    def _end(self, call: OpenCall) -> None:
        turn, stream = call.turn, call.stream
        assert turn is not None
        self._calls.discard(call)
        say = log.info if turn == "quiet" else log.warning
        say(
            "stream ended",
            reason=turn,
            peer=unquote(call.peer),
            caller=call.caller,
            idle_seconds=round(call.idle_seconds, 3),
            model=stream and stream.model.name,
            sequences=stream and stream.room.sequences,
            bytes=stream and stream.room.used,
        )
        self._metrics.stall(turn)
        message = _STALLS[turn].format(f"{call.idle_seconds:.3g}")
        if stream is None:
            self._metrics.no_model.drop("expired")
        else:
            stream.stall()
        if not call.end.done():
            call.end.set_result(DeadlineExpired(message) if stream is None else Stalled(message))
