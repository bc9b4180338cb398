"""Calls of methods that the server does not have, whatever their paths are made of."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from hpack import Encoder, NeverIndexedHeaderTuple

from benchmarks.faults.many_calls import ManyCalls
from benchmarks.faults.wire import begin, headers_of
from tests.rpc.flow.peers import CHECK
from tests.support.servers import RunningServer
from tests.support.waiting import HANGS_AFTER_SECONDS

UNIMPLEMENTED = "12"
PATHS = [b"/\xff/\xfe", b"\xc3", b"", b"/", b"/a/b", b"/grpc.health.v1.Health/Check\x80", b"/\0"]


def block_of(path: bytes) -> bytes:
    headers = dict(headers_of("")) | {":path": path}
    return Encoder().encode([NeverIndexedHeaderTuple(name, of) for name, of in headers.items()])


def status_of_call(target: str, path: bytes) -> str:
    """How a call of that path ends."""
    connection = ManyCalls(target)
    try:
        connection.call([begin(1, block_of(path))], 0, 0.0)
        while not connection.ended:
            connection.write()
            connection.read()
        return connection.ended[0].status
    finally:
        connection.close()


@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_is_no_method_is_refused_and_the_server_stands(
    server: RunningServer, path: bytes
) -> None:
    """A call of any path has an answer, and others are served after it. (gRPC for Python decodes
    the path where an error stops the whole server.)"""
    assert status_of_call(server.target, path) == UNIMPLEMENTED
    with grpc.insecure_channel(server.target) as channel:
        check: Any = channel.unary_unary(CHECK)
        answer = check(b"", timeout=HANGS_AFTER_SECONDS)
    assert answer == b"\x08\x01"


async def test_callers_of_unknown_methods_who_leave_at_once(server: RunningServer) -> None:
    """Calls that are gone before they are refused leave the server as it was."""
    async with grpc.aio.insecure_channel(server.target) as channel:
        unknown: Any = channel.unary_unary("/a/b")
        check: Any = channel.unary_unary(CHECK)
        calls = [unknown(b"") for _ in range(200)]
        for call in calls[::2]:
            call.cancel()
        ends = await asyncio.gather(*(call.code() for call in calls))
        assert set(ends[1::2]) == {grpc.StatusCode.UNIMPLEMENTED}
        assert await check(b"", timeout=HANGS_AFTER_SECONDS) == b"\x08\x01"
