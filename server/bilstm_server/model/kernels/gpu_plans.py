"""How a layer's recurrence can be cut into programs, and which way is the fastest for a batch.

Knows sizes and measured costs; knows no tensor and launches nothing. `gpu_tuning` measures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import torch

from .interface import RaggedBatch

_LEAST_DEPTH = 16  # of a product on the tensor cores
_LARGEST_BLOCK = 256
_STREAMED_BLOCK = 64
_SCRATCH_BYTES = 24 * 1024  # on chip, for what moves between a program's threads


class Processor(NamedTuple):
    """What a plan must fit in."""

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

    def groups(self, sequences: int, directions: int, processor: Processor) -> int:
        """Of each direction, for a batch of so many sequences: tiles, if alone."""
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
    """Plans that may fit; those that do not are found when they are compiled."""
    room = processor.shared_bytes - _SCRATCH_BYTES
    itemsize = shape.dtype.itemsize
    # Products of three factors each hold the weights as two numbers.
    held_size = itemsize * (2 if shape.precision == "tf32x3" else 1)

    units = max(_power_of_two(shape.hidden), _LEAST_DEPTH)
    for rows in (16, 32):
        if (4 * units * units * held_size) + rows * units * itemsize <= room:
            yield Plan(units, 1, units, rows, units, True, 8 if units > 32 else 4, 1)

    depth = ceil(shape.hidden / _STREAMED_BLOCK) * _STREAMED_BLOCK
    block = _STREAMED_BLOCK
    while block < _LARGEST_BLOCK and depth % (2 * block) == 0:
        block *= 2
    for units, rows in ((16, 16), (16, 32), (32, 16), (32, 64), (64, 16), (64, 64)):
        slices = ceil(shape.hidden / units)
        fits = 4 * units * depth * held_size + rows * block * itemsize <= room
        if fits and 1 < slices <= processor.multiprocessors // shape.directions:
            warps = 4 if units * rows <= 512 else 8
            yield Plan(units, slices, depth, rows, block, True, warps, 1)
    for units, rows in ((32, 16), (64, 32), (64, 64)):
        slices = ceil(shape.hidden / units)
        if slices <= processor.multiprocessors // shape.directions:
            warps = 4 if units * rows <= 512 else 8
            yield Plan(units, slices, depth, rows, _STREAMED_BLOCK, False, warps, 3)


class Cost(NamedTuple):
    """Microseconds."""

    start: float  # of a launch
    step: float  # of each step, with one product's sequences in each group
    more: float  # and with each further product's


@dataclass(frozen=True)
class CostTable:
    """What each plan costs on a device, for layers of one shape."""

    directions: int
    processor: Processor
    costs: Mapping[Plan, Cost]

    def fastest(self, batch: RaggedBatch) -> Plan:
        return min(self.costs, key=lambda plan: self.predict(plan, batch))

    def predict(self, plan: Plan, batch: RaggedBatch) -> float:
        """Microseconds of the batch's recurrence."""
        cost = self.costs[plan]
        lengths = batch.descending
        longest = int(lengths[0])
        if plan.alone:
            # As many tiles as there are multiprocessors at a time, the longest first.
            programs = int(lengths[:: plan.rows].sum()) * self.directions
            return cost.start + cost.step * max(
                longest, programs / self.processor.multiprocessors
            )
        # Groups are alike: the first one's chunks live as long as their first sequence.
        chunk = plan.rows * plan.groups(len(batch), self.directions, self.processor)
        further = int(lengths[chunk::chunk].sum())
        return cost.start + cost.step * longest + cost.more * further

    def of_use(self) -> CostTable:
        """Without the plans that are the fastest for none of many batches, small and large."""
        batches = [
            RaggedBatch([max(1, longest * (i + 1) // count) for i in range(count)])
            for count in (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024)
            for longest in (1, 16, 256)
        ]
        kept = {self.fastest(batch) for batch in batches}
        costs = {plan: cost for plan, cost in self.costs.items() if plan in kept}
        return CostTable(self.directions, self.processor, costs)


def _power_of_two(number: int) -> int:
    """The least that is not below it."""
    return 1 << (number - 1).bit_length()
