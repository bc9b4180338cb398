"""What a kernel is: one LSTM layer, all its directions, over a ragged batch.

Knows tensors and the layer's equations' inputs; knows no module, no model and no request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class DirectionWeights:
    """One direction's parameters, as nn.LSTM names and shapes them.

    The 4H rows are the gates in the order input, forget, cell, output.
    H is hidden_size, D the layer's input width, P = proj_size or H.
    """

    w_ih: Tensor  # [4H, D]
    w_hh: Tensor  # [4H, P]
    b_ih: Tensor | None  # [4H]
    b_hh: Tensor | None  # [4H]
    w_hr: Tensor | None  # [P, H], with a projection only


class RaggedBatch:
    """Where the steps of B sequences lie in `[N, width]` rows, one sequence after the other.

    Step order, which a recurrence walks, is: every live sequence's first step, then every
    live sequence's second, and so on, the longest sequence first. The sequences alive at a
    step are therefore always a prefix, and it shrinks as sequences end.
    """

    def __init__(self, lengths: Sequence[int] | np.ndarray, device: torch.device | str = "cpu"):
        """`lengths`: steps of each sequence, at least 1 each, in the caller's order."""
        given = np.asarray(lengths)
        if given.ndim != 1 or given.size == 0 or given.dtype.kind not in "iu":
            raise ValueError("lengths must be a list of at least one sequence's steps")
        self.lengths = given.astype(np.int64)
        if self.lengths.min() < 1:
            raise ValueError("every sequence must have at least one step")
        self.device = torch.device(device)
        self.tokens = int(self.lengths.sum())
        # Longest first; equal lengths keep the caller's order.
        order = np.argsort(-self.lengths, kind="stable")
        descending = self.lengths[order]
        steps = int(descending[0])
        live = np.searchsorted(-descending, -np.arange(steps), side="left")
        step = np.repeat(np.arange(steps), live)
        column = np.arange(self.tokens) - np.repeat(np.cumsum(live) - live, live)
        first_row = (np.cumsum(self.lengths) - self.lengths)[order]
        forward = first_row[column] + step
        reverse = first_row[column] + descending[column] - 1 - step
        self.live: list[int] = live.tolist()  # how many sequences have a first, second … step
        self.order = self._index(order)  # [B]: sorted position -> caller's position
        self.rank = self._index(np.argsort(order))  # [B]: caller's position -> sorted position
        # [N]: position in step order -> row, for a direction that reads from the first step on,
        # and for one that reads from each sequence's own last step back.
        self.forward_rows = self._index(forward)
        self.reverse_rows = self._index(reverse)

    def __len__(self) -> int:
        return int(self.lengths.size)

    def _index(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)


class Layer(Protocol):
    """A layer with its weights packed, ready to run."""

    def __call__(
        self, x: Tensor, batch: RaggedBatch, h_0: Tensor, c_0: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run every direction over the batch.

        `x` [N, D], the sequences one after the other; `h_0` [directions, B, P] and
        `c_0` [directions, B, H] in the caller's order. Returns `y` [N, directions * P] in x's
        order, and `h_n`, `c_n` shaped and ordered as `h_0`, `c_0`.
        """
        ...


class Kernel(Protocol):
    """Makes a layer out of its directions' weights: forward, and reverse where there is one."""

    def __call__(self, directions: Sequence[DirectionWeights]) -> Layer: ...
