"""`RaggedBatch`: where the steps of sequences of different lengths lie. Knows no weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


class RaggedBatch:
    """Where the steps of B sequences lie in N rows `[N, width]`, one sequence after the other.

    A recurrence walks them in *step order*: the first steps of all sequences, then all second
    steps, and so on, each time the longest sequence first. The sequences that have a step are
    therefore always a prefix, and it shrinks as sequences end: `torch.nn.utils.rnn.PackedSequence`
    has the same order. A sequence's place among the longest first is its *rank*.
    """

    def __init__(self, lengths: Sequence[int] | np.ndarray, device: torch.device | str = "cpu"):
        """`lengths` [B] are the steps of each sequence, at least 1 each, in the caller's order.
        The tensors below are on `device`.

        Raises `ValueError` for lengths that are no list of positive integers.
        """
        given = np.asarray(lengths)
        if given.ndim != 1 or given.size == 0:
            raise ValueError("lengths must be a list of at least one sequence's steps")
        if given.dtype.kind not in "iu":
            if any(isinstance(number, torch.SymInt) for number in given):
                raise ValueError(
                    "lengths must be known: torch.export records fixed ones only; leave them out "
                    "of dynamic_shapes"
                )
            raise ValueError(f"lengths must be integers, got {given.dtype}")
        self.lengths = given.astype(np.int64)
        if self.lengths.min() < 1:
            raise ValueError("every sequence must have at least one step")
        self.device = torch.device(device)
        self.steps = int(self.lengths.sum())  # N
        # [B] each, by rank. Equal lengths keep the caller's order.
        self.positions = np.argsort(-self.lengths, kind="stable")  # in the caller's order
        self.descending = self.lengths[self.positions]  # lengths
        self.first_rows = (np.cumsum(self.lengths) - self.lengths)[self.positions]

    def __len__(self) -> int:
        """The number of sequences, B."""
        return int(self.lengths.size)

    @cached_property
    def addresses(self) -> tuple[int, int, int]:
        """The addresses of `descending`, `first_rows` and `positions` in memory."""
        arrays = (self.descending, self.first_rows, self.positions)
        first, second, third = (array.ctypes.data for array in arrays)
        return first, second, third

    @property
    def index_array(self) -> np.ndarray:
        """[3, B] of int32: `descending`, `first_rows` and `positions`, one below the other."""
        return np.stack([self.descending, self.first_rows, self.positions]).astype(np.int32)

    @cached_property
    def index(self) -> Tensor:
        """`index_array` on the device. Whoever copies it there with other things may set it."""
        return to_device(self.index_array, self.device)

    def count_longer(self, steps: int) -> int:
        """The number of sequences with more than `steps` steps."""
        return int(np.searchsorted(-self.descending, -steps, side="left")) if steps else len(self)

    @cached_property
    def batch_sizes(self) -> list[int]:
        """How many sequences have a first step, a second one, and so on, as in a
        `PackedSequence`."""
        steps = np.arange(self.descending[0])
        found: list[int] = np.searchsorted(-self.descending, -steps, side="left").tolist()
        return found

    @cached_property
    def order(self) -> Tensor:
        """[B]: rank -> position in the caller's order."""
        return self._index(self.positions)

    @cached_property
    def rank(self) -> Tensor:
        """[B]: position in the caller's order -> rank."""
        return self._index(np.argsort(self.positions))

    @cached_property
    def forward_rows(self) -> Tensor:
        """[N]: place in step order -> row, for the forward direction."""
        step, rank = self._step_order
        return self._index(self.first_rows[rank] + step)

    @cached_property
    def backward_rows(self) -> Tensor:
        """[N]: place in step order -> row, for the backward direction, whose first step is each
        sequence's last one."""
        step, rank = self._step_order
        return self._index(self.first_rows[rank] + self.descending[rank] - 1 - step)

    @cached_property
    def reversed_rows(self) -> Tensor:
        """[N]: row -> the row of the same sequence that is as far from its end."""
        ends = np.cumsum(self.lengths)
        mirrored = np.repeat(2 * ends - self.lengths - 1, self.lengths) - np.arange(self.steps)
        return self._index(mirrored)

    @cached_property
    def owners(self) -> Tensor:
        """[N]: row -> position of its sequence in the caller's order."""
        return self._index(np.repeat(np.arange(len(self)), self.lengths))

    @cached_property
    def _step_order(self) -> tuple[np.ndarray, np.ndarray]:
        """[N] each, in step order: the step, and the rank of its sequence."""
        sizes = np.asarray(self.batch_sizes)
        starts = np.cumsum(sizes) - sizes
        step = np.repeat(np.arange(sizes.size), sizes)
        return step, np.arange(self.steps) - np.repeat(starts, sizes)

    def _index(self, values: np.ndarray) -> Tensor:
        return to_device(np.ascontiguousarray(values), self.device)


def to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """Copy a few numbers to the device without waiting for it; on the CPU nothing is copied.

    Raises `RuntimeError` while a CUDA graph is captured: a replay would copy from where the
    numbers were.
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
