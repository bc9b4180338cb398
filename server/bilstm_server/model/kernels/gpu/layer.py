"""`GpuLayer`: one matrix product projects all steps, and one launch of `recurrence` does the
rest, for both directions.

Chooses for each batch how to cut it into programs. Knows no kernel that made it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any

import torch
from torch import Tensor

from ..interface import (
    DirectionInput,
    DirectionWeights,
    Results,
    needs_operations,
    state_type,
)
from ..ragged import RaggedBatch
from ..reference import ReferenceLayer
from .barrier import COUNTER_SPACING
from .packing import Packed, pack
from .plans import CostTable, Phase, Shape
from .recurrence import recurrence_alone, recurrence_shared


def precision(dtype: torch.dtype) -> str:
    """The precision of products, in Triton's words. float32 has three products of TF32 for each,
    whose error is that of float32, unless torch may use TF32 alone.
    """
    if dtype != torch.float32:
        return "ieee"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3"


def shape_of(directions: Sequence[DirectionWeights]) -> Shape:
    """The shape of the layer that has these weights."""
    w_hh = directions[0].w_hh
    return Shape(w_hh.shape[1], len(directions), w_hh.dtype, precision(w_hh.dtype))


class GpuLayer:
    """One layer with its weights packed for the plans of a cost table."""

    kernel = "gpu"

    def __init__(self, directions: Sequence[DirectionWeights], shape: Shape, table: CostTable):
        """`shape` is `shape_of(directions)`, and what the table was made for."""
        # The weights of this moment, for the reference.
        self._directions = [direction.copy() for direction in directions]
        self._shape = shape
        self._table = table
        self.fallback_reason = table.fallback_reason
        self._compiled: dict[Any, Any] = {}
        self._packed = {
            packing: pack(self._directions, *packing)
            for packing in {plan.packing for plan in table.costs}
        }

    def __call__(self, x: Tensor, batch: RaggedBatch, h_0: Tensor, c_0: Tensor) -> Results:
        """See `Layer`. Where torch's own operations are needed, the reference runs."""
        if needs_operations(x, h_0, c_0):
            return ReferenceLayer(self._directions)(x, batch, h_0, c_0)
        run = self._together(x, batch, h_0, c_0)
        self._launch(run)
        return run.y, run.h_n, run.c.view_as(c_0).to(c_0.dtype)

    def prepare(
        self, x: Tensor, batch: RaggedBatch, h_0: Tensor, c_0: Tensor
    ) -> Callable[[], None]:
        """Make what launches the recurrence of a call: to be timed, not for its results."""
        return partial(self._launch, self._together(x, batch, h_0, c_0))

    def _together(self, x: Tensor, batch: RaggedBatch, h_0: Tensor, c_0: Tensor) -> _Run:
        hidden, directions = self._shape.hidden, self._shape.directions
        phases = self._table.schedule(batch)
        packed = self._packed[phases[0].plan.packing]
        return _Run(
            phases,
            packed,
            inputs=_product(x, packed.w_ih),
            index=batch.index,
            y=x.new_empty(batch.steps, directions * hidden),
            h_0=_aligned(h_0.flatten(0, 1)),
            c=_cells(c_0.flatten(0, 1)),
            h_n=torch.empty_like(h_0, memory_format=torch.contiguous_format),
            batches=(batch, batch),
            directions=range(directions),
            states_1=len(batch),
            inputs_column_1=packed.w_hh.shape[1],
            y_column_1=hidden,
        )

    def per_direction(self, inputs: Sequence[DirectionInput | None]) -> list[Results | None]:
        """See `Layer`."""
        given = [(k, own) for k, own in enumerate(inputs) if own is not None]
        if needs_operations(*(tensor for _, own in given for tensor in own.tensors)):
            return ReferenceLayer(self._directions).per_direction(inputs)
        results: list[Results | None] = [None] * len(inputs)
        if not given:
            return results
        batches = [own.batch for _, own in given]
        phases = self._table.schedule(max(batches, key=lambda batch: batch.steps))
        packed = self._packed[phases[0].plan.packing]
        columns = packed.w_ih.chunk(len(inputs))
        steps = [batch.steps for batch in batches]
        counts = [len(batch) for batch in batches]
        dtype, hidden = packed.w_ih.dtype, self._shape.hidden
        run = _Run(
            phases,
            packed,
            inputs=_join([_product(own.x, columns[k]) for k, own in given]),
            index=_join([batch.index for batch in batches], dim=1),
            y=packed.w_ih.new_empty(sum(steps), hidden),
            h_0=_aligned(_join([own.h_0 for _, own in given]).to(dtype)),
            c=_cells(_join([own.c_0 for _, own in given])),
            h_n=packed.w_ih.new_empty(sum(counts), hidden, dtype=state_type(dtype)),
            batches=(batches[0], batches[-1]),
            directions=range(given[0][0], given[-1][0] + 1),
            ranks_1=counts[0],
            rows_1=steps[0],
            states_1=counts[0],
        )
        self._launch(run)
        pieces = (
            torch.split(rows, sizes)
            for rows, sizes in ((run.y, steps), (run.h_n, counts), (run.c, counts))
        )
        for (k, _), y, h_n, c_n in zip(given, *pieces, strict=True):
            results[k] = y, h_n, c_n
        return results

    def _launch(self, run: _Run) -> None:
        """Launch all steps: those that are left after the phases are the last one's."""
        longest = max(int(batch.descending[0]) for batch in run.batches)
        with torch.cuda.device_of(run.y):  # type: ignore[no-untyped-call]
            for phase in run.phases:
                end = longest if phase is run.phases[-1] else phase.end
                self._launch_phase(phase._replace(end=end), run)

    def _launch_phase(self, phase: Phase, run: _Run) -> None:
        plan, packed, directions = phase.plan, run.packed, len(run.directions)
        active = [batch.count_longer(phase.begin) for batch in run.batches]
        groups = plan.groups(max(active), directions, self._table.processor)
        lengths, first_rows, positions = run.index
        operands: tuple[Any, ...] = (
            *(run.inputs, packed.w_hh, packed.bias, run.h_0, run.c, run.h_n, run.y),
            *(lengths, first_rows, positions, *active, run.ranks_1, run.rows_1, run.states_1),
            *(run.inputs.shape[1], run.inputs_column_1, run.y.shape[1], run.y_column_1),
            *(run.directions.start, groups),
        )
        constants = {  # in the kernels' order
            "HIDDEN": self._shape.hidden,
            "UNITS": plan.units,
            "ROWS": plan.rows,
            "PRECISION": self._shape.precision,
        }
        kernel, programs = recurrence_alone, groups * directions
        if not plan.alone:
            kernel, programs = recurrence_shared, plan.slices * groups * directions
            chunks = ceil(ceil(max(active) / groups) / plan.rows)
            counters = directions * groups * chunks * COUNTER_SPACING.value
            arrived = torch.zeros(counters, dtype=torch.int32, device=run.y.device)
            operands += (phase.begin, phase.end, arrived, chunks)
            constants |= {
                "SLICES": plan.slices,
                "DEPTH": plan.depth,
                "BLOCK": plan.block,
                "HELD": plan.held,
            }
        key = (plan, run.y.shape[1], run.h_n.dtype)
        compiled = self._compiled.get(key)
        if compiled is None:
            self._compiled[key] = kernel[programs, 1, 1](
                *operands,
                **constants,
                num_warps=plan.warps,
                num_stages=plan.stages,
                enable_fp_fusion=True,
                launch_cooperative_grid=plan.slices > 1,
            )
        else:  # the same, without Triton's search for it
            compiled[programs, 1, 1](*operands, *constants.values())


@dataclass(slots=True)
class _Run:
    """What a launch works on: one direction, or two with states one below the other."""

    phases: Sequence[Phase]
    packed: Packed
    inputs: Tensor  # [N, 4 * padded units], side by side for directions of one batch
    index: Tensor  # [3, ranks]
    y: Tensor
    h_0: Tensor  # [sequences, H]
    c: Tensor  # [sequences, H]
    h_n: Tensor  # [sequences, H]
    batches: tuple[RaggedBatch, RaggedBatch]  # the same twice, if there is one
    directions: range
    # Where the second one's things begin:
    ranks_1: int = 0
    rows_1: int = 0
    states_1: int = 0
    inputs_column_1: int = 0
    y_column_1: int = 0


def _product(x: Tensor, w_ih: Tensor) -> Tensor:
    """x w_ihᵀ in float32: [N, D] and [columns, D] -> [N, columns]"""
    if x.dtype == torch.float32:
        return x @ w_ih.t()
    if x.is_cuda:
        return torch.mm(x, w_ih.t(), out_dtype=torch.float32)
    return x.float() @ w_ih.t().float()


def _join(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), dim)


def _cells(states: Tensor) -> Tensor:
    """A copy, for the launch to work on."""
    return states.to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def _aligned(states: Tensor) -> Tensor:
    """Contiguous, and where Triton's loads expect it: or it would compile another kernel."""
    states = states.contiguous()
    return states if states.data_ptr() % 16 == 0 else states.clone()
