"""A rolling restart of two servers under callers that know both: how many of their calls fail."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import numpy as np

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm_client import AsyncClient, EncoderError
from bilstm_server.testing import ServerProcess, server_process

from .findings import Finding
from .prober import ENCODE

NAME = "restart"
_RATE = 200.0  # calls a second of each kind of caller
_RESTARTS = 5
_REST_SECONDS = 1.0  # between restarts
_TIMEOUT_SECONDS = 10.0
_OURS, _PLAIN = "the project's client", "a plain round robin with health checks"
Call = Callable[[int], Awaitable[object]]
CountedCall = Callable[[int], Coroutine[Any, Any, None]]
_ROUND_ROBIN = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": "bilstm.v1.EncoderService"},
}


def trial() -> Iterator[Finding]:
    ports = [_free_port(), _free_port()]
    with ExitStack() as running:
        started = [running.enter_context(_server(port)) for port in ports]
        target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
        ended = asyncio.run(_call_while_restarting(target, ports, started, running))
    for caller, codes in ended.items():
        sent = f"{_RATE:.0f} calls/s by {caller}, {_RESTARTS} restarts"
        calls = codes.total()
        yield Finding(NAME, sent, "calls", calls)
        yield Finding(NAME, sent, "share that failed", 1 - codes["OK"] / max(calls, 1), most=0)
        for code, count in codes.items():
            if code != "OK":
                yield Finding(NAME, sent, f"ended as {code}", count)


def _free_port() -> int:
    """It stays the server's over its restarts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _server(port: int) -> Any:
    return server_process(f"--port={port}")


async def _call_while_restarting(
    target: str, ports: list[int], started: list[ServerProcess], running: ExitStack
) -> dict[str, Counter[str]]:
    ended: dict[str, Counter[str]] = {_OURS: Counter(), _PLAIN: Counter()}
    x = np.zeros((8, 12), np.float32)
    request = pb.EncodeRequest(sequences=[tensors.encode(x)]).SerializeToString()
    options = [("grpc.service_config", json.dumps(_ROUND_ROBIN))]
    async with AsyncClient(target) as client, grpc.aio.insecure_channel(target, options) as plain:
        encode: Any = plain.unary_unary(ENCODE)

        def ours(index: int) -> Awaitable[object]:
            return client.encode(x, timeout_seconds=_TIMEOUT_SECONDS)

        def plainly(index: int) -> Awaitable[object]:
            return encode(request, timeout=_TIMEOUT_SECONDS)  # type: ignore[no-any-return]

        await asyncio.gather(ours(0), plainly(0))
        async with asyncio.TaskGroup() as callers:
            until = callers.create_task(_restart(ports, started, running))
            for name, call in ((_OURS, ours), (_PLAIN, plainly)):
                callers.create_task(_load(_counted(call, ended[name]), until))
    return ended


async def _restart(ports: list[int], started: list[ServerProcess], running: ExitStack) -> None:
    """One after the other, each as an operator would: it drains, and its successor is ready before
    the next one's turn."""
    await asyncio.sleep(_REST_SECONDS)
    for number in range(_RESTARTS):
        index = number % len(ports)
        await asyncio.to_thread(started[index].stop)
        server = _server(ports[index])
        started[index] = await asyncio.to_thread(running.enter_context, server)
        await asyncio.sleep(_REST_SECONDS)


async def _load(call: CountedCall, until: asyncio.Task[None]) -> None:
    """Callers arrive by themselves until the restarts are over."""
    async with asyncio.TaskGroup() as calls:
        index = 0
        while not until.done():
            calls.create_task(call(index))
            index += 1
            await asyncio.sleep(1 / _RATE)


def _counted(call: Call, codes: Counter[str]) -> CountedCall:
    async def send(index: int) -> None:
        try:
            await call(index)
            codes["OK"] += 1
        except EncoderError as error:
            codes[type(error).__name__] += 1
        except grpc.RpcError as error:
            codes[error.code().name] += 1

    return send
