"""`OpenStreams`: streams of all services, each run where its end can be commanded from outside."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from ...errors import DRAINING, Overloaded, ServiceError, Unavailable, forget_locals
from ..context import Context
from ..flow.untaken import UntakenReplies
from .method import Method, Respond
from .outcomes import current_call

STREAM_RETRY_SECONDS = 1.0  # a guess: until one of the streams has ended


class OpenStreams:
    """The layer that can end any stream.

    A stream of tensor methods is bounded by its own service, which ends one by `current_call`'s
    `end`. Of all others, such as watches of health, there may be `max_plain`: where there is one
    too many, the oldest one of the connection that has most of them is ended for it.
    """

    def __init__(self, max_plain: int, replies: UntakenReplies):
        self._max_plain = max_plain
        self._replies = replies
        # Plain streams: what ends each, and its peer; the oldest first.
        self._plain: dict[asyncio.Future[ServiceError], str] = {}
        self._all_end = asyncio.Event()

    def end_all(self) -> None:
        """End every stream as UNAVAILABLE, also those that would never end by themselves."""
        self._all_end.set()

    def around(self, method: Method, respond: Respond) -> Respond:
        """Run the method's streams in tasks of their own, each until it ends or is ended."""
        if not method.is_stream:
            return respond

        async def run(requests: object, context: Context) -> None:
            call = current_call.get()
            end = call.end = asyncio.get_running_loop().create_future()
            responding = asyncio.ensure_future(respond(requests, context))
            all_end = asyncio.create_task(self._all_end.wait())
            try:
                if method.tensor is None:
                    self._make_place(end, context.peer())
                ends: set[asyncio.Future[Any]] = {responding, all_end, end}
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                if end.done():
                    # gRPC keeps the last message until it is taken, or the connection ends.
                    self._replies.hold(context, call.last_message_bytes).give()
                    raise end.result()
                if not responding.done():
                    raise Unavailable(DRAINING)
                responding.result()
            finally:
                self._plain.pop(end, None)
                all_end.cancel()
                responding.cancel()
                await asyncio.wait({responding})
                _forget_locals_of(responding)

        return run

    def _make_place(self, end: asyncio.Future[ServiceError], peer: str) -> None:
        """Give a plain stream its place, and end another one for it if there are too many."""
        self._plain[end] = peer
        if len(self._plain) > self._max_plain:
            counts = Counter(self._plain.values())
            largest = max(counts.values())
            oldest = next(e for e, peer in self._plain.items() if counts[peer] == largest)
            del self._plain[oldest]
            if not oldest.done():
                message = f"{self._max_plain} such streams are open, no more may"
                oldest.set_result(Overloaded(message, STREAM_RETRY_SECONDS))


def _forget_locals_of(task: asyncio.Future[Any]) -> None:
    """Let go of what the frames of a task that failed have in memory: its error, which has them, is
    kept as long as the task."""
    try:
        task.result()
    except BaseException as error:
        forget_locals(error)
