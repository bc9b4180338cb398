"""`GpuLayer`: one matrix product projects all steps, and one launch of `gpu_recurrence` does the
rest, for both directions.

Packs weights as the launch reads them, and chooses for each batch how to cut it into programs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .gpu_plans import CostTable, Plan, Shape
from .gpu_recurrence import COUNTER_SPACING, recurrence_alone, recurrence_shared
from .interface import (
    DirectionWeights,
    Part,
    RaggedBatch,
    Results,
    needs_gradient,
    state_type,
)
from .reference import ReferenceLayer


def precision(dtype: torch.dtype) -> str:
    """Of products, in Triton's words. float32 has three products of TF32 for each, whose error is
    that of float32, unless torch may use TF32 alone.
    """
    if dtype != torch.float32:
        return "ieee"
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3"


def shape_of(directions: Sequence[DirectionWeights]) -> Shape:
    w_hh = directions[0].w_hh
    return Shape(w_hh.shape[1], len(directions), w_hh.dtype, precision(w_hh.dtype))


class GpuLayer:
    """One layer with its weights packed for the plans of a cost table."""

    kernel = "gpu"
    missed: str | None = None

    def __init__(self, directions: Sequence[DirectionWeights], shape: Shape, table: CostTable):
        """`shape` is `shape_of` them, and what the table was made for."""
        # The weights of this moment: for gradients and for copies.
        self._directions = [direction.copy() for direction in directions]
        self._shape = shape
        self._table = table
        self._packed = {
            packing: _pack(self._directions, *packing)
            for packing in {(plan.units, plan.depth) for plan in table.costs}
        }

    def __call__(self, x: Tensor, batch: RaggedBatch, h_0: Tensor, c_0: Tensor) -> Results:
        """See `Layer`. Where a gradient is to reach `x` or the states, the reference runs."""
        if needs_gradient(x, h_0, c_0):
            return ReferenceLayer(self._directions)(x, batch, h_0, c_0)
        hidden, directions = self._shape.hidden, self._shape.directions
        plan = self._table.fastest(batch)
        packed = self._packed[plan.units, plan.depth]
        y = x.new_empty(batch.tokens, directions * hidden)
        run = _Run(
            inputs=_product(x, packed.w_ih),
            index=batch.index,
            y=y,
            h_0=_aligned(h_0.flatten(0, 1)),
            c=c_0.flatten(0, 1).to(torch.float32, copy=True),
            h_n=torch.empty_like(h_0, memory_format=torch.contiguous_format),
            sequences=(len(batch), len(batch)),
            directions=range(directions),
            inputs_column_1=plan.slices * 4 * plan.units,
            y_column_1=hidden,
        )
        self._launch(plan, packed, run)
        return y, run.h_n, run.c.view_as(c_0).to(c_0.dtype)

    def apart(self, parts: Sequence[Part | None]) -> list[Results | None]:
        """See `Layer`."""
        if not any(parts):
            return [None] * len(parts)
        some = [k for k, part in enumerate(parts) if part is not None]
        given = [part for part in parts if part is not None]
        plan = self._table.fastest(max((part.batch for part in given), key=lambda b: b.tokens))
        packed = self._packed[plan.units, plan.depth]
        columns = packed.w_ih.chunk(len(parts))
        tokens = [part.batch.tokens for part in given]
        counts = [len(part.batch) for part in given]
        x, hidden = given[0].x, self._shape.hidden
        run = _Run(
            inputs=_join([_product(p.x, columns[k]) for k, p in zip(some, given, strict=True)]),
            index=_join([part.batch.index for part in given], dim=1),
            y=x.new_empty(sum(tokens), hidden),
            h_0=_aligned(_join([part.h_0 for part in given]).to(x.dtype)),
            c=_join([part.c_0 for part in given]).to(torch.float32, copy=True),
            h_n=x.new_empty(sum(counts), hidden, dtype=state_type(x.dtype)),
            sequences=(counts[0], counts[-1]),
            directions=range(some[0], some[-1] + 1),
            ranks_1=counts[0],
            rows_1=tokens[0],
        )
        self._launch(plan, packed, run)
        results: list[Results | None] = [None] * len(parts)
        pieces = (
            torch.split(t, n) for t, n in ((run.y, tokens), (run.h_n, counts), (run.c, counts))
        )
        for k, *piece in zip(some, *pieces, strict=True):
            results[k] = piece[0], piece[1], piece[2]
        return results

    def _launch(self, plan: Plan, packed: _Packed, run: _Run) -> None:
        directions = len(run.directions)
        groups = plan.groups(max(run.sequences), self._shape.directions, self._table.processor)
        lengths, first_rows, positions = run.index
        operands = (
            *(run.inputs, packed.w_hh, packed.bias, run.h_0, run.c, run.h_n, run.y),
            *(lengths, first_rows, positions, *run.sequences, run.ranks_1, run.rows_1),
            *(run.inputs.shape[1], run.inputs_column_1, run.y.shape[1], run.y_column_1),
            *(run.directions.start, groups),
        )
        options = {
            "HIDDEN": self._shape.hidden,
            "UNITS": plan.units,
            "ROWS": plan.rows,
            "PRECISION": self._shape.precision,
            "num_warps": plan.warps,
            "num_stages": plan.stages,
        }
        if plan.alone:
            recurrence_alone[(groups * directions,)](*operands, **options)
            return
        arrived = torch.zeros(
            directions * groups * COUNTER_SPACING.value, dtype=torch.int32, device=run.y.device
        )
        recurrence_shared[(plan.slices * groups * directions,)](
            *operands,
            arrived,
            **options,
            SLICES=plan.slices,
            DEPTH=plan.depth,
            BLOCK=plan.block,
            HELD=plan.held,
            launch_cooperative_grid=plan.slices > 1,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy is made anew: perhaps on another machine."""
        from .gpu import make_layer  # which makes these

        return make_layer, (self._directions,)


@dataclass(slots=True)
class _Run:
    """What a launch works on: one direction, or two with states one below the other."""

    inputs: Tensor  # [N, 4 * padded units], side by side for directions of one batch
    index: Tensor  # [3, ranks]
    y: Tensor
    h_0: Tensor  # [sequences, H]
    c: Tensor  # [sequences, H]
    h_n: Tensor  # [sequences, H]
    sequences: tuple[int, int]
    directions: range
    # Where the second one's things begin:
    ranks_1: int = 0
    rows_1: int = 0
    inputs_column_1: int = 0
    y_column_1: int = 0


@dataclass(frozen=True, slots=True)
class _Packed:
    """Weights as `gate_order` has them, with zeros for units that there are not."""

    w_ih: Tensor  # [directions * lines, D]
    w_hh: Tensor  # [directions, lines, depth]
    bias: Tensor  # [directions, lines] float32


def gate_order(hidden: int, units: int) -> Tensor:
    """[lines]: the row that nn.LSTM has for each line of the packed weights; 4 * hidden where
    there is none.

    A slice's 4 * units lines are [gate / 2, unit / 8, gate % 2, unit % 8]: see `step`.
    """
    slices = -(-hidden // units)
    slice_, gate_high, unit_high, gate_low, unit_low = torch.meshgrid(
        *map(torch.arange, (slices, 2, units // 8, 2, 8)), indexing="ij"
    )
    unit = slice_ * units + unit_high * 8 + unit_low
    row = (2 * gate_high + gate_low) * hidden + unit
    return row.where(unit < hidden, 4 * hidden).flatten()


def _pack(directions: Sequence[DirectionWeights], units: int, depth: int) -> _Packed:
    hidden = directions[0].w_hh.shape[1]
    order = gate_order(hidden, units).to(directions[0].w_hh.device)

    def ordered(rows: Tensor) -> Tensor:
        return F.pad(rows, (0, 0, 0, 1)).index_select(0, order)

    def bias(direction: DirectionWeights) -> Tensor:
        total = direction.w_hh.new_zeros(4 * hidden, 1, dtype=torch.float32)
        for own in (direction.b_ih, direction.b_hh):
            if own is not None:
                total += own[:, None]
        return ordered(total).squeeze(1)

    return _Packed(
        torch.cat([ordered(d.w_ih) for d in directions]),
        torch.stack([F.pad(ordered(d.w_hh), (0, depth - hidden)) for d in directions]),
        torch.stack([bias(d) for d in directions]),
    )


def _product(x: Tensor, w_ih: Tensor) -> Tensor:
    """x w_ihᵀ in float32: [N, D] and [columns, D] -> [N, columns]"""
    if x.dtype == torch.float32:
        return x @ w_ih.t()
    if x.is_cuda:
        return torch.mm(x, w_ih.t(), out_dtype=torch.float32)
    return x.float() @ w_ih.t().float()


def _join(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), dim)


def _aligned(states: Tensor) -> Tensor:
    """Contiguous, and where Triton's loads expect it: or it would compile another kernel."""
    states = states.contiguous()
    return states if states.data_ptr() % 16 == 0 else states.clone()
