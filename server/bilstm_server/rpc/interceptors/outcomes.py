"""`Call`: one RPC's metrics and trace, and its errors' way to the caller."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from ...errors import ServiceError
from ...metrics import RpcMetrics
from ..deadline import Deadline
from ..internal import Context, log_internal_error
from ..status import internal_status, status_of

if TYPE_CHECKING:
    from ...tracing import RequestTrace
    from ..flow.untaken import Reply


class Call:
    """One call's metrics and trace, from its start to its one end.

    `with` it around the handler's work: however that ends is counted, but for a reply that gRPC has
    yet to send: that is counted once the call has ended. Where the caller must be told of an error,
    go on behind the block with `abort`.
    """

    __slots__ = ("_context", "_deadline", "_metrics", "_status", "reply", "started_at", "trace")

    def __init__(self, metrics: RpcMetrics, context: Context):
        self._metrics = metrics
        self._context = context
        self._status: grpc.Status | None = None  # to abort with
        self._deadline: Deadline | None = None
        self.trace: RequestTrace | None = None
        self.reply: Reply | None = None  # that counts among those which are not taken yet
        self.started_at = asyncio.get_running_loop().time()
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

        Behind the block and not in it: gRPC keeps what is raised here, and with it would keep the
        error that is handled there, its frames, and the request in them, until the next garbage
        collection.
        """
        assert self._status is not None
        await self._context.abort_with_status(self._status)

    def _replied(self, _: object) -> None:
        """gRPC does not tell how the call has ended. That its caller has left before it had taken
        the reply, whatever it was, looks as if it had."""
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
            return status_of(error)
        trace_id = None if self.trace is None else self.trace.trace_id
        return internal_status(log_internal_error(error, self._context, trace_id))
