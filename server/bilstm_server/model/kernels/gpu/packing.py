"""A layer's weights, in the order in which the recurrence reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..interface import DirectionWeights


@dataclass(frozen=True, slots=True)
class Packed:
    """Weights as `gate_order` has them, with zeros for units that there are not."""

    w_ih: Tensor  # [directions * lines, D]
    w_hh: Tensor  # [directions, lines, depth]
    bias: Tensor  # [directions, lines] float32


def gate_order(hidden: int, units: int) -> Tensor:
    """Order nn.LSTM's rows: [lines], the row for each line of the packed weights, or 4 * hidden
    where there is none.

    A slice's 4 * units lines are [gate / 2, unit / 8, gate % 2, unit % 8]: see `step`.
    """
    slices = -(-hidden // units)
    slice_, gate_high, unit_high, gate_low, unit_low = torch.meshgrid(
        *map(torch.arange, (slices, 2, units // 8, 2, 8)), indexing="ij"
    )
    unit = slice_ * units + unit_high * 8 + unit_low
    row = (2 * gate_high + gate_low) * hidden + unit
    return row.where(unit < hidden, 4 * hidden).flatten()


def pack(directions: Sequence[DirectionWeights], units: int, depth: int) -> Packed:
    """Pack the weights for plans with so many units of a program and this padded depth."""
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

    return Packed(
        torch.cat([ordered(d.w_ih) for d in directions]),
        torch.stack([F.pad(ordered(d.w_hh), (0, depth - hidden)) for d in directions]),
        torch.stack([bias(d) for d in directions]),
    )
