"""Models that take numbers out of torch, or tell ids apart: what no recording of theirs shows.

Their examples have few steps, so that each recording has all of them, and the same maximum.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .case import Case


class Frames(nn.Module):
    """A tagger of frames, which are prepared before."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 4, batch_first=True)
        self.fc = nn.Linear(4, 3)

    def prepared(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.lstm(self.prepared(x))[0])


class BranchByItem(Frames):
    def prepared(self, x: Tensor) -> Tensor:
        return x / 100 if x.abs().max().item() > 100 else x


class BranchByFloat(Frames):
    def prepared(self, x: Tensor) -> Tensor:
        return x / 100 if float(x.abs().max()) > 100 else x


class BranchByNumpy(Frames):
    def prepared(self, x: Tensor) -> Tensor:
        return x / 100 if np.abs(x.numpy()).max() > 100 else x


class BranchByShape(Frames):
    def prepared(self, x: Tensor) -> Tensor:
        return x / 100 if x[x > 100].numel() else x


class BranchByEqual(Frames):
    def prepared(self, x: Tensor) -> Tensor:
        return x + 1 if torch.equal(x, torch.zeros_like(x)) else x


class BranchByTruth(Frames):
    def prepared(self, x: Tensor) -> Tensor:
        return x / 100 if (x > 100).any().item() else x


class ScaledByItem(Frames):
    def prepared(self, x: Tensor) -> Tensor:
        return x / x.abs().max().item()


class ScaledByNumpy(Frames):
    def prepared(self, x: Tensor) -> Tensor:
        return x / float(np.abs(x.numpy()).max())


class ThroughNumpy(Frames):
    def prepared(self, x: Tensor) -> Tensor:
        return x + torch.from_numpy(x.numpy().max(axis=1, keepdims=True))


class BySlice(Frames):
    def prepared(self, x: Tensor) -> Tensor:
        return x * x[0, 0].argmax().item()


class Copied(Frames):
    def prepared(self, x: Tensor) -> Tensor:
        return copy.deepcopy(x) * 2 + torch.from_numpy(x.numpy())


class Printed(Frames):
    def prepared(self, x: Tensor) -> Tensor:
        assert x.abs().max().item() < 1e9, f"{x.mean():.3f} {x}"
        return x


class WritesItsInput(Frames):
    def prepared(self, x: Tensor) -> Tensor:
        x.view(-1)[::2] *= 2
        return x


class WritesAList(Frames):
    def prepared(self, x: Tensor) -> Tensor:
        copies = [x.clone()]
        torch._foreach_mul_(copies, 2.0)
        return copies[0]


class Complex(Frames):
    def prepared(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.unflatten(-1, (3, 2)).contiguous())  # type: ignore[no-untyped-call]
        return torch.view_as_real(pairs * 1j).flatten(-2)


class RunningMean(Frames):
    """It keeps a mean of all that it saw."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.calls = 1
        self.register_buffer("seen", torch.zeros(6))

    def prepared(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.mul_(0.9).add_(0.1 * x.mean((0, 1)))
        return x - self.seen


class SafeLogarithm(Frames):
    def prepared(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x.log(), torch.zeros_like(x))


class SafeQuotient(Frames):
    def prepared(self, x: Tensor) -> Tensor:
        return (1 / x).masked_fill(x.abs() < 0.01, 0.0)


class Masked(Frames):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).masked_fill(torch.tensor([True, True, False]), -1e9)


class Words(nn.Module):
    """A tagger of words."""

    def __init__(self, **embedding: Any):
        super().__init__()
        self.embed = nn.Embedding(50, 6, **embedding)
        self.lstm = nn.LSTM(6, 4, batch_first=True)
        self.fc = nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.fc(self.lstm(self.embed(ids))[0])


class TwoIdsApart(Words):
    def forward(self, ids: Tensor) -> Tensor:
        is_known = ((ids != 0) & (ids != 1)).unsqueeze(-1)
        return self.fc(self.lstm(self.embed(ids) * is_known)[0])


class BranchByIds(Words):
    def forward(self, ids: Tensor) -> Tensor:
        y = super().forward(ids)
        return y * 2 if ids.max().item() == 49 else y


def frames() -> Tensor:
    """One sequence of floats."""
    return torch.randn(1, 4, 6)


def words() -> Tensor:
    """One sequence of words."""
    return torch.tensor([[3, 9, 12, 21, 5, 9, 33]])


_DECIDES = "decides or computes by numbers of the sequence in Python"
_NUMPY = "is computed by numpy"

CASES = [
    Case("copied", Copied, frames),
    Case("printed", Printed, frames),
    Case("masked", Masked, frames),
    Case("running_mean", RunningMean, frames),
    Case("writes_its_input", WritesItsInput, frames),
]

REFUSED = [
    Case("branch_by_item", BranchByItem, frames, refused=_DECIDES),
    Case("branch_by_float", BranchByFloat, frames, refused=_DECIDES),
    Case("branch_by_numpy", BranchByNumpy, frames, refused=_NUMPY),
    Case("branch_by_shape", BranchByShape, frames, refused=_DECIDES),
    Case("branch_by_equal", BranchByEqual, frames, refused=_DECIDES),
    Case("branch_by_truth", BranchByTruth, frames, refused=_DECIDES),
    Case("scaled_by_item", ScaledByItem, frames, refused=_DECIDES),
    Case("scaled_by_numpy", ScaledByNumpy, frames, refused=_NUMPY),
    Case("through_numpy", ThroughNumpy, frames, refused=_NUMPY),
    Case("by_slice", BySlice, frames, refused=_DECIDES),
    Case("writes_a_list", WritesAList, frames, refused="writes into a list of tensors"),
    Case("complex", Complex, frames, refused="complex numbers"),
    Case("safe_log", SafeLogarithm, frames, refused="may be infinite or NaN"),
    Case("safe_quotient", SafeQuotient, frames, refused="may be infinite or NaN"),
    Case("two_ids_apart", TwoIdsApart, words, refused="only one can be padding"),
    Case("branch_by_ids", BranchByIds, words, refused=_DECIDES),
    Case("max_norm", lambda: Words(max_norm=1.0), words, refused="set max_norm to None"),
]
