"""`Decoding`: a request's way in, from its bytes to its service's method, and the replies' way out.

It is the innermost layer: nothing of a request is read before it, and all that it raises becomes
the caller's status.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from google.protobuf.message import DecodeError

from ...errors import InvalidInput, ServiceError
from ...metrics import DropMetrics
from ..context import Context
from ..definitions import Decode
from ..flow.receiving import Receiving
from ..flow.untaken import UntakenReplies
from ..status import drop_reason
from .method import Method, Respond
from .outcomes import current_call

PLAIN_BYTES = 64 * 1024  # that a message without tensors, or such a part of one, may have

# Gives a stream's replies. It is given gRPC's iterator over the call's messages, all of them bytes.
Replies = Callable[[Any, Context], AsyncGenerator[Any]]


def malformed() -> InvalidInput:
    """Return the error for bytes that are no message of the method's type."""
    return InvalidInput("", "the request's bytes are no message of its type")


def plain_decoder(decode: Decode) -> Decode:
    """Return a decoder of messages without tensors, which are small.

    It raises `InvalidInput` for bytes that are no message of `decode`'s type, and for more of them
    than such a message can need.
    """

    def call(data: bytes) -> Any:
        if len(data) > PLAIN_BYTES:
            raise InvalidInput("", f"the request must be at most {PLAIN_BYTES} bytes")
        try:
            return decode(data)
        except DecodeError as error:
            raise malformed() from error

    return call


class Decoding:
    """Reads, decodes and answers the calls of all methods."""

    def __init__(self, receiving: Receiving, replies: UntakenReplies, no_model: DropMetrics):
        """Count requests with tensors that can't be read in `no_model`."""
        self._receiving = receiving
        self._replies = replies
        self._no_model = no_model

    def respond(self, method: Method) -> Respond:
        """Return what answers the method's calls. Raises `TypeError` for a method that takes a
        stream and answers once."""
        match method.kind:
            case "unary":
                return self._one_reply(method)
            case "server_stream":
                return self._many_replies(method, self._of_one_request(method))
            case "bidi_stream":
                return self._many_replies(method, self._of_many_requests(method))
        raise TypeError(f"{method.full_name}: no method here takes a stream and answers once")

    # -- one reply --------------------------------------------------------------------------------

    def _one_reply(self, method: Method) -> Respond:
        decode, encode = _decoder(method), _encoder(method)
        behaviour = method.handler.unary_unary
        tensor = method.tensor

        async def respond(_: object, context: Context) -> bytes:
            if tensor is None:
                data = await self._receiving.message(context)
                reply = encode(await behaviour(decode(data), context))
            else:
                tensor.check_door()
                # No name keeps the request here: its method lets go of it when it likes.
                reply = await behaviour(await self._tensor_request(decode, context), context)
            call = current_call.get()
            if call.reply is None:  # the method has not said before how large it would be
                call.reply = self._replies.begin(context, len(reply))
                call.reply.give()
            return reply

        return respond

    async def _tensor_request(self, decode: Decode, context: Context) -> Any:
        """Read and decode a call's one message, and count the call if that fails."""
        try:
            return decode(await self._receiving.message(context))
        except asyncio.CancelledError:
            self._no_model.drop("cancelled")
            raise
        except ServiceError as error:
            self._no_model.drop(drop_reason(error))
            raise

    # -- many replies -----------------------------------------------------------------------------

    def _many_replies(self, method: Method, replies_of: Replies) -> Respond:
        encode = _encoder(method)

        async def respond(requests: Any, context: Context) -> None:
            call = current_call.get()
            async with aclosing(replies_of(requests, context)) as replies:
                async for reply in replies:
                    data = encode(reply)
                    call.last_message_bytes = len(data)
                    try:
                        await context.write(data)
                    except Exception as error:  # of gRPC's own: the client has left
                        raise asyncio.CancelledError from error

        return respond

    def _of_one_request(self, method: Method) -> Replies:
        decode, behaviour = _decoder(method), method.handler.unary_stream

        async def replies_of(_: object, context: Context) -> AsyncGenerator[Any]:
            request = decode(await self._receiving.message(context))
            async with aclosing(behaviour(request, context)) as replies:
                async for reply in replies:
                    yield reply

        return replies_of

    def _of_many_requests(self, method: Method) -> Replies:
        decode, behaviour = _decoder(method), method.handler.stream_stream
        if method.tensor is not None:
            decode = self._counted(decode)

        def replies_of(requests: AsyncIterator[bytes], context: Context) -> AsyncGenerator[Any]:
            replies: AsyncGenerator[Any] = behaviour(_decoded(decode, requests), context)
            return replies

        return replies_of

    def _counted(self, decode: Decode) -> Decode:
        """Return a decoder that does the same, and counts what can't be read."""

        def call(data: bytes) -> Any:
            try:
                return decode(data)
            except InvalidInput:
                self._no_model.drop("invalid")
                raise

        return call


async def _decoded(decode: Decode, requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for data in requests:
        yield decode(data)


def _decoder(method: Method) -> Decode:
    if method.tensor is not None:
        return method.tensor.decode
    return plain_decoder(method.handler.request_deserializer)


def _encoder(method: Method) -> Callable[[Any], bytes]:
    if method.tensor is not None:
        return _as_it_is
    encode: Callable[[Any], bytes] = method.handler.response_serializer
    return encode


def _as_it_is(reply: bytes) -> bytes:
    return reply
