"""What the operator benchmark on a GPU measures and found: its cases, rows and targets.

Owns all that can be made of the medians without a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from numpy.typing import NDArray

from benchmarks.competitors import OURS, PACKED, PADDED
from benchmarks.gpu.floor import DIRECTIONS, Rates, floor
from benchmarks.operator_results import LAYERS, Checked, operations_per_token
from benchmarks.tables import number
from benchmarks.workload import lengths
from bilstm_server.model.kernels.gpu.plans import Shape

GRAPH = "nn.LSTM padded, graph"
PACKED_GRAPH = "nn.LSTM packed, graph"
OTHERS = (PACKED, PADDED, GRAPH, PACKED_GRAPH)
SYSTEMS = (OURS, *OTHERS)
ARITHMETICS = ("bfloat16", "tf32", "float32")
HIDDEN = (64, 128, 256, 512, 1024)
SEQUENCES = (1, 8, 32, 128, 512)
MEANS = (29, 200)  # steps

STEP_TARGET = 2.5  # microseconds of a step and layer, both directions
SPEED_UP_TARGET = 3.0  # over nn.LSTM packed
RATE_TARGET = 0.4  # of the rate of a bfloat16 matrix product


@dataclass(frozen=True, slots=True)
class Case:
    """A ragged batch for a model of LAYERS layers, width = hidden."""

    arithmetic: str
    hidden: int
    sequences: int
    mean: int  # steps

    def __str__(self) -> str:
        return (
            f"{self.arithmetic}, hidden {self.hidden}, sequences {self.sequences}, mean {self.mean}"
        )

    @property
    def must_step_fast(self) -> bool:
        return self.hidden == 256 and self.sequences <= 32

    @property
    def must_lead(self) -> bool:
        return self.hidden <= 512 and self.sequences <= 128

    @property
    def must_fill(self) -> bool:
        return (self.arithmetic, self.hidden, self.sequences) == ("bfloat16", 512, 512)

    def lengths(self) -> NDArray[np.int64]:
        """[sequences]: the same each time."""
        return lengths(np.random.default_rng(self.sequences), self.sequences, self.mean)

    def floor(self, rates: Rates) -> float:
        """Microseconds of a forward pass; see `floor.floor`."""
        own = self.lengths()
        sizes = [int((own > step).sum()) for step in range(own.max())]
        widths = [self.hidden] + [DIRECTIONS * self.hidden] * (LAYERS - 1)
        return sum(floor(self.arithmetic, width, self.hidden, sizes, rates) for width in widths)


def cases() -> list[Case]:
    """All cases: those with a target of their own first, and in bfloat16 first."""
    every = (
        Case(arithmetic, hidden, sequences, mean)
        for arithmetic, hidden, mean, sequences in product(ARITHMETICS, HIDDEN, MEANS, SEQUENCES)
    )
    return sorted(
        every, key=lambda case: (not (case.must_step_fast or case.must_fill), not case.must_lead)
    )


@dataclass(frozen=True, slots=True)
class Trial:
    """A plan that the kernel's tuner tried."""

    shape: Shape
    plan: str
    found: str  # its cost in microseconds, or why it was dropped


@dataclass(frozen=True, slots=True)
class Row:
    """One case's medians, in microseconds of a forward pass."""

    case: Case
    steps: int  # of all sequences
    longest: int
    error: float  # of ours, as a relative norm
    floor: float
    device: dict[str, float]  # of the device alone, by system; some may be missing
    # From an idle device to a result that was waited for; of small batches.
    host: dict[str, float] = field(default_factory=dict)
    note: str = ""  # what else is to be known of it

    def step(self, system: str) -> float | None:
        """Microseconds of a step of the longest sequence and a layer."""
        return over(self.device.get(system), self.longest * LAYERS)

    @property
    def floor_step(self) -> float:
        """The floor of `step`."""
        return self.floor / (self.longest * LAYERS)

    def rate(self, system: str) -> float | None:
        """TFLOP/s, on real steps."""
        operations = self.steps * operations_per_token(self.case.hidden)
        return over(operations / 1e6, self.device.get(system))

    def speed_up(self, other: str, host: bool = False) -> float | None:
        """Our speed, in the other's."""
        times = self.host if host else self.device
        return over(times.get(other), times.get(OURS))

    @property
    def share_of_floor(self) -> float | None:
        return over(self.floor, self.device.get(OURS))


@dataclass(slots=True)
class Results:
    """What a run found."""

    about: list[str]  # lines on the machine, and how it was measured
    rates: Rates
    trials: list[Trial] = field(default_factory=list)
    rows: dict[Case, Row] = field(default_factory=dict)
    failures: dict[Case, str] = field(default_factory=dict)  # cases that could not be measured

    def unmeasured(self) -> list[Case]:
        """The cases that there was no time for."""
        return [case for case in cases() if case not in self.rows and case not in self.failures]


# -- targets ---------------------------------------------------------------------------------------


def check(results: Results) -> Checked:
    """Every comparison with a target. What was not measured is missing, not missed."""
    compared, missed, unmeasured = 0, [], []
    for case in cases():
        row = results.rows.get(case)
        if row is None:
            unmeasured.append(f"{case}: {results.failures.get(case, 'not measured')}")
            continue
        for met, words in _comparisons(row, results.rates):
            if met is None:
                unmeasured.append(f"{case}: {words}")
                continue
            compared += 1
            if not met:
                missed.append(f"{case}: {words}")
    return Checked(compared, missed, unmeasured)


def _comparisons(row: Row, rates: Rates) -> Iterator[tuple[bool | None, str]]:
    """Whether each target is met, None where that was not measured, and in words."""
    case = row.case
    speed_up = row.speed_up(PACKED)
    required = SPEED_UP_TARGET if case.must_lead else 1.0
    yield (
        None if speed_up is None else speed_up >= required,
        f"ours has {number(speed_up)} times the speed of {PACKED}, required {required:.0f}",
    )
    # One sequence has no padding: all systems are right there.
    for rival in OTHERS[1:] if case.sequences == 1 else (PACKED_GRAPH,):
        lead = row.speed_up(rival)
        if lead is not None:
            yield lead >= 1, f"ours has {number(lead)} times the speed of {rival}, required 1"
    if case.must_step_fast:
        step = row.step(OURS)
        yield (
            None if step is None else step <= STEP_TARGET,
            f"ours takes {number(step)} µs for a step and layer, allowed {STEP_TARGET}",
        )
    if case.must_fill:
        share = over(row.rate(OURS), rates.bfloat16)
        yield (
            None if share is None else share >= RATE_TARGET,
            f"ours has {number(share)} of a bfloat16 product's rate, required {RATE_TARGET}",
        )


def over(dividend: float | None, divisor: float | None) -> float | None:
    """The quotient, or None where a part of it is missing."""
    return None if dividend is None or divisor is None else dividend / divisor
