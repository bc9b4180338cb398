"""`Outcomes`: every call's one end, counted, traced, logged if it is refused, and sent to the
caller."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from ...callers import Caller, Priority
from ...errors import ServiceError
from ...metrics import Metrics, RpcMetrics
from ..context import Context
from ..deadline import Deadline
from ..internal import log_internal_error
from ..refusals import RefusalLog
from ..status import internal_status, status_of
from .method import Method, Respond

if TYPE_CHECKING:
    from ...tracing import RequestTrace
    from ..flow.untaken import UntakenReply


NOBODY = Caller("", "peer")  # makes a call until the layer that knows callers has seen it


class Outcomes:
    """The outermost layer: it counts each call at its start and at its end, and makes whatever the
    others raise the caller's status."""

    def __init__(self, metrics: Metrics):
        self._metrics = metrics
        self._refusals = RefusalLog()

    def around(self, method: Method, respond: Respond) -> Respond:
        """Give each call of the method its `Call`, and see to its one end."""
        metrics = self._metrics.rpc(method.kind, method.service, method.name)

        async def answer(requests: object, context: Context) -> bytes | None:
            call = Call(metrics, self._refusals, context)
            current_call.set(call)
            with call:
                return await respond(requests, context)
            return await call.abort()

        return answer


class Call:
    """One call from its start to its one end: what the layers and its service know of it.

    `with` it around the work: however that ends is counted, but for a reply that gRPC has yet to
    send, which is counted once the call has ended. Where an error is to become the caller's status,
    go on behind the block with `abort`.
    """

    __slots__ = (
        "_context",
        "_deadline",
        "_metrics",
        "_refusals",
        "_status",
        "caller",
        "end",
        "last_message_bytes",
        "priority",
        "reply",
        "started_at",
        "trace",
    )

    def __init__(self, metrics: RpcMetrics, refusals: RefusalLog, context: Context):
        self._metrics = metrics
        self._refusals = refusals
        self._context = context
        self._status: grpc.Status | None = None  # to abort with
        self._deadline: Deadline | None = None
        self.caller = NOBODY
        self.priority = Priority.NORMAL
        self.trace: RequestTrace | None = None  # of a call that is traced
        self.reply: UntakenReply | None = None  # what its one reply holds until it is taken
        # Of a stream: ends it with that error, wherever it waits.
        self.end: asyncio.Future[ServiceError] | None = None
        self.last_message_bytes = 0  # of a stream's last message
        self.started_at = asyncio.get_running_loop().time()  # in the event loop's time
        metrics.start()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> bool:
        if error is None:
            self._deadline = Deadline.of(self._context, self.started_at)
            replied: Any = self._replied
            self._context.add_done_callback(replied)
        elif isinstance(error, asyncio.CancelledError):
            ended = Deadline.of(self._context, self.started_at).ended()
            self._finish(grpc.StatusCode.DEADLINE_EXCEEDED if ended else grpc.StatusCode.CANCELLED)
        elif isinstance(error, grpc.aio.AbortError):  # the handler has sent a status of its own
            code: Any = self._context.code()  # the enum, or in older releases its number
            self._finish(next(c for c in grpc.StatusCode if code in (c, c.value[0])))
        elif isinstance(error, Exception):
            self._status = self._status_of(error)
            self._finish(self._status.code)
            return True
        return False  # gRPC leaks the call if a handler swallows its cancellation

    async def abort(self) -> NoReturn:
        """End the call with its error's status, by raising.

        It is called behind the block and not in it: gRPC keeps what is raised here, and with it
        would keep the error that is handled there, its frames, and the request in them, until the
        next garbage collection.
        """
        assert self._status is not None
        await self._context.abort_with_status(self._status)

    def _replied(self, _: object) -> None:
        """Count a call that was answered. gRPC does not tell how it ended, so a caller that left
        before it had taken the reply looks as if it had taken it."""
        if self.reply is not None and self.reply.lost:
            self._finish(grpc.StatusCode.CANCELLED)
        elif self._deadline is not None and self._deadline.ended():
            self._finish(grpc.StatusCode.DEADLINE_EXCEEDED)
        else:
            self._finish(grpc.StatusCode.OK)

    def _finish(self, code: grpc.StatusCode) -> None:
        now = asyncio.get_running_loop().time()
        self._metrics.finish(code.name, now - self.started_at)
        if self.trace is not None:
            self.trace.end(code.name, now)

    def _status_of(self, error: Exception) -> grpc.Status:
        if isinstance(error, ServiceError):
            status = status_of(error)
            self._refusals.note(error, status.code, self.caller.name)
            return status
        trace_id = None if self.trace is None else self.trace.trace_id
        return internal_status(log_internal_error(error, self._context, self.caller.name, trace_id))


# The call that the present task answers.
current_call: ContextVar[Call] = ContextVar("current_call")
