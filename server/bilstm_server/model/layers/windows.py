"""Windows of steps of a ragged batch: where they lie, and a layer over them."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor

from ..kernels import RaggedBatch, to_device
from .interface import WindowLayer
from .values import Window

_MOST_NUMBERS = 2**24  # side by side at a time: windows overlap, and so are many times their rows


def map_all_windows(layer: WindowLayer, x: Tensor, batch: RaggedBatch) -> Tensor:
    """What the layer gives for each window of each sequence, one after the other: [N, width] ->
    [rows, …]"""
    if layer.window == Window():
        return cast(Tensor, layer(x))
    index, _ = window_rows(batch.lengths, layer.window)
    return map_windows(layer, x, to_device(index, x.device))


def map_windows(layer: WindowLayer, x: Tensor, index: Tensor) -> Tensor:
    """What the layer gives for windows of the rows that `index` [rows, kernel] names; len(x) is a
    row of padding. As a row does not depend on the others, there may be some at a time."""
    if layer.marks_steps:
        x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
    padded = torch.cat([x, x.new_full((1, x.shape[1]), layer.padding_value)])
    width = index.shape[1] * x.shape[1]
    given = [
        layer(padded.index_select(0, part.flatten()).view(len(part), width))
        for part in torch.split(index, max(1, _MOST_NUMBERS // width))
    ]
    return given[0] if len(given) == 1 else torch.cat(given)


def window_rows(lengths: np.ndarray, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """The rows [rows, kernel] that each window reads of sequences that lie one after the other, and
    how many windows each sequence has. N, the number of all rows, stands for padding."""
    counts = (lengths + window.left + window.right - window.span) // window.stride + 1
    starts = np.cumsum(lengths) - lengths
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    offsets = window.dilation * np.arange(window.kernel) - window.left
    steps = (number * window.stride)[:, None] + offsets  # [rows, kernel], within the sequence
    inside = (steps >= 0) & (steps < np.repeat(lengths, counts)[:, None])
    rows = steps + np.repeat(starts, counts)[:, None]
    return np.where(inside, rows, lengths.sum()), counts
