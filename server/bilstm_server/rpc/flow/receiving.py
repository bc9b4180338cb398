"""`Receiving`: the requests whose bytes have not all come yet, and what they may hold of memory.

gRPC says how long a message is only when all of it is there. So what counts is time: nearly every
request comes at once. One that does not may hold as much as the largest allowed, and of those
there are no more than fit into the budget: where there is one too many, the one that has taken
longest gives way, of the connection that has most of them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

import grpc

from ...errors import DRAINING, DeadlineExpired, InvalidInput, Overloaded, ServiceError, Unavailable
from ...settings import ReceiveLimits
from ..context import Context

_GRACE_SECONDS = 0.25  # what has come by then counts for nothing
_ENDING_SECONDS = 0.05
_RETRY_SECONDS = 1.0  # a guess: until what else is being received has come


@dataclass(slots=True, eq=False)
class _Request:
    task: asyncio.Task[object]
    context: Context
    timer: asyncio.TimerHandle | None = None  # until it is slow, or too slow
    peer: str = ""
    error: ServiceError | None = None  # why it is to be read no further

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


class Receiving:
    """The requests of all callers that have not come yet."""

    def __init__(self, limits: ReceiveLimits):
        self._limits = limits
        self._slow: dict[_Request, None] = {}  # the oldest first
        self._draining = False

    @property
    def slow(self) -> int:
        """Requests that have not come at once, and are not complete."""
        return len(self._slow)

    def drain(self) -> None:
        """Refuse the requests that come slowly, now and from now on."""
        self._draining = True
        for request in list(self._slow):
            self._end(request, self._is_draining())

    async def message(self, context: Context) -> bytes:
        """Wait for the one message of a call, and return its bytes.

        Raises `InvalidInput` if there is none, `DeadlineExpired` if it does not come in time, and
        `Overloaded` if others need its room.
        """
        task = asyncio.current_task()
        assert task is not None
        request = _Request(task, context)
        request.timer = asyncio.get_running_loop().call_later(
            _GRACE_SECONDS, self._is_slow, request
        )
        try:
            data = await context.read()
        except asyncio.CancelledError:
            if request.error is None or task.uncancel():
                raise
            raise request.error from None
        finally:
            request.stop()
            self._slow.pop(request, None)
        if data is grpc.aio.EOF:
            # So it is, too, where gRPC has ended the call: it tells in a moment, by cancelling.
            await asyncio.sleep(_ENDING_SECONDS)
            raise InvalidInput("", "the call has no message")
        assert isinstance(data, bytes)
        return data

    def _is_slow(self, request: _Request) -> None:
        """Count a request that has not come at once, and refuse one if there are too many."""
        if self._draining:
            self._end(request, self._is_draining())
            return
        request.peer = request.context.peer()
        self._slow[request] = None
        request.timer = asyncio.get_running_loop().call_later(
            max(0.0, self._limits.receive_seconds - _GRACE_SECONDS),
            self._end,
            request,
            self._too_slow(),
        )
        if len(self._slow) > self._limits.max_slow_requests:
            self._end(self._one_to_give_way(), self._no_room())

    def _one_to_give_way(self) -> _Request:
        """Return the request that has taken longest, of the connection that has most of them."""
        counts = Counter(request.peer for request in self._slow)
        largest = max(counts.values())
        return next(request for request in self._slow if counts[request.peer] == largest)

    def _end(self, request: _Request, error: ServiceError) -> None:
        self._slow.pop(request, None)
        request.stop()
        request.error = error
        request.task.cancel()

    def _is_draining(self) -> Unavailable:
        return Unavailable(DRAINING)

    def _too_slow(self) -> DeadlineExpired:
        return DeadlineExpired(
            f"the request did not come within {self._limits.receive_seconds:g} seconds"
        )

    def _no_room(self) -> Overloaded:
        return Overloaded(
            f"{self._limits.max_slow_requests} requests are coming slowly, no more may; this one "
            "has taken longest",
            _RETRY_SECONDS,
        )
