"""Where the rows of blocks and contexts lie, and windows of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..kernels import RaggedBatch, to_device
from ..layers.interface import WindowLayer
from ..layers.windows import map_windows, window_rows


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where the steps of B sequences lie in N rows; only some of the sequences have a context."""

    all: RaggedBatch  # each sequence's block, and its context
    block: RaggedBatch
    block_rows: Tensor
    context: RaggedBatch | None  # of those that have one
    context_rows: Tensor
    owners: Tensor  # the sequences that have a context

    def of_blocks(self, rows: Tensor) -> Tensor:
        """The rows of the blocks' steps."""
        return rows if self.context is None else rows.index_select(0, self.block_rows)


def lay_out(blocks: Sequence[int], contexts: Sequence[int], device: torch.device) -> Layout:
    """The layout of so many steps of each sequence."""
    owners = np.flatnonzero(contexts)
    lengths = np.stack([blocks, contexts], axis=1)  # [B, 2]
    in_block = np.tile([True, False], len(lengths)).repeat(lengths.flatten())
    indices = (np.flatnonzero(in_block), np.flatnonzero(~in_block), owners)
    block_rows, context_rows, owner_rows = (to_device(index, device) for index in indices)
    return Layout(
        RaggedBatch(lengths.sum(axis=1), device),
        RaggedBatch(lengths[:, 0], device),
        block_rows,
        RaggedBatch(lengths[owners, 1], device) if len(owners) else None,
        context_rows,
        owner_rows,
    )


def run_windows(
    layer: WindowLayer,
    x: Tensor,
    layout: Layout,
    ahead: bool,
    carried: Sequence[Tensor | None],
) -> tuple[Tensor, list[Tensor | None]]:
    """Run a layer whose windows go on from block to block, with a row for each step.

    `x` has the rows of the contexts if the windows reach to the right, or `ahead`: then there are
    results for them, too. `carried` [n, width] are the rows of x before each block, at most as many
    as a window reaches back. Beyond them, and behind the last row, is padding.
    """
    has_contexts = ahead or layer.window.right > 0
    batch = layout.all if has_contexts else layout.block
    before = [x.new_empty(0, x.shape[1]) if rows is None else rows for rows in carried]
    parts = zip(before, torch.split(x, batch.lengths.tolist()), strict=True)
    joined = torch.cat([rows for part in parts for rows in part])
    counts = np.array([len(rows) for rows in before])
    lengths = counts + batch.lengths
    index, _ = window_rows(lengths, layer.window)
    place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths + counts, lengths)
    stops = batch.lengths if ahead else layout.block.lengths
    wanted = (place >= 0) & (place < np.repeat(stops, lengths))
    y = map_windows(layer, joined, to_device(index[wanted], x.device))
    ends = np.cumsum(lengths) - lengths + counts + layout.block.lengths  # of the blocks
    kept = np.minimum(layer.window.left, counts + layout.block.lengths)
    # Copies: what waits for a sequence's next block holds no other sequence's memory.
    carry = [
        joined[end - count : end].clone() if count else None
        for end, count in zip(ends.tolist(), kept.tolist(), strict=True)
    ]
    return y, carry
