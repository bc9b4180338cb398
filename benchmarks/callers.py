"""Callers of a server, in a process of their own: `encode_batch` in a closed loop.

    python -m benchmarks.callers HOST:PORT --width 256 --sequences 32 --output states \\
        --callers 4 --start-at 1800000000 --seconds 3

Several of these can load a server that is faster than one of them: they call until `--start-at`
(seconds since 1970) without being measured, and then are. Prints the seconds of each request, and
of them all, as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Awaitable

import numpy as np

from benchmarks.load import closed_loop
from benchmarks.workload import lengths
from bilstm_client import AsyncClient

DRAWN = 512  # sequences


async def measure(chosen: argparse.Namespace) -> None:
    rng = np.random.default_rng(os.getpid())
    drawn = [
        rng.standard_normal((steps, chosen.width), dtype=np.float32)
        for steps in lengths(rng, DRAWN)
    ]
    batches = [drawn[i : i + chosen.sequences] for i in range(0, DRAWN, chosen.sequences)]
    async with AsyncClient(chosen.target) as client:

        def call(index: int) -> Awaitable[object]:
            return client.encode_batch(batches[index % len(batches)], outputs=[chosen.output])

        ahead = chosen.start_at - time.time()
        if ahead <= 0:
            raise SystemExit("too late to begin with the others; give them more time")
        await closed_loop(call, chosen.callers, ahead)
        started_at = time.perf_counter()
        requests = await closed_loop(call, chosen.callers, chosen.seconds)
        elapsed = time.perf_counter() - started_at
    print(json.dumps({"elapsed": elapsed, "requests": requests}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("target", metavar="HOST:PORT")
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--sequences", type=int, required=True, help="of a request")
    parser.add_argument("--output", choices=("states", "final"), required=True)
    parser.add_argument("--callers", type=int, required=True)
    parser.add_argument("--start-at", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
