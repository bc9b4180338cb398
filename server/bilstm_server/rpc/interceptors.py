"""What every RPC passes through: its metrics, its decoding, and its errors' way to the caller."""

from __future__ import annotations

import asyncio
import inspect
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError

from ..errors import InvalidInput, ServiceError
from ..metrics import Metrics, RpcMetrics
from .deadline import Deadline
from .status import internal_status, status_of

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in its stub only


class RpcInterceptor(grpc.aio.ServerInterceptor):
    """Wraps each method's handler once; unknown methods are left to gRPC."""

    def __init__(self, metrics: Metrics):
        self._metrics = metrics
        self._wrapped: dict[str, Handler] = {}

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

    def _wrap(self, handler: Any, path: str) -> Handler:
        service, method = path.removeprefix("/").split("/")
        streams = (handler.request_streaming, handler.response_streaming)
        metrics = self._metrics.rpc(_TYPES[streams], service, method)
        if streams == (False, False):
            decode = self._decoder(handler.request_deserializer)
            call = _unary(decode, handler.unary_unary, metrics)
            return grpc.unary_unary_rpc_method_handler(
                call, response_serializer=handler.response_serializer
            )
        if streams == (False, True):
            return grpc.unary_stream_rpc_method_handler(
                _streaming(handler.unary_stream, metrics),
                handler.request_deserializer,
                handler.response_serializer,
            )
        if streams == (True, True):
            return grpc.stream_stream_rpc_method_handler(
                _streaming(handler.stream_stream, metrics),
                handler.request_deserializer,
                handler.response_serializer,
            )
        raise TypeError(f"{path}: no method here takes a stream and answers once")

    def _decoder(self, decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        unreadable = self._metrics.model("")

        def decoded(data: bytes) -> Any:
            try:
                return decode(data)
            except DecodeError as error:
                unreadable.drop("invalid")
                raise InvalidInput("", "the request's bytes are no message of its type") from error

        return decoded


_TYPES = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}


def _unary(
    decode: Callable[[bytes], Any],
    behaviour: Callable[[Any, Context], Awaitable[Any]],
    metrics: RpcMetrics,
) -> Callable[[bytes, Context], Awaitable[Any]]:
    async def call(data: bytes, context: Context) -> Any:
        started_at = time.perf_counter()
        deadline = Deadline.of(context)
        metrics.start()

        def finish(code: grpc.StatusCode) -> None:
            metrics.finish(code.name, time.perf_counter() - started_at)

        try:
            reply = await behaviour(decode(data), context)
        except asyncio.CancelledError:
            finish(_code_of_cancellation(deadline))
            raise  # gRPC leaks the call if a handler swallows its cancellation
        except grpc.aio.AbortError:  # the handler has sent a status of its own
            finish(_code_of_abort(context))
            raise
        except Exception as error:
            status = _status_of(error)
            finish(status.code)
            await context.abort_with_status(status)
        finish(grpc.StatusCode.OK)
        return reply

    return call


def _streaming(
    behaviour: Callable[[Any, Context], Any], metrics: RpcMetrics
) -> Callable[[Any, Context], Any]:
    """Counts and times a stream, whether its handler yields its replies or writes them."""

    @contextmanager
    def observed(context: Context) -> Iterator[None]:
        started_at = time.perf_counter()
        deadline = Deadline.of(context)
        metrics.start()
        code = grpc.StatusCode.OK
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            code = _code_of_cancellation(deadline)
            raise
        except grpc.aio.AbortError:
            code = _code_of_abort(context)
            raise
        except Exception:
            code = grpc.StatusCode.UNKNOWN
            raise
        finally:
            metrics.finish(code.name, time.perf_counter() - started_at)

    async def write(request: Any, context: Context) -> None:
        with observed(context):
            await behaviour(request, context)

    async def generate(request: Any, context: Context) -> AsyncIterator[Any]:
        with observed(context):
            async for reply in behaviour(request, context):
                yield reply

    return generate if inspect.isasyncgenfunction(behaviour) else write


def _code_of_cancellation(deadline: Deadline) -> grpc.StatusCode:
    return grpc.StatusCode.DEADLINE_EXCEEDED if deadline.ended() else grpc.StatusCode.CANCELLED


def _code_of_abort(context: Context) -> grpc.StatusCode:
    number: int = context.code()  # type: ignore[assignment]  # not the enum its stub promises
    return next(code for code in grpc.StatusCode if code.value[0] == number)


def _status_of(error: Exception) -> grpc.Status:
    if isinstance(error, ServiceError):
        return status_of(error)
    error_id = secrets.token_hex(8)
    log.error("internal error", error_id=error_id, exc_info=error)
    return internal_status(error_id)
