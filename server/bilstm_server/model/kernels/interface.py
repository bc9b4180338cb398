"""What a kernel is: one LSTM layer, all its directions, over ragged batches.

Knows tensors and the layer's equations' inputs; knows no module, no model and no request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch._C import _is_tracing, _len_torch_dispatch_stack
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad

from .ragged import RaggedBatch

MOST_TAGS = torch.iinfo(torch.int16).max + 1

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
        """The tensors that are not None, without their gradients."""
        own = (self.w_ih, self.w_hh, self.b_ih, self.b_hh, self.w_hr)
        return [tensor.detach() for tensor in own if tensor is not None]

    def map(self, function: Callable[[Tensor], Tensor]) -> DirectionWeights:
        """The same weights with `function` applied to each tensor."""
        optional = (self.b_ih, self.b_hh, self.w_hr)
        return DirectionWeights(
            function(self.w_ih),
            function(self.w_hh),
            *(None if tensor is None else function(tensor) for tensor in optional),
        )

    def copy(self) -> DirectionWeights:
        """A copy of the numbers of this moment, without gradients."""
        return self.map(lambda tensor: tensor.detach().clone())


def rounded(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert numbers to a type, so that every NaN of half precision has the same bits: torch's own
    conversion gives them bits that depend on where they lie.
    """
    converted = numbers.to(dtype)
    if converted is numbers or dtype.itemsize >= torch.float32.itemsize:
        return converted
    return converted.masked_fill(converted.isnan(), torch.nan)


def needs_operations(*tensors: Tensor) -> bool:
    """Whether only torch's own operations can compute with these tensors, so that a kernel that
    reads their memory must leave them to the reference.

    That is so where a gradient is to reach one of them, or comes from it in forward mode; where a
    transform (`vmap`, `functionalize`), a mode (fake tensors) or `torch.jit.trace` is to see every
    operation; and where one is no ordinary tensor, and has its numbers elsewhere or none.
    """
    return (
        _len_torch_dispatch_stack() > 0
        or peek_interpreter_stack() is not None
        or _is_tracing()
        or not _ORDINARY.issuperset(map(type, tensors))
        or (torch.is_grad_enabled() and any(map(_has_gradient, tensors)))
    )


def _has_gradient(tensor: Tensor) -> bool:
    dual = forward_ad.unpack_dual(tensor)  # type: ignore[no-untyped-call]
    return tensor.requires_grad or dual.tangent is not None


class KernelUnavailable(Exception):
    """A kernel can't run on this machine. The message says why, and what to do about it."""


Results = tuple[Tensor, Tensor, Tensor]  # y, h_n and c_n


class DirectionInput(NamedTuple):
    """What one direction runs over: B sequences with N steps in all, and their initial states."""

    x: Tensor  # [N, D], the sequences one after the other
    batch: RaggedBatch
    h_0: Tensor  # [B, P], in the caller's order
    c_0: Tensor  # [B, H]

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """x, h_0 and c_0."""
        return self.x, self.h_0, self.c_0


def state_type(weights: torch.dtype) -> torch.dtype:
    """The type of states that go from one `DirectionInput` to the next: float32 at least."""
    return torch.float32 if weights.itemsize < torch.float32.itemsize else weights


class Layer(Protocol):
    """A layer with its weights packed, ready to run."""

    kernel: str  # the name of the one that runs it: a kernel may leave a layer to a slower one
    fallback_reason: str | None  # why it is not as fast as it could be: what a kernel left out

    def __call__(self, x: Tensor, batch: RaggedBatch, h_0: Tensor, c_0: Tensor) -> Results:
        """Run every direction over the batch.

        `x` is [N, D], the sequences one after the other; `h_0` [directions, B, P] and
        `c_0` [directions, B, H] are in the caller's order. Returns `y` [N, directions * P] in x's
        order, and `h_n` and `c_n`, shaped and ordered as `h_0` and `c_0`.
        """
        ...

    def per_direction(self, inputs: Sequence[DirectionInput | None]) -> list[Results | None]:
        """Run each direction over an input of its own, without gradients.

        `inputs` are the forward direction's and the backward one's, which reads each sequence from
        its end; None leaves a direction out. Returns each direction's `y` [N, P], `h_n` [B, P] and
        `c_n` [B, H], or None. States have `state_type`, so that a sequence that is continued from
        them has the results of one that is run whole.
        """
        ...


Linear = Callable[[Tensor], Tensor]  # [B, D] -> [B, columns]


class Backpointers(NamedTuple):
    """Where the best paths to each of a CRF's C tags come from, and what they have scored so far:
    after N steps of B sequences.
    """

    tags: Tensor  # [N, C] of int16: the tag before; 0 at a sequence's first step
    scores: Tensor  # [B, C], in the caller's order


class Paths(NamedTuple):
    """The best paths through a CRF's tags, of B sequences with N steps in all."""

    tags: Tensor  # [N] of int64
    scores: Tensor  # [B], in the caller's order


class Viterbi(Protocol):
    """A linear-chain CRF with C tags, ready to find the best path of each sequence.

    A sequence's path and scores have the same bits alone and in any batch, whole and in parts.
    Scores are floats of the CRF's own type, float32 at least. Of equal ones the lowest tag's
    counts; a NaN stays in its own sequence.
    """

    def advance(
        self, emissions: Tensor, batch: RaggedBatch, scores: Tensor | None = None
    ) -> Backpointers:
        """Walk the steps of each sequence from its first one on, or go on from `scores` [B, C],
        those that it had come to. `emissions` are [N, C], of floats of any type.
        """
        ...

    def trace(self, backpointers: Tensor, scores: Tensor, batch: RaggedBatch) -> Paths:
        """Walk each best path back from its end: `backpointers` [N, C] are those of all steps of
        each sequence, and `scores` [B, C] what the last of them came to.
        """
        ...


class Kernel(Protocol):
    """A way to compute layers: makes one out of the weights of its directions, the forward one and,
    where there is one, the backward one.
    """

    name: str  # that `choose_kernel` knows it by

    def __call__(self, directions: Sequence[DirectionWeights]) -> Layer:
        """Make a layer of the weights of this moment. What the kernel can't run, it leaves to the
        reference.
        """
        ...

    def linear(self, weight: Tensor, bias: Tensor | None) -> Linear:
        """Make what computes x weightᵀ + bias, with copies of both: `weight` is [columns, D]."""
        ...

    def viterbi(self, transitions: Tensor, start: Tensor, end: Tensor) -> Viterbi:
        """Make what finds the best paths of a linear-chain CRF, with copies of its scores:
        `transitions` [from, to], `start` and `end` [C]. One that is minus infinity can't be taken.
        C is `MOST_TAGS` at most.
        """
        ...
