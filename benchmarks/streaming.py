"""Long sequences over one stream: their chunks, the memory they take, and who waits for them.

    python -m benchmarks.streaming

The client runs in this process, the servers in ones of their own, all on the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from benchmarks.load import closed_loop
from benchmarks.memory import MB, peak
from benchmarks.workload import lengths
from bilstm_client import AsyncClient, Client
from bilstm_client._streams import sending
from bilstm_server.model import PlainConfig, SequenceEncoder, save_model
from bilstm_server.testing import ServerProcess, server_process

WIDTH = 256
CHUNK_KIB = (16, 64, 256, 512, 1024, 2048, 4096, 16384)
CHUNKED_STEPS = 100_000
STEPS = 1_000_000
ALLOWED_SERVER_MB, ALLOWED_CLIENT_MB = 256, 64  # beyond the sequence and its result; in all
BUSY_STEPS = 100_000
ALLOWED_LATENCY = 3.0  # times that of the idle server


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="of short requests in each round"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="of the long sequence")
    parser.add_argument("--check", action="store_true", help="fail if short of what is required")
    parser.add_argument("--only", choices=("chunks", "memory", "latency"))
    arguments = parser.parse_args()
    missed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        if arguments.only in (None, "chunks"):
            _chunks(Path(folder), arguments.rounds)
        if arguments.only in (None, "memory"):
            missed += _memory(Path(folder), arguments.steps)
        if arguments.only in (None, "latency"):
            missed += _latency(Path(folder), arguments.rounds, arguments.seconds)
    for miss in missed:
        print(f"FAIL: {miss}")
    return 1 if arguments.check and missed else 0


def _model(folder: Path, hidden: int, layers: int) -> str:
    """The flag that serves a model of these sizes."""
    path = folder / f"h{hidden}-{layers}"
    torch.manual_seed(0)
    config = PlainConfig(input_size=WIDTH, hidden_size=hidden, num_layers=layers).graph()
    save_model(SequenceEncoder(config), path)
    return f"--model=bench={path}"


# -- chunks --------------------------------------------------------------------------------------


def _chunks(folder: Path, rounds: int) -> None:
    """Throughput both ways, by the size of chunks, without computing."""
    model = _model(folder, WIDTH // 2, 1)
    x = np.zeros((CHUNKED_STEPS, WIDTH), np.float32)
    rates: dict[int, list[float]] = {size: [] for size in CHUNK_KIB}
    for _ in range(rounds):
        for size in CHUNK_KIB:
            rates[size].append(_rate(model, size * 1024, x))
    print(f"\nchunks: {x.nbytes / MB:.0f} MB to the server and as many back, without computing;")
    print(f"medians of {rounds} rounds")
    print(f"{'KiB':>8}{'MB/s':>10}")
    for size, measured in rates.items():
        print(f"{size:8}{statistics.median(measured):10.0f}")


def _rate(model: str, size: int, x: np.ndarray) -> float:
    """MB a second, both ways together."""
    with (
        mock.patch.dict(os.environ, BENCH_CHUNK_BYTES=str(size)),
        mock.patch.object(sending, "CHUNK_BYTES", size),
        server_process(model, module="benchmarks.wire_server") as server,
        Client(server.target) as client,
    ):
        list(client.encode_stream([x]))
        started_at = time.perf_counter()
        done = sum(1 for _ in client.encode_stream([x] * 3))
        return done * 2 * x.nbytes / MB / (time.perf_counter() - started_at)


# -- memory --------------------------------------------------------------------------------------


def _memory(folder: Path, steps: int) -> list[str]:
    """One long sequence, from a memory map to a memory map."""
    source, target = folder / "sequence.npy", folder / "states.npy"
    _write(source, steps)
    with (
        server_process(_model(folder, WIDTH // 2, 1)) as server,
        Client(server.target) as client,
    ):
        client.encode(np.zeros((100, WIDTH)))
        x = np.load(source, mmap_mode="r")
        started_at = time.perf_counter()
        with peak(server.pid) as server_peak, peak(os.getpid()) as client_peak:
            (encoding,) = client.encode_stream([x], save_states=lambda _: target)
        seconds = time.perf_counter() - started_at
        last = x[-1000:]
        exact = np.array_equal(  # the last steps' backward states are those of the last steps alone
            client.encode(np.array(last)).states[:, WIDTH // 2 :],
            encoding.states[-1000:, WIDTH // 2 :],
        )
        size = (x.nbytes + encoding.states.nbytes) / MB
    beyond = server_peak[0] - size
    print(f"\nmemory: {steps:,} x {WIDTH}, {x.nbytes / MB:.0f} MB, in {seconds:.1f} s")
    print(f"server: {server_peak[0]:.0f} MB more, {beyond:.0f} beyond the sequence and its result")
    print(f"client: {client_peak[0]:.0f} MB more")
    print(f"the last steps' backward states are those of the last steps alone: {exact}")
    missed = [] if exact else ["wrong states"]
    if beyond > ALLOWED_SERVER_MB:
        missed.append(f"server: {beyond:.0f} MB beyond, not {ALLOWED_SERVER_MB}")
    if client_peak[0] > ALLOWED_CLIENT_MB:
        missed.append(f"client: {client_peak[0]:.0f} MB more, not {ALLOWED_CLIENT_MB}")
    return missed


def _write(path: Path, steps: int) -> None:
    rng = np.random.default_rng(0)
    x = np.lib.format.open_memmap(path, "w+", np.float32, (steps, WIDTH))
    for start in range(0, steps, 10_000):
        part = x[start : start + 10_000]
        part[:] = rng.standard_normal(part.shape, np.float32)


# -- latency -------------------------------------------------------------------------------------


def _latency(folder: Path, rounds: int, seconds: float) -> list[str]:
    """Of short requests, one at a time, without and with a long sequence being computed."""
    missed = []
    for hidden, layers in ((64, 1), (256, 2)):
        with server_process(_model(folder, hidden, layers)) as server:
            idle, busy, ratios = asyncio.run(_both(server, rounds, seconds))
        ratio = statistics.median(ratios)
        print(
            f"\nlatency: hidden {hidden}, {layers} layers; short requests, one after the other,\n"
            f"idle, and with a sequence of {BUSY_STEPS:,} steps; medians of {rounds} rounds"
        )
        print(f"p50 {idle[0]:.1f} -> {busy[0]:.1f} ms; p99 {idle[1]:.1f} -> {busy[1]:.1f} ms")
        print(f"p99 with it: {ratio:.2f} times that without, the median of the rounds' ratios")
        if ratio > ALLOWED_LATENCY:
            missed.append(f"p99 {ratio:.2f} times that of the idle server, not {ALLOWED_LATENCY}")
    return missed


Percentiles = list[float]  # p50 and p99, in milliseconds


async def _both(
    server: ServerProcess, rounds: int, seconds: float
) -> tuple[Percentiles, Percentiles, list[float]]:
    rng = np.random.default_rng(0)
    short = [rng.standard_normal((n, WIDTH), np.float32) for n in lengths(rng, 64)]
    idle, busy = [], []
    async with AsyncClient(server.target) as client:

        async def measure() -> Percentiles:
            taken = await closed_loop(lambda i: client.encode(short[i % 64]), 1, seconds)
            return [1e3 * float(q) for q in np.quantile(taken, (0.5, 0.99))]

        await measure()
        for _ in range(rounds):
            idle.append(await measure())
            load = multiprocessing.get_context("spawn").Process(
                target=_keep_busy, args=(server.target,), daemon=True
            )
            load.start()
            await _sliced(server)
            busy.append(await measure())
            load.terminate()
            await asyncio.to_thread(load.join)
    ratios = [b[1] / i[1] for i, b in zip(idle, busy, strict=True)]
    return (
        [statistics.median(values) for values in zip(*idle, strict=True)],
        [statistics.median(values) for values in zip(*busy, strict=True)],
        ratios,
    )


def _keep_busy(target: str) -> None:
    """In a process of its own: the long sequence, again and again."""
    long = np.random.default_rng(0).standard_normal((BUSY_STEPS, WIDTH), np.float32)
    with Client(target) as client:
        while True:
            list(client.encode_stream([long], outputs=["final"]))


async def _sliced(server: ServerProcess) -> None:
    """Return when slices are being computed."""
    name = 'bilstm_slice_compute_seconds_count{model="bench"}'
    before = (await asyncio.to_thread(server.metrics))[name]
    while (await asyncio.to_thread(server.metrics))[name] == before:  # noqa: ASYNC110 (a process)
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
