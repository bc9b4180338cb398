"""The best paths of a CRF beside the linear layer that gives their emissions, in one run.

    python -m benchmarks.viterbi

Both are the kernel's, on the same ragged batch, and take turns in blocks.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.competitors import Run
from benchmarks.operator import medians
from benchmarks.tables import markdown, number
from benchmarks.workload import MEAN_LENGTH
from benchmarks.workload import lengths as draw_lengths
from bilstm_server.model.kernels import Paths, RaggedBatch, Viterbi, choose_kernel

CPU = torch.device("cpu")
SEQUENCES = 64
WIDTH = 512  # what the linear layer reads: two directions of 256
MEAN_LENGTHS = (MEAN_LENGTH, 200)
TAGS = (2, 5, 20, 50, 200)
MOST = 5.0  # times the linear layer


class Row(NamedTuple):
    """Median milliseconds of one batch."""

    mean: int
    tags: int
    steps: int
    linear: float
    viterbi: float

    @property
    def ratio(self) -> float:
        return self.viterbi / self.linear

    @property
    def cells(self) -> list[str]:
        counts = [f"{count:,}" for count in (self.mean, self.tags, self.steps)]
        return [*counts, *map(number, (self.linear, self.viterbi, self.ratio))]


def find(viterbi: Viterbi, emissions: Tensor, batch: RaggedBatch) -> Paths:
    return viterbi.trace(*viterbi.advance(emissions, batch), batch)


def measure(kernel_name: str, dtype: torch.dtype, rounds: int) -> Iterator[Row]:
    kernel = choose_kernel(kernel_name, CPU).kernel
    for mean in MEAN_LENGTHS:
        batch = RaggedBatch(draw_lengths(np.random.default_rng(0), SEQUENCES, mean))
        for tags in TAGS:
            torch.manual_seed(0)
            shapes = ((tags, WIDTH), (tags,), (tags, tags), (tags,), (tags,))
            weight, bias, *chain = (torch.randn(shape).to(dtype) for shape in shapes)
            linear, viterbi = kernel.linear(weight, bias), kernel.viterbi(*chain)
            rows = torch.randn(batch.steps, WIDTH).to(dtype)
            emissions = linear(rows)
            runs: dict[str, Run] = {
                "linear": partial(linear, rows),
                "viterbi": partial(find, viterbi, emissions, batch),
            }
            times = medians(runs, rounds)
            yield Row(mean, tags, batch.steps, times["linear"], times["viterbi"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kernel", choices=["auto", "cpu", "reference"], default="auto")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--check", action="store_true", help=f"exit 1 beyond {MOST:.0f} times")
    chosen = parser.parse_args()
    with torch.inference_mode():
        rows = list(measure(chosen.kernel, getattr(torch, chosen.dtype), chosen.rounds))
    print(
        f"{SEQUENCES} ragged sequences, {chosen.dtype}, {torch.get_num_threads()} threads; "
        f"medians of {chosen.rounds} rounds.\n"
    )
    columns = ["mean length", "tags", "steps", f"linear {WIDTH} → tags, ms", "Viterbi, ms", "×"]  # noqa: RUF001
    print("\n".join(markdown(columns, [row.cells for row in rows])))
    missed = [row for row in rows if row.ratio > MOST]
    return 1 if chosen.check and missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
