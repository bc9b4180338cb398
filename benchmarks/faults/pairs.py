"""Two servers, and callers that know both, while something happens to the servers."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack
from typing import Any

import grpc
import numpy as np

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm_client import AsyncClient, EncoderError
from bilstm_server.testing import ServerProcess, server_process

from .prober import ENCODE

RATE = 200.0  # calls a second of each kind of caller
OURS, PLAIN = "the project's client", "a plain round robin with health checks"
_TIMEOUT_SECONDS = 10.0
_ROUND_ROBIN = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": "bilstm.v1.EncoderService"},
}
Call = Callable[[], Awaitable[bool]]  # one call; whether its result is right


class Pair:
    """Two servers, each of which keeps its port when it is started anew."""

    def __init__(self, running: ExitStack, *flags: str):
        """Start both with these flags, to be ended with `running`."""
        self._running = running
        self._flags = flags
        self._ports = [_free_port(), _free_port()]
        self._servers = [self._start(port) for port in self._ports]
        self.target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in self._ports)

    def _start(self, port: int) -> ServerProcess:
        return self._running.enter_context(server_process(f"--port={port}", *self._flags))

    async def renew(self, index: int, end: Callable[[ServerProcess], object]) -> float:
        """End one server, and start its successor. Returns when that is ready, and for how many
        seconds there was none."""
        began_at = time.perf_counter()
        await asyncio.to_thread(end, self._servers[index])
        self._servers[index] = await asyncio.to_thread(self._start, self._ports[index])
        return time.perf_counter() - began_at


def _free_port() -> int:
    """It stays the server's over its restarts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Ends:
    """How calls have ended, of each kind of caller, and the longest that one took, in seconds."""

    def __init__(self) -> None:
        self.codes: dict[str, Counter[str]] = {OURS: Counter(), PLAIN: Counter()}
        self.longest: Counter[str] = Counter()

    def counted(self, caller: str, call: Call) -> Callable[[], Coroutine[Any, Any, None]]:
        """The call, so that however it ends is counted and raises nothing."""

        async def send() -> None:
            started_at = time.perf_counter()
            self.codes[caller][await _end_of(call)] += 1
            taken = time.perf_counter() - started_at
            self.longest[caller] = max(self.longest[caller], taken)  # type: ignore[assignment]

        return send


async def _end_of(call: Call) -> str:
    try:
        return "OK" if await call() else "other bits"
    except EncoderError as error:
        return type(error).__name__
    except grpc.RpcError as error:
        return str(error.code().name)


async def call_while(target: str, happens: Coroutine[Any, Any, None]) -> Ends:
    """Have callers of both kinds arrive by themselves until `happens` is over."""
    ends = Ends()
    x = np.random.default_rng(0).standard_normal((8, 12), np.float32)
    request = pb.EncodeRequest(sequences=[tensors.encode(x)]).SerializeToString()
    options = [("grpc.service_config", json.dumps(_ROUND_ROBIN))]
    async with AsyncClient(target) as client, grpc.aio.insecure_channel(target, options) as plain:
        encode: Any = plain.unary_unary(ENCODE, None, pb.EncodeResponse.FromString)
        expected = (await client.encode(x)).states
        as_sent = (await encode(request)).encodings[0]

        async def ours() -> bool:
            result = await client.encode(x, timeout_seconds=_TIMEOUT_SECONDS)
            return result.states.tobytes() == expected.tobytes()

        async def plainly() -> bool:
            reply = await encode(request, timeout=_TIMEOUT_SECONDS)
            return bool(reply.encodings[0] == as_sent)

        async with asyncio.TaskGroup() as callers:
            until = callers.create_task(happens)
            for caller, call in ((OURS, ours), (PLAIN, plainly)):
                callers.create_task(_load(ends.counted(caller, call), until))
    return ends


async def _load(call: Callable[[], Coroutine[Any, Any, None]], until: asyncio.Task[None]) -> None:
    async with asyncio.TaskGroup() as calls:
        while not until.done():
            calls.create_task(call())
            await asyncio.sleep(1 / RATE)
