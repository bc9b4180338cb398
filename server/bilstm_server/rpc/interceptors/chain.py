"""What every RPC passes through: its count and metrics, its bytes' way in, its errors' way out."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import grpc

from ...errors import Overloaded, ServiceError, Unavailable, forget_locals
from ...metrics import Metrics, RpcMetrics
from ..encoder.reader import Decode, plain_decoder
from ..encoder.streams.outbox import CHUNK_BYTES
from ..flow.receiving import Receiving
from ..flow.untaken import UntakenReplies
from ..internal import Context
from ..status import drop_reason
from .outcomes import Call

if TYPE_CHECKING:
    from ...tracing import Tracer

# That the present task answers.
current_call: ContextVar[Call] = ContextVar("current_call")
# Of the stream that the present task answers: ends it with an error, wherever it waits.
current_end: ContextVar[asyncio.Future[ServiceError]] = ContextVar("current_end")

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in its stub only
Respond: TypeAlias = "Callable[[Any, Context], Awaitable[Any]]"

_RETRY_SECONDS = 0.1  # a guess: until one of many calls has ended

# What is counted apart, so that none of them keeps another one out.
Kind = Literal["own", "unary"]  # of `methods`, and of other services


class Method(NamedTuple):
    """How a method that sees to its bytes itself wants them."""

    decode: Decode  # its replies are bytes already
    admit: Callable[[], None] = lambda: None  # raises what its caller is told before it is read


class RpcInterceptor(grpc.aio.ServerInterceptor):
    """Wraps each method's handler once; unknown methods are left to gRPC.

    All requests are streams to gRPC, which otherwise would read a message to its end, however long
    that takes, before anybody here is asked.
    """

    def __init__(
        self,
        metrics: Metrics,
        methods: Mapping[str, Method],
        receiving: Receiving,
        replies: UntakenReplies,
        max_calls: int,
        tracer: Tracer | None = None,
    ):
        """`methods`: by path. Unary ones are traced, and a drain waits for them. Of these there may
        be `max_calls` in flight, of other unary ones as many, and of other services' streams."""
        self._metrics = metrics
        self._methods = methods
        self._receiving = receiving
        self._replies = replies
        self._max_calls = max_calls
        self._tracer = tracer
        self._wrapped: dict[str, Handler] = {}
        self._in_flight: dict[Kind, int] = {"own": 0, "unary": 0}
        self._started_at = 0.0  # the last of `methods`, in the event loop's time
        self._ended = asyncio.Event()  # one of those in flight
        # Streams of other services: what ends each, and its peer; the oldest first.
        self._others: dict[asyncio.Future[ServiceError], str] = {}
        self._streams_end = asyncio.Event()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        path = handler_call_details.method
        if wrapped := self._wrapped.get(path):
            return wrapped
        handler = await continuation(handler_call_details)
        if handler is not None:
            self._wrapped[path] = self._wrap(handler, path)
        return self._wrapped.get(path)

    @property
    def calls(self) -> int:
        """That a drain waits for, in flight."""
        return self._in_flight["own"]

    def end_streams(self) -> None:
        """End every stream, those without an end of their own too, as UNAVAILABLE."""
        self._streams_end.set()

    async def quiet(self, seconds: float, at_most: float) -> None:
        """Wait until no call that a drain waits for has started for so long."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + at_most
        while (now := loop.time()) < give_up_at and now < self._started_at + seconds:  # noqa: ASYNC110
            await asyncio.sleep(self._started_at + seconds - now)

    async def idle(self) -> None:
        """Wait until no call that a drain waits for is in flight."""
        while self._in_flight["own"]:
            self._ended.clear()
            await self._ended.wait()

    def _wrap(self, handler: Any, path: str) -> Handler:
        service, name = path.removeprefix("/").split("/")
        streams = (handler.request_streaming, handler.response_streaming)
        metrics = self._metrics.rpc(_TYPES[streams], service, name)
        method = self._methods.get(path)
        if streams == (False, False):
            respond = (
                self._respond_own(method, handler.unary_unary, path.removeprefix("/"))
                if method
                else self._respond(handler)
            )
            return grpc.stream_unary_rpc_method_handler(
                self._unary(respond, metrics, "own" if method else "unary")
            )
        if streams == (False, True):
            decode = plain_decoder(handler.request_deserializer)
            behaviour = self._stream_one(decode, handler.unary_stream)
        elif streams == (True, True):
            decode = method.decode if method else plain_decoder(handler.request_deserializer)
            behaviour = _stream_many(decode, handler.stream_stream)
        else:
            raise TypeError(f"{path}: no method here takes a stream and answers once")
        return grpc.stream_stream_rpc_method_handler(
            self._streaming(behaviour, metrics, is_own=method is not None),
            response_serializer=None if method else handler.response_serializer,
        )

    # -- one reply --------------------------------------------------------------------------------

    def _unary(self, respond: Respond, metrics: RpcMetrics, kind: Kind) -> Respond:
        async def answer(_: object, context: Context) -> Any:
            call = Call(metrics, context)
            self._in_flight[kind] += 1
            if kind == "own":
                self._started_at = call.started_at
            try:
                with call:
                    self._check_count(kind)
                    return await respond(call, context)
                await call.abort()
            finally:
                self._in_flight[kind] -= 1
                self._ended.set()

        return answer

    def _check_count(self, kind: Kind) -> None:
        if self._in_flight[kind] > self._max_calls:
            if kind == "own":
                self._metrics.no_model.drop("overloaded")
            raise Overloaded(f"{self._max_calls} calls are in flight, no more may", _RETRY_SECONDS)

    def _respond(self, handler: Any) -> Respond:
        decode = plain_decoder(handler.request_deserializer)
        behaviour, encode = handler.unary_unary, handler.response_serializer

        async def respond(call: Call, context: Context) -> bytes:
            request = decode(await self._receiving.message(context))
            reply: bytes = encode(await behaviour(request, context))
            call.reply = self._replies.begin(context, len(reply))
            call.reply.give()
            return reply

        return respond

    def _respond_own(self, method: Method, behaviour: Respond, name: str) -> Respond:
        async def respond(call: Call, context: Context) -> Any:
            if self._tracer is not None:
                metadata = dict(context.invocation_metadata() or ())
                call.trace = self._tracer.request(name, metadata, call.started_at)
            current_call.set(call)
            method.admit()
            try:
                data = await self._receiving.message(context)
            except asyncio.CancelledError:
                self._metrics.no_model.drop("cancelled")
                raise
            except ServiceError as error:
                self._metrics.no_model.drop(drop_reason(error))
                raise
            request = method.decode(data)
            del data
            return await behaviour(request, context)

        return respond

    # -- many replies -----------------------------------------------------------------------------

    def _stream_one(
        self, decode: Decode, behaviour: Callable[[Any, Context], AsyncGenerator[Any]]
    ) -> Callable[[Any, Context], AsyncGenerator[Any]]:
        async def stream(_: object, context: Context) -> AsyncGenerator[Any]:
            request = decode(await self._receiving.message(context))
            async with aclosing(behaviour(request, context)) as replies:
                async for reply in replies:
                    yield reply

        return stream

    def _make_place(self, end: asyncio.Future[ServiceError], peer: str) -> None:
        """For one more stream of another service: where there are too many, the oldest one of the
        peer that has most of them is ended for it."""
        self._others[end] = peer
        if len(self._others) > self._max_calls:
            counts = Counter(self._others.values())
            most = max(counts.values())
            oldest = next(e for e, peer in self._others.items() if counts[peer] == most)
            del self._others[oldest]
            if not oldest.done():
                oldest.set_result(
                    Overloaded(f"{self._max_calls} such streams are open, no more may", 1.0)
                )

    def _streaming(
        self,
        behaviour: Callable[[Any, Context], AsyncGenerator[Any]],
        metrics: RpcMetrics,
        is_own: bool,
    ) -> Callable[[Any, Context], Awaitable[None]]:
        async def write_all(requests: Any, context: Context) -> None:
            async with aclosing(behaviour(requests, context)) as replies:
                async for reply in replies:
                    try:
                        await context.write(reply)
                    except Exception as error:  # of gRPC's own: the client has left
                        raise asyncio.CancelledError from error

        async def call(requests: Any, context: Context) -> None:
            call = Call(metrics, context)
            end: asyncio.Future[ServiceError] = asyncio.get_running_loop().create_future()
            current_end.set(end)
            writing = asyncio.create_task(write_all(requests, context))
            ending = asyncio.create_task(self._streams_end.wait())
            try:
                with call:
                    if not is_own:
                        self._make_place(end, context.peer())
                    ends: set[asyncio.Future[Any]] = {writing, ending, end}
                    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                    if end.done():
                        # gRPC keeps the last message until it is taken, or the connection ends.
                        self._replies.hold(context, CHUNK_BYTES).give()
                        raise end.result()
                    if not writing.done():
                        raise Unavailable("the server is draining; try another one")
                    writing.result()
                    return
            finally:
                self._others.pop(end, None)
                ending.cancel()
                writing.cancel()
                await asyncio.wait({writing})
                _let_go(writing)
            await call.abort()

        return call


def _let_go(task: asyncio.Task[None]) -> None:
    """Of what the task's frames held: its error, which has them, is kept as long as the task."""
    try:
        task.result()
    except BaseException as error:
        forget_locals(error)


_TYPES = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}


def _stream_many(
    decode: Decode, behaviour: Callable[[Any, Context], AsyncGenerator[Any]]
) -> Callable[[Any, Context], AsyncGenerator[Any]]:
    def stream(requests: AsyncIterator[bytes], context: Context) -> AsyncGenerator[Any]:
        return behaviour(_decoded(decode, requests), context)

    return stream


async def _decoded(decode: Decode, requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for data in requests:
        yield decode(data)
