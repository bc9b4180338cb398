"""Throughput and latency of a served model, against its engine fed directly, in one run.

    python -m benchmarks.serving

The load generator and the engine alone run in this process, the servers in ones of their own, all
on the same machine. One server has its default settings; the other waits until its batches are as
full as the engine's.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.load import Load, closed_loop, open_loop
from benchmarks.workload import lengths
from bilstm_client import AsyncClient
from bilstm_server.engine.engine import Engine
from bilstm_server.engine.sequences import SequenceInput
from bilstm_server.model import PlainConfig, SequenceEncoder, save_model
from bilstm_server.testing import ServerProcess, server_process

WIDTH = 256
HIDDEN = 256
LAYERS = 2
CALLERS = (1, 16, 64)
# Of the server that waits: a batch closes when every caller is in it. The delay is what it would
# wait for a caller that does not come back.
FULL_BATCHES = (f"--max-batch-sequences={CALLERS[-1]}", "--max-queue-delay=0.2")
OPEN_LOOP_SHARES = (0.5, 0.8)  # of the throughput of the closed loop with the most callers
STREAM = f"one stream, {CALLERS[-1]} in flight"
SMALL_CALLS = f"shipped model, closed loop, {CALLERS[-1]}"
SMALL_STREAM = f"shipped model, {STREAM}"
SMALL_WIDTH = 12
ENGINE = f"engine, batches of {CALLERS[-1]}"
CLOSED = {callers: f"closed loop, {callers}" for callers in CALLERS}
FULL = f"{CLOSED[CALLERS[-1]]}, full batches"
OPEN = {share: f"open loop, {share:.0%}" for share in OPEN_LOOP_SHARES}
REQUIRED_SHARE = 0.7  # of the engine's own throughput, with the most callers
REQUIRED_OF_CALLS = 1.3  # times the throughput of the most callers, over one stream

Sequence = NDArray[np.float32]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kernel", default="auto", help="of the engine and the servers")
    parser.add_argument("--check", action="store_true", help="fail if short of what is required")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    sequences = [
        rng.standard_normal((steps, WIDTH), dtype=np.float32) for steps in lengths(rng, 512)
    ]
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        config = PlainConfig(input_size=WIDTH, hidden_size=HIDDEN, num_layers=LAYERS).graph()
        save_model(SequenceEncoder(config), Path(folder))
        engine = Engine.load(Path(folder), "cpu", "float32", arguments.kernel)
        options = (f"--model=bench={folder}", f"--kernel={arguments.kernel}")
        with (
            server_process(*options) as server,
            server_process(*options, *FULL_BATCHES) as full_server,
            server_process() as small_server,
        ):
            loads = asyncio.run(
                _measure(
                    server,
                    full_server,
                    engine,
                    sequences,
                    arguments.seconds,
                    arguments.rounds,
                )
            )
            loads |= asyncio.run(
                _measure_small(small_server, sequences, arguments.seconds, arguments.rounds)
            )
    return _report(loads, np.mean([len(s) for s in sequences]).item(), arguments.check)


async def _measure(
    server: ServerProcess,
    full_server: ServerProcess,
    engine: Engine,
    sequences: list[Sequence],
    seconds: float,
    rounds: int,
) -> dict[str, Load]:
    """Rounds of every load in turn, so that the machine's moods fall on all of them."""
    loads = {name: Load() for name in (ENGINE, STREAM, *CLOSED.values(), FULL, *OPEN.values())}
    async with AsyncClient(server.target) as client, AsyncClient(full_server.target) as patient:

        def call(index: int) -> Awaitable[object]:
            return client.encode(sequences[index % len(sequences)])

        def patient_call(index: int) -> Awaitable[object]:
            return patient.encode(sequences[index % len(sequences)])

        for warmed in (call, patient_call):
            await closed_loop(warmed, CALLERS[-1], 1.0)
        most = loads[CLOSED[CALLERS[-1]]]
        for _ in range(rounds):
            # The engine alone between the two that are held against it.
            running = closed_loop(call, CALLERS[-1], seconds)
            await _observe(most, server, running)
            loads[STREAM].rates.append(await _stream(client, sequences, CALLERS[-1], seconds))
            loads[ENGINE].rates.append(feed(engine, sequences, CALLERS[-1], seconds))
            running = closed_loop(patient_call, CALLERS[-1], seconds)
            await _observe(loads[FULL], full_server, running)
            for callers in CALLERS[:-1]:
                running = closed_loop(call, callers, seconds)
                await _observe(loads[CLOSED[callers]], server, running)
            for share, name in OPEN.items():
                running = open_loop(call, share * most.rates[-1], seconds)
                await _observe(loads[name], server, running)
    return loads


async def _measure_small(
    server: ServerProcess, sequences: list[Sequence], seconds: float, rounds: int
) -> dict[str, Load]:
    """The same of the model that ships, of which computing takes little."""
    narrow = [np.ascontiguousarray(sequence[:, :SMALL_WIDTH]) for sequence in sequences]
    loads = {name: Load() for name in (SMALL_STREAM, SMALL_CALLS)}
    async with AsyncClient(server.target) as client:

        def call(index: int) -> Awaitable[object]:
            return client.encode(narrow[index % len(narrow)])

        await closed_loop(call, CALLERS[-1], 1.0)
        for _ in range(rounds):
            running = closed_loop(call, CALLERS[-1], seconds)
            await _observe(loads[SMALL_CALLS], server, running, "japanese_vowels")
            loads[SMALL_STREAM].rates.append(await _stream(client, narrow, CALLERS[-1], seconds))
    return loads


def feed(engine: Engine, sequences: list[Sequence], size: int, seconds: float) -> float:
    """Sequences per second of the engine alone, with full batches."""
    inputs = [SequenceInput((s,), frozenset({"states"})) for s in sequences]
    done = 0
    started_at = time.perf_counter()
    while time.perf_counter() - started_at < seconds:
        start = done % len(inputs)
        engine.run(inputs[start : start + size])
        done += size
    return done / (time.perf_counter() - started_at)


async def _stream(
    client: AsyncClient, sequences: list[Sequence], in_flight: int, seconds: float
) -> float:
    """Sequences per second over one stream, in order."""
    started_at = time.perf_counter()

    def source() -> Iterator[Sequence]:
        for sequence in cycle(sequences):
            if time.perf_counter() - started_at > seconds:
                return
            yield sequence

    done = 0
    async for _ in client.encode_stream(source(), in_flight=in_flight):
        done += 1
    return done / (time.perf_counter() - started_at)


async def _observe(
    load: Load, server: ServerProcess, running: Awaitable[list[float]], model: str = "bench"
) -> None:
    before = await asyncio.to_thread(server.metrics)
    started_at = time.perf_counter()
    measured = await running
    elapsed = time.perf_counter() - started_at
    after = await asyncio.to_thread(server.metrics)
    count, total = (
        after[name] - before[name]
        for name in (
            f'bilstm_batch_sequences_count{{model="{model}"}}',
            f'bilstm_batch_sequences_sum{{model="{model}"}}',
        )
    )
    load.rates.append(len(measured) / elapsed)
    load.seconds += measured
    load.batches.append(total / count)


def _report(loads: dict[str, Load], mean_tokens: float, check: bool) -> int:
    print(
        f"width {WIDTH}, hidden {HIDDEN}, {LAYERS} layers, float32; lengths log-normal, "
        f"mean {mean_tokens:.0f}; medians of {len(loads[ENGINE].rates)} rounds,\n"
        "also of their own ratios to the engine;\n"
        f"full batches: {' '.join(FULL_BATCHES)}, otherwise the defaults;\n"
        f"closed loop: so many callers; open loop: Poisson, at a share of the closed loop's rate"
    )
    columns = ("seq/s", "tokens/s", "of engine", "p50 ms", "p99 ms", "batch")
    print(" " * 40 + "".join(f"{column:>10}" for column in columns))
    for name, load in loads.items():
        row = f"{name:40}{load.rate:10.0f}{load.rate * mean_tokens:10.0f}"
        small = name in (SMALL_CALLS, SMALL_STREAM)
        row += " " * 10 if small else f"{load.share_of(loads[ENGINE]):10.0%}"
        if load.seconds:
            row += f"{load.percentile(0.5):10.1f}{load.percentile(0.99):10.1f}"
            row += f"{statistics.median(load.batches):10.1f}"
        print(row)
    missed = []
    for stream, calls in ((STREAM, CLOSED[CALLERS[-1]]), (SMALL_STREAM, SMALL_CALLS)):
        ratio = loads[stream].share_of(loads[calls])
        print(f"{stream}: {ratio:.2f} times {calls}, the median of the rounds' ratios")
        if ratio < REQUIRED_OF_CALLS:
            missed.append(f"{stream}: {ratio:.2f} times {calls}, not {REQUIRED_OF_CALLS}")
    share = loads[FULL].share_of(loads[ENGINE])
    if share < REQUIRED_SHARE:
        missed.append(f"{FULL}: {share:.0%} of the engine's throughput, not {REQUIRED_SHARE:.0%}")
    for miss in missed if check else ():
        print(f"FAIL: {miss}")
    return 1 if check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
