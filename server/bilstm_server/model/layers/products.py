"""Matrices and biases that a kernel packs: what linear layers and convolutions are made of."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels import Kernel, Linear
from .packing import PackingLayer


class Matrix(NamedTuple):
    """What rows are multiplied with: x weightᵀ + bias."""

    weight: Tensor  # [columns, depth]
    bias: Tensor | None  # [columns]


class Product(PackingLayer[list[Linear]]):
    """Multiplies rows with matrices of its parameters: by the kernel once it is frozen, so that a
    row's result does not depend on the others by a bit.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    @abstractmethod
    def matrices(self) -> Sequence[Matrix]:
        """The matrices that the parameters make."""

    def multiply(self, rows: Tensor, index: int = 0) -> Tensor:
        """Multiply with one of the matrices: [rows, depth] -> [rows, columns]"""
        packed = self.packed
        return F.linear(rows, *self.matrices()[index]) if packed is None else packed[index](rows)

    def pack(self, kernel: Kernel) -> list[Linear]:
        return [kernel.linear(*matrix) for matrix in self.matrices()]


def parameters(*shape: int, bias: bool) -> tuple[nn.Parameter, nn.Parameter | None]:
    """A weight of this shape, whose bias has its first size, drawn as nn.Linear draws them."""
    bound = (torch.Size(shape[1:]).numel()) ** -0.5
    weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
    return weight, nn.Parameter(torch.empty(shape[0]).uniform_(-bound, bound)) if bias else None
