"""The operator's speed beside nn.LSTM's, in one run: ours, nn.LSTM packed, nn.LSTM padded.

Owns the measurement of one forward pass without a server. All three see the same sequences
and weights; their repetitions are interleaved, so that a busy machine slows all of them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_sequence

from benchmarks.workload import lengths as draw_lengths
from bilstm_server.model import BiLSTM, RaggedBatch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LAYERS = 2
CHECKED_SEQUENCES = (8, 32)
MAX_RATIO = 1.5
MATMUL_SIZE = 1024
WARM_UPS = 2
MIN_REPEATS = 3
PATIENCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Row:
    """One batch and its median times."""

    sequences: int
    tokens: int
    ours: float  # ms
    packed: float  # ms
    padded: float  # ms
    gflop: float  # on real tokens

    @property
    def ratio(self) -> float:
        return self.ours / self.packed

    def __str__(self) -> str:
        return (
            f"{self.sequences:>9} {self.tokens:>7} {self.ours:>9.2f} {self.packed:>10.2f} "
            f"{self.padded:>10.2f} {self.ratio:>12.2f} {self.ours / self.padded:>12.2f} "
            f"{self.gflop / self.ours * 1e3:>13.1f} {self.gflop / self.packed * 1e3:>15.1f}"
        )


HEADER = (
    f"{'sequences':>9} {'tokens':>7} {'ours ms':>9} {'packed ms':>10} {'padded ms':>10} "
    f"{'ours/packed':>12} {'ours/padded':>12} {'ours GFLOP/s':>13} {'packed GFLOP/s':>15}"
)


def medians(runs: list[Callable[[], object]], repeats: int) -> list[float]:
    """Each run's median milliseconds; the repetitions take turns.

    Fewer repetitions, but at least MIN_REPEATS, if they take longer than PATIENCE_SECONDS.
    """
    times: list[list[float]] = [[] for _ in runs]
    give_up_at = time.perf_counter() + PATIENCE_SECONDS
    for repeat in range(WARM_UPS + repeats):
        if repeat >= WARM_UPS + MIN_REPEATS and time.perf_counter() > give_up_at:
            break
        for run, own_times in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            if repeat >= WARM_UPS:
                own_times.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(own_times) for own_times in times]


def flops_per_token(hidden: int) -> int:
    """Of the products with W_ih [4H, D] and W_hh [4H, H], two operations per weight."""
    widths = [hidden] + [2 * hidden] * (LAYERS - 1)
    return sum(2 * 2 * 4 * hidden * (width + hidden) for width in widths)


def measure(sequences: int, hidden: int, dtype: torch.dtype, repeats: int) -> Row:
    torch.manual_seed(0)
    lstm = nn.LSTM(hidden, hidden, LAYERS, bidirectional=True, dtype=dtype).eval()
    ours = BiLSTM.from_torch(lstm).freeze()
    lengths = draw_lengths(np.random.default_rng(sequences), sequences)
    tokens = int(lengths.sum())
    x = torch.randn(tokens, hidden, dtype=dtype)
    split = list(torch.split(x, lengths.tolist()))
    packed = pack_sequence(split, enforce_sorted=False)
    padded = pad_sequence(split)  # [T, B, D]

    def run_ours() -> object:
        return ours.forward_ragged(x, RaggedBatch(lengths))

    runs = [run_ours, lambda: lstm(packed), lambda: lstm(padded)]
    ours_ms, packed_ms, padded_ms = medians(runs, repeats)
    gflop = tokens * flops_per_token(hidden) / 1e9
    return Row(sequences, tokens, ours_ms, packed_ms, padded_ms, gflop)


def matmul_rate(dtype: torch.dtype, repeats: int) -> float:
    """torch's own GFLOP/s on a square product."""
    a, b = torch.randn(2, MATMUL_SIZE, MATMUL_SIZE).to(dtype)
    (milliseconds,) = medians([lambda: a @ b], repeats)
    return 2 * MATMUL_SIZE**3 / milliseconds / 1e6


def report(dtype_name: str, counts: list[int], hidden: int, repeats: int) -> list[Row]:
    dtype = DTYPES[dtype_name]
    rate = matmul_rate(dtype, repeats)
    print(f"\n{dtype_name}: torch's {MATMUL_SIZE}^3 matmul {rate:.0f} GFLOP/s")
    print(HEADER)
    rows = []
    for count in counts:
        rows.append(measure(count, hidden, dtype, repeats))
        print(rows[-1], flush=True)
    return rows


def too_slow(rows: list[Row]) -> list[str]:
    """What is wrong with float32 rows, a line each."""
    return [
        f"float32, {row.sequences} sequences: ours takes {row.ratio:.2f} times as long as "
        f"nn.LSTM packed, more than {MAX_RATIO}"
        for row in rows
        if row.sequences in CHECKED_SEQUENCES and row.ratio > MAX_RATIO
    ]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--hidden", type=int, default=256, help="hidden size and input width")
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=list(DTYPES))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--check",
        action="store_true",
        help=f"exit 1 if float32 ours/packed at 8 or 32 sequences exceeds {MAX_RATIO}",
    )
    chosen = parser.parse_args()
    if chosen.check and not (
        "float32" in chosen.dtype and set(CHECKED_SEQUENCES) <= set(chosen.sequences)
    ):
        parser.error("--check needs float32 and 8 and 32 among --sequences")
    return chosen


def main() -> int:
    chosen = arguments()
    print(
        f"BiLSTM, width {chosen.hidden}, hidden {chosen.hidden}, {LAYERS} layers, 2 directions; "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; "
        f"medians of up to {chosen.repeats}, ours frozen for the reference kernel.\n"
        "GFLOP/s count real tokens. Padded nn.LSTM is for scale only: on ragged input its "
        "reverse states are wrong, because they start in the padding."
    )
    with torch.inference_mode():
        tables = {
            name: report(name, chosen.sequences, chosen.hidden, chosen.repeats)
            for name in chosen.dtype
        }
    problems = too_slow(tables["float32"]) if chosen.check else []
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
