"""A gRPC server without a method, in a process of its own: whatever is called, it answers as soon
and as cheaply as grpcio can. What refusing costs at the least.

    python -m benchmarks.faults.bare

Prints its port, and serves until it is ended.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import grpc


@contextmanager
def bare_server() -> Iterator[str]:
    """Run it. Its address."""
    command = [sys.executable, "-m", "benchmarks.faults.bare"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


async def main() -> None:
    server = grpc.aio.server()
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
