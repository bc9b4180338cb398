"""`StreamCall`: one grpc.aio call whose status is what the server has sent.

A write that fails because the call is over makes grpc.aio set INTERNAL in place of the status that
came, or is about to come. So each status is read here when it is set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import grpc

from bilstm.v1 import encoder_pb2 as pb

from .sending import Sending

T = TypeVar("T")
_WRITE_FAILED = "Internal error from Core"  # grpc.aio's words of a status that is not the server's
_WAIT_SECONDS = 1.0


class StreamCall:
    """A call that sends bytes and receives responses, and ends with the server's own status."""

    def __init__(self, call: Any, sending: Sending):
        self._call = call
        self._sending = sending
        self._end: grpc.aio.AioRpcError | None = None
        self._ended = asyncio.Event()
        call.add_done_callback(self._status_is_set)

    async def write(self, message: bytes) -> bool:
        """Send one request. False: the call is over, and reading raises why."""
        self._sending.writes()
        try:
            await self._call.write(message)
        except (grpc.RpcError, asyncio.InvalidStateError, KeyError):
            return False
        self._sending.wrote()
        return True

    async def done_writing(self) -> None:
        with suppress(Exception):  # grpc.aio's own, of many kinds: the call is over
            await self._call.done_writing()

    async def read(self) -> pb.EncodeStreamResponse | None:
        """The next response; None at the end. Raises an `RpcError` with the server's status."""
        try:
            response = await self._call.read()
        except grpc.aio.AioRpcError as error:
            if error.details() != _WRITE_FAILED:
                raise
            try:
                async with asyncio.timeout(_WAIT_SECONDS):
                    await self._ended.wait()
            except TimeoutError:
                raise _rpc_error(grpc.StatusCode.UNAVAILABLE, _WRITE_FAILED) from error
            if self._end is not None:
                raise self._end from None
            return None
        return None if response is grpc.aio.EOF else response

    def cancel(self) -> None:
        self._call.cancel()

    def _status_is_set(self, _: Any) -> None:
        try:
            code = _now(self._call.code())
        except KeyError:  # one that grpc.aio does not know
            code = grpc.StatusCode.UNKNOWN
        details = _now(self._call.details())
        if details == _WRITE_FAILED or self._ended.is_set():
            return
        if code is not grpc.StatusCode.OK:
            self._end = _rpc_error(code, details, _now(self._call.trailing_metadata()))
        self._ended.set()


def _rpc_error(
    code: grpc.StatusCode, details: str, trailing: grpc.aio.Metadata | None = None
) -> grpc.aio.AioRpcError:
    empty = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, empty, empty if trailing is None else trailing, details)


def _now(known: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that has nothing to wait for."""
    try:
        known.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    raise RuntimeError("a call that is done must know its status")
