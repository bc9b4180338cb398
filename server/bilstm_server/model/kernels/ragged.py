"""`RaggedBatch`: where the steps of sequences of different lengths lie. Knows no weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


class RaggedBatch:
    """Where the steps of B sequences lie in `[N, width]` rows, one sequence after the other.

    Step order, which a recurrence walks, is: every live sequence's first step, then every
    live sequence's second, and so on, the longest sequence first. The sequences alive at a
    step are therefore always a prefix, and it shrinks as sequences end.
    """

    def __init__(self, lengths: Sequence[int] | np.ndarray, device: torch.device | str = "cpu"):
        """`lengths`: steps of each sequence, at least 1 each, in the caller's order."""
        given = np.asarray(lengths)
        if given.ndim != 1 or given.size == 0:
            raise ValueError("lengths must be a list of at least one sequence's steps")
        if given.dtype.kind not in "iu":
            if any(isinstance(number, torch.SymInt) for number in given):
                raise ValueError("lengths must be known: torch.export records fixed ones only")
            raise ValueError(f"lengths must be integers, got {given.dtype}")
        self.lengths = given.astype(np.int64)
        if self.lengths.min() < 1:
            raise ValueError("every sequence must have at least one step")
        self.device = torch.device(device)
        self.tokens = int(self.lengths.sum())
        # Longest first; equal lengths keep the caller's order. [B] each:
        self.positions = np.argsort(-self.lengths, kind="stable")  # where the caller has it
        self.descending = self.lengths[self.positions]
        self.first_rows = (np.cumsum(self.lengths) - self.lengths)[self.positions]

    def __len__(self) -> int:
        return int(self.lengths.size)

    @cached_property
    def addresses(self) -> tuple[int, int, int]:
        """Of `descending`, `first_rows` and `positions` in memory."""
        arrays = (self.descending, self.first_rows, self.positions)
        first, second, third = (array.ctypes.data for array in arrays)
        return first, second, third

    @property
    def index_array(self) -> np.ndarray:
        """[3, B] of int32: `descending`, `first_rows` and `positions`, one below the other."""
        return np.stack([self.descending, self.first_rows, self.positions]).astype(np.int32)

    @cached_property
    def index(self) -> Tensor:
        """`index_array` on the device. May be set, by who has copied it there with other things."""
        return to_device(self.index_array, self.device)

    def count_longer(self, steps: int) -> int:
        """Sequences that have more steps than so many."""
        return int(np.searchsorted(-self.descending, -steps, side="left")) if steps else len(self)

    @cached_property
    def live(self) -> list[int]:
        """How many sequences have a first, second … step."""
        steps = np.arange(self.descending[0])
        found: list[int] = np.searchsorted(-self.descending, -steps, side="left").tolist()
        return found

    @cached_property
    def order(self) -> Tensor:
        """[B]: sorted position -> caller's position"""
        return self._index(self.positions)

    @cached_property
    def rank(self) -> Tensor:
        """[B]: caller's position -> sorted position"""
        return self._index(np.argsort(self.positions))

    @cached_property
    def forward_rows(self) -> Tensor:
        """[N]: position in step order -> row, for a direction that reads from the first step on"""
        step, column = self._steps
        return self._index(self.first_rows[column] + step)

    @cached_property
    def reverse_rows(self) -> Tensor:
        """[N]: the same, for one that reads from each sequence's own last step back"""
        step, column = self._steps
        return self._index(self.first_rows[column] + self.descending[column] - 1 - step)

    @cached_property
    def _steps(self) -> tuple[np.ndarray, np.ndarray]:
        """[N] each, in step order: the step, and the sorted position of its sequence."""
        live = np.asarray(self.live)
        starts = np.cumsum(live) - live
        return np.repeat(np.arange(live.size), live), np.arange(self.tokens) - np.repeat(
            starts, live
        )

    def _index(self, values: np.ndarray) -> Tensor:
        return to_device(np.ascontiguousarray(values), self.device)


def to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """A few numbers on their way to the device: neither waited for nor, on the CPU, copied.

    Raises `RuntimeError` while a CUDA graph is captured, which would copy from where they were.
    """
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "a CUDA graph can't copy lengths: make a RaggedBatch, and run it once before it is "
            "captured"
        )
    tensor = torch.from_numpy(values)
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # or its copy would wait for all that was to be computed
    return tensor.to(device, non_blocking=True)
