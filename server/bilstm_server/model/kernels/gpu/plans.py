"""How a layer's recurrence can be cut into programs, and which way is the fastest for a batch.

Knows sizes and measured costs; knows no tensor and launches nothing. `tuning` measures.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from math import ceil
from operator import neg
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch

from ..ragged import RaggedBatch

_LEAST_DEPTH = 16  # of a product on the tensor cores
_STREAMED_BYTES = 128  # of a weight's row that are read at a time
_OPERAND_BYTES = 64  # of a thread, for the states of one product: with more, registers spill
_SCRATCH_BYTES = 24 * 1024  # on chip, for what moves between a program's threads


class Processor(NamedTuple):
    """What a GPU has that a plan must fit in."""

    multiprocessors: int
    shared_bytes: int  # on chip, of one program


class Shape(NamedTuple):
    """What a layer's recurrence is, apart from its weights."""

    hidden: int
    directions: int
    dtype: torch.dtype
    precision: str  # of the products, in Triton's words


@dataclass(frozen=True, slots=True)
class Plan:
    """One way to cut a recurrence. `recurrence_alone` runs it if there is one slice and the
    weights are held, and `recurrence_shared` otherwise.
    """

    units: int  # hidden units of a program
    slices: int  # programs that have all the units together
    depth: int  # hidden size, padded
    rows: int  # sequences of one product
    block: int  # depth of one product
    held: bool  # the weights stay on chip; otherwise each step reads them from L2
    warps: int
    stages: int  # that the reading of weights is ahead

    @property
    def alone(self) -> bool:
        return self.held and self.slices == 1

    @property
    def packing(self) -> tuple[int, int]:
        """The order of the weights. Plans that have it in common read the same ones."""
        return self.units, self.depth

    def groups(self, sequences: int, directions: int, processor: Processor) -> int:
        """The groups of each direction for a batch of so many sequences; if alone, the tiles."""
        wanted = ceil(sequences / self.rows)
        if self.alone:
            return wanted
        return min(wanted, processor.multiprocessors // (self.slices * directions))

    def __str__(self) -> str:
        return (
            f"{self.slices} x {self.units} units, {self.rows} rows, "
            f"weights {'held' if self.held else 'streamed'}, {self.warps} warps"
        )


def candidates(shape: Shape, processor: Processor) -> Iterator[Plan]:
    """The plans that may fit. Those that do not are found when they are compiled."""
    itemsize = shape.dtype.itemsize
    # A product made of three has two parts of each weight, in registers, and so fewer for the rest.
    three = shape.precision == "tf32x3"
    room = processor.shared_bytes - _SCRATCH_BYTES

    units = max(_power_of_two(shape.hidden), _LEAST_DEPTH)
    for rows in (16,) if three else (16, 32):
        held = 4 * units**2 * itemsize * (2 if three else 1)
        if held + rows * units * itemsize <= room and rows * units <= 2048:
            yield Plan(units, 1, units, rows, units, True, 8 if units > 16 else 4, 1)

    streamed = _STREAMED_BYTES // itemsize
    depth = ceil(shape.hidden / streamed) * streamed

    def slices(units: int) -> int:
        """So many as there are, or none if they could not all run at the same time."""
        count = ceil(shape.hidden / units)
        return count if count * shape.directions <= processor.multiprocessors else 0

    for units, rows in ((16, 16), (16, 32), (32, 16), (32, 64), (64, 16), (64, 64)):
        warps = 4 if units == 16 else 8
        block = streamed
        while depth % (2 * block) == 0 and 2 * block * rows * itemsize <= (
            _OPERAND_BYTES * 32 * warps
        ):
            block *= 2
        fits = 4 * units * depth * itemsize + rows * block * itemsize <= room
        if fits and slices(units) > 1 and not three:
            yield Plan(units, slices(units), depth, rows, block, True, warps, 1)
    for units, rows, stages in ((32, 16, 3), (64, 32, 3), (32 if three else 64, 64, 2)):
        if slices(units):
            yield Plan(units, slices(units), depth, rows, streamed, False, 8, stages)


class Cost(NamedTuple):
    """What a plan costs, in microseconds."""

    start: float  # of a launch
    step: float  # of each step, with one product's sequences in each group
    more: float  # and with each further product's


class Phase(NamedTuple):
    """One launch: a plan, and the steps that it runs."""

    plan: Plan
    begin: int
    end: int


@dataclass(frozen=True)
class CostTable:
    """What each plan costs on a device, for layers of one shape."""

    directions: int
    processor: Processor
    costs: Mapping[Plan, Cost]
    fallback_reason: str | None = None  # a plan that ran and was not right there, and why
    _schedules: WeakKeyDictionary[RaggedBatch, tuple[Phase, ...]] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )

    def schedule(self, batch: RaggedBatch) -> tuple[Phase, ...]:
        """Choose the fastest way to run a batch: one plan, or another one for the last steps, which
        fewer sequences have. Plans that follow each other have their units, and so the weights,
        alike.
        """
        if batch not in self._schedules:
            lengths = batch.descending.tolist()
            self._schedules[batch] = min(
                self._ways(lengths), key=lambda way: sum(self.predict(p, lengths) for p in way)
            )
        return self._schedules[batch]

    def _ways(self, lengths: Sequence[int]) -> Iterator[tuple[Phase, ...]]:
        """`lengths`: of the sequences, the longest first."""
        for plan in self.costs:
            yield (Phase(plan, 0, lengths[0]),)
        for first, last in permutations(self.costs, 2):
            if first.packing != last.packing or first.alone or last.alone or last.rows > first.rows:
                continue
            full = last.rows * last.groups(len(lengths), self.directions, self.processor)
            for products in (1, 2):
                if len(lengths) > products * full:
                    end = lengths[products * full]
                    if end < lengths[0]:
                        yield Phase(first, 0, end), Phase(last, end, lengths[0])

    def predict(self, phase: Phase, lengths: Sequence[int]) -> float:
        """Estimate the microseconds of some steps of a batch's recurrence."""
        plan, begin, end = phase
        cost = self.costs[plan]
        if plan.alone:
            # As many tiles as there are multiprocessors at a time, the longest first.
            programs = sum(lengths[:: plan.rows]) * self.directions
            return cost.start + cost.step * max(end, programs / self.processor.multiprocessors)
        # Groups are alike: the first one's chunks live as long as their first sequence.
        active = bisect_left(lengths, -begin, key=neg)
        chunk = plan.rows * plan.groups(active, self.directions, self.processor)
        further = sum(min(n, end) - begin for n in lengths[chunk:active:chunk])
        return cost.start + cost.step * (end - begin) + cost.more * further

    def of_use(self) -> CostTable:
        """Leave out the plans that none of many batches, small and large, would run by."""
        batches = [
            RaggedBatch([max(1, longest * (i + 1) // count) for i in range(count)])
            for count in (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024)
            for longest in (1, 16, 256)
        ]
        kept = {phase.plan for batch in batches for phase in self.schedule(batch)}
        costs = {plan: cost for plan, cost in self.costs.items() if plan in kept}
        return replace(self, costs=costs)


def _power_of_two(number: int) -> int:
    """The least power of two that is not below `number`."""
    return 1 << (number - 1).bit_length()
