"""The operator's speed beside that of others, in one run: nn.LSTM, ONNX Runtime, OpenVINO.

    python -m benchmarks.operator

Owns the measurement of one forward pass without a server. All see the same sequences and weights,
and take turns in blocks: within a block a system finds its weights in the caches and its own
threads awake, and a slow phase of the machine hits the blocks of all.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.competitors import (
    COMPETITORS,
    CPU,
    ONNX_RUNTIME,
    Case,
    Run,
    missing_packages,
    systems,
)
from benchmarks.operator_results import (
    LAYERS,
    MATMUL,
    MATMUL_SIZE,
    Results,
    Row,
    check,
    plot,
    tables,
)
from benchmarks.workload import lengths as draw_lengths
from bilstm_server.model.kernels import choose_kernel

INSTALL = "pip install -e '.[server,bench]'"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ROUNDS = 5
DISCARDED, DISCARDED_SECONDS = 2, 0.2  # of a block: so many repetitions, or fewer that take longer
TIMED, TIMED_SECONDS = 3, 0.5
SLOW_SECONDS = 2.0  # a repetition that needs no other to warm up
PATIENCE_SECONDS = 3.0  # of a system with a batch: it starts no further block
GIVE_UP_SECONDS = 20.0  # a repetition that is not reported, and not tried with a larger batch


def block(run: Run) -> list[float]:
    """Seconds of the timed repetitions, after the discarded ones."""
    discarded = list(_repeat(run, DISCARDED, DISCARDED_SECONDS))
    if discarded[0] > SLOW_SECONDS:
        return discarded
    return list(_repeat(run, TIMED, TIMED_SECONDS))


def _repeat(run: Run, times: int, seconds: float) -> Iterator[float]:
    begin = time.perf_counter()
    for _ in range(times):
        start = time.perf_counter()
        run()
        end = time.perf_counter()
        yield end - start
        if end - begin > seconds:
            return


def medians(runs: Mapping[str, Run], rounds: int) -> dict[str, float]:
    """Each one's median milliseconds over all timed repetitions."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    spent = dict.fromkeys(runs, 0.0)
    for _ in range(rounds):
        for name, run in runs.items():
            if spent[name] < PATIENCE_SECONDS:
                start = time.perf_counter()
                seconds[name] += block(run)
                spent[name] += time.perf_counter() - start
    return {name: 1e3 * statistics.median(own) for name, own in seconds.items()}


def measure(dtype: str, hidden: int, counts: list[int], rounds: int, notes: set[str]) -> list[Row]:
    """A row for each count of sequences, from the fewest on."""
    rows = []
    given_up: set[str] = set()
    square = torch.randn(2, MATMUL_SIZE, MATMUL_SIZE).to(DTYPES[dtype])
    for count in sorted(counts):
        torch.manual_seed(0)
        lstm = nn.LSTM(hidden, hidden, LAYERS, bidirectional=True, dtype=DTYPES[dtype]).eval()
        lengths = draw_lengths(np.random.default_rng(count), count)
        tokens = int(lengths.sum())
        found = systems(Case(lstm, lengths, torch.randn(tokens, hidden, dtype=DTYPES[dtype])))
        notes.update(system.note for system in found.values() if system.note)
        runs: dict[str, Run] = {name: system.run for name, system in found.items()}
        runs[MATMUL] = lambda: square[0] @ square[1]
        times = medians({name: runs[name] for name in runs if name not in given_up}, rounds)
        given_up.update(name for name in times if times[name] > 1e3 * GIVE_UP_SECONDS)
        kept = {name: times[name] for name in times if name not in given_up}
        rows.append(Row(dtype, hidden, count, tokens, kept))
        summary = ", ".join(f"{name} {own:.2f} ms" for name, own in kept.items() if name != MATMUL)
        print(f"{dtype}, hidden {hidden}, sequences {count}: {summary}", file=sys.stderr)
    return rows


def about(rounds: int, dtypes: list[str]) -> list[str]:
    chosen = choose_kernel("auto", CPU)
    lines = [
        f"BiLSTM, width = hidden, {LAYERS} layers, 2 directions. torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}; its "
        f"threads wait as in the server, GOMP_SPINCOUNT {os.environ['GOMP_SPINCOUNT']}.",
        "; ".join(filter(None, [f"Ours: the {chosen.name} kernel", chosen.fallback_reason])) + ".",
        f"Medians over {rounds} rounds of blocks of {DISCARDED} discarded and {TIMED} timed "
        f"repetitions, fewer of slow ones. GFLOP/s count real tokens; matmul: {MATMUL_SIZE}³, "
        "torch, same dtype.",
        "nn.LSTM padded is for scale only: on ragged input its backward states are wrong, because "
        "they start in the padding. The others' outputs are compared with nn.LSTM's.",
        "Inputs of all but ours are packed or padded before the clock starts. ONNX Runtime "
        "has all graph optimisations, and threads that do not spin; OpenVINO is compiled for each "
        "shape, for latency.",
        f"–: not measured. {ONNX_RUNTIME} has no bfloat16 LSTM on CPUs. "  # noqa: RUF001
        f"What takes longer than {GIVE_UP_SECONDS:.0f} s is left out.",
    ]
    if "bfloat16" in dtypes and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        lines.append(
            "This CPU has no bfloat16 instructions, and torch's products of it run unaided: how "
            "many times as fast ours is than they, or than nn.LSTM in bfloat16, says little."
        )
    if missing := missing_packages(COMPETITORS):
        lines.append(f"Not installed: {', '.join(missing)}; {INSTALL}.")
    return lines


def measure_all(chosen: argparse.Namespace) -> Results:
    notes: set[str] = set()
    with torch.inference_mode():
        rows = [
            row
            for dtype in chosen.dtype
            for hidden in chosen.hidden
            for row in measure(dtype, hidden, chosen.sequences, chosen.rounds, notes)
        ]
    return Results(about(chosen.rounds, chosen.dtype) + sorted(notes), rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 4, 8, 16, 32, 64, 128])
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 256, 512], help="and width")
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path, help="write the results there")
    parser.add_argument("--read", type=Path, help="what --json wrote, instead of measuring")
    parser.add_argument("--plot", type=Path, help="draw GFLOP/s there (.svg, .png, …)")
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    chosen = parser.parse_args()
    needed = {"matplotlib"} if chosen.plot else set()
    if chosen.check and not chosen.read:
        needed.update(COMPETITORS)
    if missing := missing_packages(needed):
        parser.error(f"not installed: {', '.join(missing)}; {INSTALL}")
    return chosen


def main() -> int:
    chosen = arguments()
    results = (
        Results.read(chosen.read).of(chosen.dtype, chosen.hidden)
        if chosen.read
        else measure_all(chosen)
    )
    print("\n".join([*results.about, *tables(results)]))
    if chosen.json:
        results.write(chosen.json)
    if chosen.plot:
        plot(results, chosen.plot)
    if not chosen.check:
        return 0
    checked, missed, unmeasured = check(results)
    print("", *missed, *unmeasured, f"{len(missed)} of {checked} targets missed", sep="\n")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
