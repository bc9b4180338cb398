"""`CpuLayer` and `CpuLinear`: weights packed for the compiled library, and tensors handed to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..interface import DirectionInput, DirectionWeights, Results, needs_operations
from ..ragged import RaggedBatch
from ..reference import ReferenceLayer
from .library import NUMBERS, BatchStruct, BatchStructs, LayerStruct, Library


class CpuLayer:
    """One layer with its weights packed for the kernel."""

    kernel = "cpu"
    fallback_reason: str | None = None

    def __init__(self, directions: Sequence[DirectionWeights], library: Library):
        first = directions[0]
        self._library = library
        self._number = NUMBERS[first.w_ih.dtype]
        # The weights of this moment, for the reference.
        self._directions = [direction.copy() for direction in directions]
        self._packed = [
            _Packed(
                library.pack(direction.w_ih, gates=True),
                library.pack(direction.w_hh, gates=True),
                None if direction.w_hr is None else library.pack(direction.w_hr, gates=False),
                library.pack_bias(len(direction.w_ih), True, direction.b_ih, direction.b_hh),
            )
            for direction in directions
        ]
        self._output = first.w_hh.shape[1]
        self._hidden = first.w_hh.shape[0] // 4
        self._layer = LayerStruct(first.w_ih.shape[1], self._hidden, self._output, len(directions))
        for direction, packed in zip(self._layer.direction, self._packed, strict=False):
            direction.w_ih, direction.w_hh, direction.w_hr, direction.bias = map(_address, packed)

    def __call__(self, x: Tensor, batch: RaggedBatch, h_0: Tensor, c_0: Tensor) -> Results:
        """See `Layer`. Raises `MemoryError`.

        Where torch's own operations are needed, for a gradient or under a transform, the reference
        computes this; see `needs_operations`.
        """
        if needs_operations(x, h_0, c_0):
            return ReferenceLayer(self._directions)(x, batch, h_0, c_0)
        x, h_0, c_0 = x.contiguous(), h_0.contiguous(), c_0.contiguous()
        sequences, directions = len(batch), len(self._packed)
        y = x.new_empty(batch.steps, directions * self._output)
        h_n, c_n = torch.empty_like(h_0), torch.empty_like(c_0)
        start, addresses = x.data_ptr(), batch.addresses
        ys, hs, cs, h_ns, c_ns = map(Tensor.data_ptr, (y, h_0, c_0, h_n, c_n))
        # From one direction to the next: its columns of y, its rows of the states.
        column = self._output * x.itemsize
        h_rows, c_rows = sequences * column, sequences * self._hidden * x.itemsize
        passed = BatchStructs()
        for k in range(directions):
            passed[k] = BatchStruct(
                *(sequences, *addresses, start, ys + k * column, directions * self._output),
                *(hs + k * h_rows, cs + k * c_rows, h_ns + k * h_rows, c_ns + k * c_rows),
            )
        self._library.run(self._number, self._layer, passed)
        return y, h_n, c_n

    def per_direction(self, inputs: Sequence[DirectionInput | None]) -> list[Results | None]:
        """See `Layer`. Raises `MemoryError`. The reference may run, as in a call."""
        if needs_operations(*(tensor for given in inputs if given for tensor in given.tensors)):
            return ReferenceLayer(self._directions).per_direction(inputs)
        results: list[Results | None] = []
        passed = BatchStructs()
        read: list[Tensor] = []  # by the kernel: not to be freed before
        for k, given in enumerate(inputs):
            if given is None:
                results.append(None)
                continue
            x, batch = given.x.contiguous(), given.batch
            h_0, c_0 = given.h_0.to(x.dtype).contiguous(), given.c_0.float().contiguous()
            y = x.new_empty(batch.steps, self._output)
            h_n, c_n = torch.empty_like(h_0), torch.empty_like(c_0)
            states = (state.data_ptr() for state in (h_0, c_0, h_n, c_n))
            passed[k] = BatchStruct(
                *(len(batch), *batch.addresses, x.data_ptr(), y.data_ptr(), self._output),
                *(*states, True),
            )
            results.append((y, h_n, c_n))
            read += (x, h_0, c_0)
        self._library.run(self._number, self._layer, passed)
        return [result and (result[0], result[1].float(), result[2]) for result in results]


class CpuLinear:
    """A matrix and a bias packed for the kernel: what `torch.nn.functional.linear` computes."""

    def __init__(self, weight: Tensor, bias: Tensor | None, library: Library):
        self._library = library
        self._copies = (weight.detach().clone(), None if bias is None else bias.detach().clone())
        self._sizes = (weight.shape[1], weight.shape[0])
        self._number = NUMBERS[weight.dtype]
        self._packed = (library.pack(weight, False), library.pack_bias(len(weight), False, bias))

    def __call__(self, x: Tensor) -> Tensor:
        """Compute x weightᵀ + bias: [B, D] -> [B, columns]. Raises `MemoryError`."""
        if needs_operations(x):
            return F.linear(x, *self._copies)
        x = x.contiguous()
        y = x.new_empty(len(x), self._sizes[1])
        addresses = (tensor.data_ptr() for tensor in (x, *self._packed, y))
        self._library.run_linear(self._number, (len(x), *self._sizes), *addresses)
        return y


class _Packed(NamedTuple):
    w_ih: Tensor
    w_hh: Tensor
    w_hr: Tensor | None
    bias: Tensor


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
