"""What every RPC passes through: its metrics, its decoding, and its errors' way to the caller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import grpc

from ..errors import ServiceError, Unavailable
from ..metrics import Metrics, RpcMetrics
from .deadline import Deadline
from .internal import Context, log_internal_error
from .status import internal_status, status_of
from .wire import Decode, checked

if TYPE_CHECKING:
    from ..tracing import RequestTrace, Tracer

# Of the call that the present task answers; None if it is not traced.
current_trace: ContextVar[RequestTrace | None] = ContextVar("current_trace", default=None)
# Of the stream that the present task answers: ends it with an error, wherever it waits.
current_end: ContextVar[asyncio.Future[ServiceError]] = ContextVar("current_end")

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in its stub only


class RpcInterceptor(grpc.aio.ServerInterceptor):
    """Wraps each method's handler once; unknown methods are left to gRPC."""

    def __init__(
        self, metrics: Metrics, decoders: Mapping[str, Decode], tracer: Tracer | None = None
    ):
        """`decoders`: by path, for the methods that see to their bytes themselves: their requests
        are decoded so, and their replies are bytes already. Unary ones are traced, and a drain
        waits for them."""
        self._metrics = metrics
        self._tracer = tracer
        self._decoders = decoders
        self._wrapped: dict[str, Handler] = {}
        self._calls = 0  # of the methods with decoders, in flight
        self._started_at = 0.0  # the last of them, in the event loop's time
        self._streams_end = asyncio.Event()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        path = handler_call_details.method
        if path not in self._wrapped:
            self._wrapped[path] = self._wrap(handler, path)
        return self._wrapped[path]

    def end_streams(self) -> None:
        """End every stream, those without an end of their own too, as UNAVAILABLE."""
        self._streams_end.set()

    async def quiet(self, seconds: float) -> None:
        """Return once no call that a drain waits for is in flight, nor has started for so long."""
        loop = asyncio.get_running_loop()
        while True:
            left = self._started_at + seconds - loop.time()
            if left <= 0 and not self._calls:
                return
            await asyncio.sleep(max(left, seconds / 10))

    def _wrap(self, handler: Any, path: str) -> Handler:
        service, method = path.removeprefix("/").split("/")
        streams = (handler.request_streaming, handler.response_streaming)
        metrics = self._metrics.rpc(_TYPES[streams], service, method)
        # Requests come as bytes: decoding has a place in the metrics, and errors of its own.
        decode = self._decoders.get(path) or checked(handler.request_deserializer)
        encode = None if path in self._decoders else handler.response_serializer
        if streams == (False, False):
            return grpc.unary_unary_rpc_method_handler(
                self._awaited(decode, handler.unary_unary, metrics, path.removeprefix("/"))
                if path in self._decoders
                else self._unary(decode, handler.unary_unary, metrics),
                response_serializer=encode,
            )
        if streams == (False, True):
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(decode, handler.unary_stream, metrics),
                response_serializer=encode,
            )
        if streams == (True, True):
            return grpc.stream_stream_rpc_method_handler(
                self._streaming(partial(_decoded, decode), handler.stream_stream, metrics),
                response_serializer=encode,
            )
        raise TypeError(f"{path}: no method here takes a stream and answers once")

    def _unary(
        self,
        decode: Decode,
        behaviour: Callable[[Any, Context], Awaitable[Any]],
        metrics: RpcMetrics,
    ) -> Callable[[bytes, Context], Awaitable[Any]]:
        async def call(data: bytes, context: Context) -> Any:
            call = _Call(metrics, context)
            with call:
                return await behaviour(decode(data), context)
            del data
            return await call.abort()

        return call

    def _awaited(
        self,
        decode: Decode,
        behaviour: Callable[[Any, Context], Awaitable[Any]],
        metrics: RpcMetrics,
        method: str,
    ) -> Callable[[bytes, Context], Awaitable[Any]]:
        async def call(data: bytes, context: Context) -> Any:
            call = _Call(metrics, context)
            self._started_at = call.started_at
            self._calls += 1
            try:
                with call:
                    if self._tracer is not None:
                        metadata = dict(context.invocation_metadata() or ())
                        call.trace = self._tracer.request(method, metadata, call.started_at)
                        current_trace.set(call.trace)
                    return await behaviour(decode(data), context)
                del data
                await call.abort()
            finally:
                self._calls -= 1

        return call

    def _streaming(
        self,
        decode: Callable[[Any], Any],  # of one request's bytes, or of an iterator over many
        behaviour: Callable[[Any, Context], AsyncGenerator[Any, None]],
        metrics: RpcMetrics,
    ) -> Callable[[Any, Context], Awaitable[None]]:
        async def write_all(request: Any, context: Context) -> None:
            async with aclosing(behaviour(decode(request), context)) as replies:
                async for reply in replies:
                    try:
                        await context.write(reply)
                    except Exception as error:  # of gRPC's own: the client has left
                        raise asyncio.CancelledError from error

        async def call(request: Any, context: Context) -> None:
            call = _Call(metrics, context)
            end: asyncio.Future[ServiceError] = asyncio.get_running_loop().create_future()
            current_end.set(end)
            writing = asyncio.create_task(write_all(request, context))
            ending = asyncio.create_task(self._streams_end.wait())
            try:
                with call:
                    ends: set[asyncio.Future[Any]] = {writing, ending, end}
                    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                    if end.done():
                        raise end.result()
                    if not writing.done():
                        raise Unavailable("the server is draining; try another one")
                    writing.result()
                    return
            finally:
                ending.cancel()
                writing.cancel()
                # What it holds is let go when it has ended.
                await asyncio.wait({writing})
            await call.abort()

        return call


class _Call:
    """One call's metrics and trace, from its start to its one end.

    `with` it around the handler's work: however that ends is counted. Where the caller must be told
    of an error, go on behind the block with `abort`.
    """

    __slots__ = ("_context", "_metrics", "_status", "started_at", "trace")

    def __init__(self, metrics: RpcMetrics, context: Context):
        self._metrics = metrics
        self._context = context
        self._status: grpc.Status | None = None  # to abort with
        self.trace: RequestTrace | None = None
        self.started_at = asyncio.get_running_loop().time()
        metrics.start()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> bool:
        if error is None:
            self._finish(grpc.StatusCode.OK)
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


_TYPES = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}


async def _decoded(decode: Decode, stream: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for data in stream:
        yield decode(data)
