"""Throughput of a model served from a GPU, and where the time of a lone request goes.

    python -m benchmarks.gpu.serving [--device cpu]

The server runs in a process of its own, callers in several, and the engine alone in this one, all
on the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import numpy as np
import torch

from benchmarks.serving import HIDDEN, LAYERS, WIDTH, feed
from benchmarks.tables import markdown, number
from benchmarks.workload import lengths
from bilstm_client import Client
from bilstm_server.engine.engine import Engine
from bilstm_server.engine.sequences import SequenceInput
from bilstm_server.model import PlainConfig, SequenceEncoder, save_model
from bilstm_server.testing import ServerProcess, server_process

REQUEST_SEQUENCES = 32
BATCH_SEQUENCES = 256  # of the engine alone: as many as the server computes together
OUTPUTS = ("states", "final")
CALLERS = 4  # of each process
START_SECONDS = 3.0  # for the processes to start, and to call without being measured
PROFILED = 50  # requests
TARGET = 10_000  # sequences a second, with their states

WHOLE = "whole, as the client sees it"
WIRE = "wire: client, network, server, until it is queued and from its result on"
QUEUE = "queue, staging included"
COMPUTE = "compute: launches, kernels, the result's copy"
COPY_IN, KERNELS, COPY_OUT = (
    "on the device: copy in",
    "on the device: kernels",
    "on the device: copy out",
)

Array = np.ndarray


@dataclass(slots=True)
class Load:
    """What the callers of one output had."""

    rates: list[float] = field(default_factory=list)  # sequences a second, of each round
    seconds: list[float] = field(default_factory=list)  # of each request

    def percentile(self, share: float) -> float:
        """Milliseconds"""
        return 1e3 * float(np.quantile(self.seconds, share))


@dataclass(slots=True)
class Results:
    about: str
    engine: list[float] = field(default_factory=list)  # sequences a second, of each round
    loads: dict[str, Load] = field(default_factory=dict)
    lone: dict[str, float] = field(default_factory=dict)  # medians of a lone request's parts, ms


# -- throughput ------------------------------------------------------------------------------------


def call(target: str, output: str, processes: int, seconds: float, load: Load) -> None:
    """One round of callers in so many processes."""
    command = [sys.executable, "-m", "benchmarks.callers", target, f"--width={WIDTH}"]
    command += [f"--sequences={REQUEST_SEQUENCES}", f"--output={output}", f"--callers={CALLERS}"]
    command += [f"--start-at={time.time() + START_SECONDS}", f"--seconds={seconds}"]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    rate = 0.0
    for process in running:
        printed, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"callers ended with {process.returncode}")
        measured = json.loads(printed)
        rate += REQUEST_SEQUENCES * len(measured["requests"]) / measured["elapsed"]
        load.seconds += measured["requests"]
    load.rates.append(rate)


# -- a lone request --------------------------------------------------------------------------------


def lone_requests(
    server: ServerProcess, sequences: Sequence[Array], seconds: float
) -> dict[str, float]:
    """Median milliseconds of one request after the other, to a server that has no others."""
    parts: dict[str, list[float]] = {part: [] for part in (WHOLE, WIRE, QUEUE, COMPUTE)}
    with Client(server.target) as client:
        client.encode(sequences[0])
        give_up_at = time.perf_counter() + seconds
        for sequence in cycle(sequences):
            started_at = time.perf_counter()
            if started_at > give_up_at:
                break
            timing = client.encode(sequence).timing
            whole = time.perf_counter() - started_at
            parts[WHOLE].append(whole)
            parts[WIRE].append(whole - timing.queue_seconds - timing.compute_seconds)
            parts[QUEUE].append(timing.queue_seconds)
            parts[COMPUTE].append(timing.compute_seconds)
    return {part: 1e3 * statistics.median(own) for part, own in parts.items()}


def profiled(engine: Engine, inputs: Sequence[SequenceInput]) -> dict[str, float]:
    """Mean milliseconds of what the device does for one request after the other."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for sequence in inputs[:PROFILED]:
            engine.run([sequence])
    spans = (
        (event.name, event.time_range.elapsed_us())
        for event in profile.events() or ()
        if event.device_type.name == "CUDA"
    )
    return device_parts(spans, len(inputs[:PROFILED]))


def device_parts(spans: Iterable[tuple[str, float]], requests: int) -> dict[str, float]:
    """Milliseconds of a request, of what a profiler saw on the device: names and microseconds.
    Empty if it saw nothing.
    """
    parts = {COPY_IN: 0.0, KERNELS: 0.0, COPY_OUT: 0.0}
    for name, microseconds in spans:
        copies = {"Memcpy HtoD": COPY_IN, "Memcpy DtoH": COPY_OUT}
        parts[copies.get(name[:11], KERNELS)] += microseconds / 1e3 / requests
    return parts if any(parts.values()) else {}


# -- the run ---------------------------------------------------------------------------------------


def measure(chosen: argparse.Namespace) -> Results:
    rng = np.random.default_rng(0)
    sequences = [
        rng.standard_normal((steps, WIDTH), dtype=np.float32) for steps in lengths(rng, 512)
    ]
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        config = PlainConfig(input_size=WIDTH, hidden_size=HIDDEN, num_layers=LAYERS).graph()
        save_model(SequenceEncoder(config), Path(folder))
        # First the engine: what Triton compiles for it, the server finds in the cache.
        engine = Engine.load(Path(folder), chosen.device, chosen.dtype, "auto")
        engine.warm_up()
        results = Results(_about(engine, chosen))
        options = (
            f"--model=bench={folder}",
            f"--device={chosen.device}",
            f"--dtype={chosen.dtype}",
        )
        with server_process(*options) as server:
            results.lone = lone_requests(server, sequences, chosen.seconds)
            if engine.device.type == "cuda":
                inputs = [SequenceInput((own,), frozenset({"states"})) for own in sequences]
                results.lone |= profiled(engine, inputs)
            for _ in range(chosen.rounds):
                results.engine.append(feed(engine, sequences, BATCH_SEQUENCES, chosen.seconds))
                for output in OUTPUTS:
                    load = results.loads.setdefault(output, Load())
                    call(server.target, output, chosen.processes, chosen.seconds, load)
    return results


def _about(engine: Engine, chosen: argparse.Namespace) -> str:
    device = torch.cuda.get_device_name() if engine.device.type == "cuda" else "CPU"
    return (
        f"width {WIDTH}, hidden {HIDDEN}, {LAYERS} layers, {engine.dtype}, the {engine.kernel} "
        f"kernel on {device}; lengths log-normal, mean 29; requests of {REQUEST_SEQUENCES} "
        f"sequences, float32 on the wire, from {chosen.processes} processes with {CALLERS} callers "
        f"each, on the server's own machine; medians of {chosen.rounds} rounds."
    )


def report(results: Results) -> Iterator[str]:
    """Lines of Markdown."""
    yield results.about + "\n"
    engine = statistics.median(results.engine) if results.engine else None
    rows = [[f"engine alone, batches of {BATCH_SEQUENCES}", number(engine), "", ""]]
    for output, load in results.loads.items():
        rate = number(statistics.median(load.rates))
        percentiles = [number(load.percentile(share)) for share in (0.5, 0.99)]
        rows.append([f"`encode_batch` of {REQUEST_SEQUENCES}, {output}", rate, *percentiles])
    yield from markdown(("load", "sequences/s", "p50 ms", "p99 ms"), rows, words=1)
    yield ""
    parts = ([part, number(milliseconds)] for part, milliseconds in results.lone.items())
    yield from markdown(("a lone request", "ms"), parts, words=1)


def missed(results: Results) -> list[str]:
    """The target, if it is missed."""
    load = results.loads.get("states")
    if load is None:
        return [f"{TARGET} sequences a second are required; not measured"]
    rate = statistics.median(load.rates)
    return [] if rate >= TARGET else [f"{rate:.0f} sequences a second, required {TARGET}"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load in each round")
    parser.add_argument("--rounds", type=int, default=3)
    cores = os.cpu_count() or 1
    parser.add_argument(
        "--processes", type=int, default=min(4, max(1, cores // 4)), help="callers'"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 where the target is missed")
    return parser.parse_args()


def main() -> int:
    chosen = arguments()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        print("no GPU: torch finds no GPU of NVIDIA's that it can use", file=sys.stderr)
        return 2
    results = measure(chosen)
    print("\n".join(report(results)))
    misses = missed(results) if chosen.check else []
    for miss in misses:
        print(f"\n- {miss}")
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
