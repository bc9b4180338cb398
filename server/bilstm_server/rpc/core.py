"""gRPC's server, less what a caller could stop it by.

gRPC for Python decodes the path of a method that it does not know in the one loop that takes calls
(grpcio 1.85): a path that is no UTF-8 ends that loop, and the whole server with it. It has no words
to say otherwise, so this is done by its private names; `tests/rpc/flow/test_unknown_methods.py`
holds it to new releases.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import grpc

_cygrpc: Any = import_module("grpc._cython.cygrpc")  # of which grpc's stubs know nothing
_UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED.value[0]


class _Core(_cygrpc.AioServer):  # type: ignore[misc]
    """Takes calls. All methods that there are have been registered; this ends every other call as
    UNIMPLEMENTED, and does not look at its path."""

    async def _request_call(self) -> Any:
        """Wait for a call of an unknown method, which the caller of this would decode, without end.

        Raises what gRPC raises once the server has stopped.
        """
        loop = asyncio.get_running_loop()
        refusing: set[asyncio.Task[None]] = set()  # the loop alone would not keep them
        while True:
            task = loop.create_task(_refuse(await super()._request_call()))
            refusing.add(task)
            task.add_done_callback(refusing.discard)


async def _refuse(call: Any) -> None:
    first = _cygrpc.SendInitialMetadataOperation((), 0)
    with suppress(_cygrpc.ExecuteBatchError):  # its caller has left
        await _cygrpc._send_error_status_from_server(
            call, _UNIMPLEMENTED, "Method not found!", (), first, asyncio.get_running_loop()
        )


def make_core_server(
    interceptors: Sequence[grpc.aio.ServerInterceptor], options: Sequence[tuple[str, Any]]
) -> grpc.aio.Server:
    """Return gRPC's server with these interceptors and options."""
    plain = _cygrpc.AioServer
    _cygrpc.AioServer = _Core
    try:
        return grpc.aio.server(interceptors=interceptors, options=options)
    finally:
        _cygrpc.AioServer = plain
