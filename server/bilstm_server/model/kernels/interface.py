"""What a kernel is: one LSTM layer, all its directions, over ragged batches.

Knows tensors and the layer's equations' inputs; knows no module, no model and no request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch._C import _len_torch_dispatch_stack
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad

_ORDINARY = frozenset((Tensor, nn.Parameter))


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

    @property
    def tensors(self) -> list[Tensor]:
        """Those that there are, without their gradients."""
        own = (self.w_ih, self.w_hh, self.b_ih, self.b_hh, self.w_hr)
        return [tensor.detach() for tensor in own if tensor is not None]

    def map(self, function: Callable[[Tensor], Tensor]) -> DirectionWeights:
        """These with each tensor's image."""
        optional = (self.b_ih, self.b_hh, self.w_hr)
        return DirectionWeights(
            function(self.w_ih),
            function(self.w_hh),
            *(None if tensor is None else function(tensor) for tensor in optional),
        )

    def copy(self) -> DirectionWeights:
        """The numbers of this moment."""
        return self.map(lambda tensor: tensor.detach().clone())


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


def rounded(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Converted to a type. Every NaN of half precision has the same bits, while torch's own
    conversion gives them by where they lie.
    """
    converted = numbers.to(dtype)
    if converted is numbers or dtype.itemsize >= torch.float32.itemsize:
        return converted
    return converted.masked_fill(converted.isnan(), torch.nan)


def needs_operations(*tensors: Tensor) -> bool:
    """Whether they must be computed with by torch's own operations, and not at their addresses.

    So it is where a gradient is to reach one of them, or comes from it in forward mode; where a
    transform (`vmap`, `functionalize`) or a mode (fake tensors) is to see every operation; and
    where one is no ordinary tensor, and has its numbers elsewhere or none.
    """
    return (
        _len_torch_dispatch_stack() > 0
        or peek_interpreter_stack() is not None
        or not _ORDINARY.issuperset(map(type, tensors))
        or (torch.is_grad_enabled() and any(map(_has_gradient, tensors)))
    )


def _has_gradient(tensor: Tensor) -> bool:
    dual = forward_ad.unpack_dual(tensor)  # type: ignore[no-untyped-call]
    return tensor.requires_grad or dual.tangent is not None


class KernelUnavailable(Exception):
    """A kernel can't run here; the message says why, and what to do about it."""


Results = tuple[Tensor, Tensor, Tensor]  # y, h_n and c_n


class Part(NamedTuple):
    """What one direction runs over: B sequences with N steps in all, and their states."""

    x: Tensor  # [N, D], the sequences one after the other
    batch: RaggedBatch
    h_0: Tensor  # [B, P], in the caller's order
    c_0: Tensor  # [B, H]

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.x, self.h_0, self.c_0


def state_type(weights: torch.dtype) -> torch.dtype:
    """What states have on their way from one `Part` to the next: float32 at least."""
    return torch.float32 if weights.itemsize < torch.float32.itemsize else weights


class Layer(Protocol):
    """A layer with its weights packed, ready to run."""

    kernel: str  # that runs it: a kernel may leave a layer to a slower one
    missed: str | None  # and why

    def __call__(self, x: Tensor, batch: RaggedBatch, h_0: Tensor, c_0: Tensor) -> Results:
        """Run every direction over the batch.

        `x` [N, D], the sequences one after the other; `h_0` [directions, B, P] and
        `c_0` [directions, B, H] in the caller's order. Returns `y` [N, directions * P] in x's
        order, and `h_n`, `c_n` shaped and ordered as `h_0`, `c_0`.
        """
        ...

    def apart(self, parts: Sequence[Part | None]) -> list[Results | None]:
        """Run each direction over rows of its own, without gradients.

        `parts` [directions]: the forward direction's, and the reverse's, which reads each sequence
        from its end; a direction of None has nothing to do. Returns of each direction `y` [N, P],
        `h_n` [B, P] and `c_n` [B, H]. States have `state_type`, so that a sequence that is
        continued from them is computed as one that is run whole.
        """
        ...


Linear = Callable[[Tensor], Tensor]  # [B, D] -> [B, columns]


class Kernel(Protocol):
    """Makes a layer out of its directions' weights: forward, and reverse where there is one."""

    def __call__(self, directions: Sequence[DirectionWeights]) -> Layer: ...

    def linear(self, weight: Tensor, bias: Tensor | None) -> Linear:
        """What computes x weightᵀ + bias, with copies of them: weight [columns, D]."""
        ...
