"""The least time that a GPU can take for a batch: counted operations and bytes, over its rates.

Pure arithmetic. Knows sizes and rates; knows no kernel, no tensor and no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DIRECTIONS = 2
ITEM_BYTES = {"bfloat16": 2, "tf32": 4, "float32": 4}  # of a number, by arithmetic


@dataclass(frozen=True, slots=True)
class Rates:
    """What a GPU can do."""

    # TFLOP/s of large matrix products; float32 without the tensor cores.
    bfloat16: float
    tf32: float
    float32: float
    memory: float  # TB/s of the device's memory, read and written together
    l2: float  # TB/s, read
    on_chip_bytes: int  # of all multiprocessors' shared memory, which can hold weights
    # Microseconds of a step in which there is next to nothing to compute: what a step waits for
    # the one before. None: not known, and left out of floors.
    step: float | None = None

    def products(self, arithmetic: str) -> float:
        """TFLOP/s of products in this arithmetic. Three of TF32 have float32's precision."""
        if arithmetic == "float32":
            return max(self.float32, self.tf32 / 3)
        return {"bfloat16": self.bfloat16, "tf32": self.tf32}[arithmetic]


# By its datasheet, but for L2's rate, which is an estimate: 132 multiprocessors that can give a
# program 227 KiB of shared memory each.
H200 = Rates(989, 494, 67, memory=4.8, l2=5, on_chip_bytes=132 * 227 * 1024)


def floor(arithmetic: str, width: int, hidden: int, sizes: Sequence[int], rates: Rates) -> float:
    """Microseconds of one bidirectional layer with W inputs and H hidden units, over a ragged batch
    with N steps in all and `sizes[t]` sequences that have a step t:

        max(project, input) + max(sum over t of max(product[t], weights, step), output)

        project      2·2·4H·W·N operations: W_ih x of all steps, before the first one is computed
        input        N·W numbers, read from memory once
        product[t]   2·2·4H·H·sizes[t] operations: W_hh h
        weights      bytes of W_hh, 2·4H·H numbers, that do not fit in shared memory: they come
                     from L2 in each step, once for all its sequences
        step         what a step waits for the one before, however little there is to compute
        output       N·2H numbers, written to memory once

    Pointwise operations are not counted, nor what a kernel pads, nor a launch; a kernel that reads
    weights once for each tile of sequences is above its floor. Registers are taken to hold no
    weights: one that keeps some there can be below it, where there is a term `weights`.
    """
    item = ITEM_BYTES[arithmetic]
    total = sum(sizes)
    operations = 1e6 * rates.products(arithmetic)  # a microsecond
    memory = 1e6 * rates.memory  # bytes a microsecond, and so the next one
    l2 = 1e6 * rates.l2

    lines = DIRECTIONS * 4 * hidden
    project = 2 * lines * width * total / operations
    excess = max(0, lines * hidden * item - rates.on_chip_bytes)
    least = max(excess / l2, rates.step or 0.0)
    steps = sum(max(2 * lines * hidden * count / operations, least) for count in sizes)
    return max(project, total * width * item / memory) + max(
        steps, total * DIRECTIONS * hidden * item / memory
    )
