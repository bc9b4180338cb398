"""Matrices and biases that a kernel packs: what linear layers and convolutions are made of."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..frozen import Frozen
from ..kernels import Kernel, Linear
from .interface import Layer


class Matrix(NamedTuple):
    """What rows are multiplied with: x weightᵀ + bias."""

    weight: Tensor  # [columns, depth]
    bias: Tensor | None  # [columns]


class Product(Layer):
    """Multiplies rows with matrices of its parameters: by the kernel once it is frozen, so that a
    row's result does not depend on the others by a bit.

    Training mode, another dtype or device, and loading a state_dict thaw it.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    _frozen: Frozen[Product, list[Linear]] | None = None

    @abstractmethod
    def matrices(self) -> Sequence[Matrix]:
        """The matrices that the parameters make."""

    def multiply(self, rows: Tensor, index: int = 0) -> Tensor:
        """Multiply with one of the matrices: [rows, depth] -> [rows, columns]"""
        packed = None if self._frozen is None else self._frozen.packed_of(self)
        return F.linear(rows, *self.matrices()[index]) if packed is None else packed[index](rows)

    def freeze(self, kernel: Kernel) -> None:
        self._frozen = Frozen.make(self, kernel, _pack)

    def train(self, mode: bool = True) -> Self:
        if mode:
            self._frozen = None
        return super().train(mode)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self._frozen = None
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._frozen = None
        super()._load_from_state_dict(*args, **kwargs)


def _pack(product: Product, kernel: Kernel) -> list[Linear]:
    return [kernel.linear(*matrix) for matrix in product.matrices()]


def parameters(*shape: int, bias: bool) -> tuple[nn.Parameter, nn.Parameter | None]:
    """A weight of this shape, whose bias has its first size, drawn as nn.Linear draws them."""
    bound = (torch.Size(shape[1:]).numel()) ** -0.5
    weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
    return weight, nn.Parameter(torch.empty(shape[0]).uniform_(-bound, bound)) if bias else None
