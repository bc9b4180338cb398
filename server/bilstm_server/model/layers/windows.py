"""Windows of steps of a ragged batch: where they lie, and their rows side by side."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..kernels import RaggedBatch, to_device
from .interface import WindowLayer
from .values import Window


def gather_windows(x: Tensor, batch: RaggedBatch, layer: WindowLayer) -> tuple[Tensor, np.ndarray]:
    """The rows of each window of each sequence, one after the other: [N, width] -> [rows, kernel *
    width], and how many rows each sequence has."""
    if layer.window == Window():
        return x, batch.lengths
    index, counts = window_rows(batch.lengths, layer.window)
    return take_windows(x, to_device(index, x.device), layer), counts


def take_windows(x: Tensor, index: Tensor, layer: WindowLayer) -> Tensor:
    """The rows that `index` [rows, kernel] names, side by side; len(x) is a row of padding."""
    if layer.marks_steps:
        x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
    padding = x.new_full((1, x.shape[1]), layer.padding_value)
    padded = torch.cat([x, padding])
    return padded.index_select(0, index.flatten()).view(len(index), index.shape[1] * x.shape[1])


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
