"""Rows of the GPU benchmark as they could have been measured."""

from __future__ import annotations

from pathlib import Path

from benchmarks.competitors import OURS, PACKED, PADDED
from benchmarks.gpu.floor import H200
from benchmarks.gpu.results import Case, Row
from benchmarks.operator_results import LAYERS

ROOT = Path(__file__).parents[2]


def row(case: Case, ours: float, packed: float | None = None, longest: int = 100) -> Row:
    """`ours`, `packed`: microseconds of a step and layer."""
    device = {OURS: ours, PADDED: 4.0} | ({} if packed is None else {PACKED: packed})
    times = {name: own * longest * LAYERS for name, own in device.items()}
    steps = int(case.lengths().sum())
    return Row(case, steps, longest, 1e-3, case.floor(H200), times)
