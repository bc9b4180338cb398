"""What metrics, logs and traces cost: small requests to a server as shipped, and to a bare one.

    python -m benchmarks.overhead

Three servers in processes of their own: as shipped (traces are off) and `benchmarks.bare_server`,
loaded in turn in short blocks, and then one with every request traced. The load generator runs in
this process, on the same machine, and so does the collector, which throws away what it is sent.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import psutil

from benchmarks.load import Load, closed_loop
from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm_server.testing import ServerProcess, server_process

STEPS = 8
WIDTH = 12  # of the model that ships
CALLERS = 32
SHIPPED, BARE, TRACED = "as shipped", "bare", "traced"
ALLOWED_COST = 0.05  # of the bare server's throughput
_WARM_UP_SECONDS = 2.0
ENCODE = "/bilstm.v1.EncoderService/Encode"


@dataclass
class ServerLoad(Load):
    cpu_seconds: float = 0.0  # of the server, in all rounds: its clock ticks are too long for one

    @property
    def cpu(self) -> float:
        """Seconds a request."""
        return self.cpu_seconds / len(self.seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.25, help="of each server in each round")
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--check", action="store_true", help="fail if more than what is allowed")
    arguments = parser.parse_args()
    with ExitStack() as running:
        endpoint = running.enter_context(_collector())
        servers = {
            name: running.enter_context(server_process(*flags, module=module))
            for name, module, flags in (
                (SHIPPED, "bilstm_server", ()),
                (BARE, "benchmarks.bare_server", ()),
                (TRACED, "bilstm_server", (f"--tracing-endpoint={endpoint}",)),
            )
        }
        loads = asyncio.run(_measure(servers, arguments.seconds, arguments.rounds))
    return _report(loads, arguments.check)


@contextmanager
def _collector() -> Iterator[str]:
    """An OTLP endpoint that answers without a look at what it is sent."""

    def export(request: bytes, context: grpc.ServicerContext) -> bytes:
        return b""

    method = "opentelemetry.proto.collector.trace.v1.TraceService"
    handlers: Any = {"Export": grpc.unary_unary_rpc_method_handler(export)}
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(method, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


async def _measure(
    servers: dict[str, ServerProcess], seconds: float, rounds: int
) -> dict[str, ServerLoad]:
    """Rounds of the first two in turn, each round the other way round than the one before. The
    traced one comes after them: it goes on exporting when its block is over."""
    loads = {name: ServerLoad() for name in servers}
    async with AsyncExitStack() as connected:
        channels = {
            name: await connected.enter_async_context(grpc.aio.insecure_channel(server.target))
            for name, server in servers.items()
        }
        for names in ((SHIPPED, BARE), (TRACED,)):
            for name in names:
                await _closed_loop(channels[name], _WARM_UP_SECONDS)
            for number in range(rounds):
                for name in names[:: -1 if number % 2 else 1]:
                    process = psutil.Process(servers[name].pid)
                    await observe(loads[name], process, _closed_loop(channels[name], seconds))
    return loads


def _closed_loop(channel: grpc.aio.Channel, seconds: float) -> Awaitable[list[float]]:
    sequence = np.random.default_rng(0).standard_normal((STEPS, WIDTH), dtype=np.float32)
    request = pb.EncodeRequest(sequences=[tensors.encode(sequence)], outputs=[pb.OUTPUT_FINAL])
    data = request.SerializeToString()
    # Bytes to bytes: the less the load generator does, the more of the machine is the server's.
    encode: Any = channel.unary_unary(ENCODE)
    return closed_loop(lambda index: encode(data), CALLERS, seconds)


async def observe(
    load: ServerLoad, process: psutil.Process, running: Awaitable[list[float]]
) -> None:
    before, started_at = sum(process.cpu_times()[:2]), time.perf_counter()
    measured = await running
    load.rates.append(len(measured) / (time.perf_counter() - started_at))
    load.cpu_seconds += sum(process.cpu_times()[:2]) - before
    load.seconds += measured


def _report(loads: dict[str, ServerLoad], check: bool) -> int:
    bare = loads[BARE]
    print(
        f"{CALLERS} callers in a closed loop, {STEPS} steps of {WIDTH} each, final outputs only;\n"
        f"medians of {len(bare.rates)} rounds, also of their own ratios to the bare server"
    )
    columns = ("req/s", "of bare", "p50 ms", "p99 ms", "CPU us/req", "of bare")
    print(" " * 14 + "".join(f"{column:>12}" for column in columns))
    for name, load in loads.items():
        row = f"{name:14}{load.rate:12.0f}{load.share_of(bare):12.1%}"
        row += f"{load.percentile(0.5):12.1f}{load.percentile(0.99):12.1f}"
        print(f"{row}{1e6 * load.cpu:12.0f}{load.cpu / bare.cpu:12.1%}")
    cost = 1 - loads[SHIPPED].share_of(bare)
    if check and cost > ALLOWED_COST:
        print(f"FAIL: {SHIPPED} costs {cost:.1%} of the throughput, not at most {ALLOWED_COST:.0%}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
