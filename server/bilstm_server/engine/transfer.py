"""How a batch's arrays come to the device that computes, and its results back.

On CUDA they lie in one page-locked buffer and go in one copy, on a stream for copies, while the
batch before is computed; results come back the same way. On the CPU all stays where it is. Knows
tensors and streams; knows no sequence and no model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from math import prod
from typing import Any, NamedTuple, Protocol, TypeVar

import ml_dtypes
import torch
from torch import Tensor

from .sequences import Array

ALIGNMENT = 256  # bytes, as CUDA aligns what it allocates

Shape = tuple[int, ...]
K = TypeVar("K")


class Item(NamedTuple):
    """An array that goes to the device, and what writes it."""

    shape: Shape
    dtype: torch.dtype
    write: Callable[[Array], object]


class Layout:
    """Where arrays of several shapes and types lie in one buffer, one after the other."""

    def __init__(self, forms: Iterable[tuple[Shape, torch.dtype]]):
        self.size = 0  # bytes
        self._spans: list[tuple[slice, Shape, torch.dtype]] = []
        for shape, dtype in forms:
            start = -(-self.size // ALIGNMENT) * ALIGNMENT
            self.size = start + prod(shape) * dtype.itemsize
            self._spans.append((slice(start, self.size), shape, dtype))

    def views(self, buffer: Tensor) -> list[Tensor]:
        """The arrays, in a buffer of bytes [size] on any device."""
        return [buffer[span].view(dtype).view(shape) for span, shape, dtype in self._spans]


class Upload(NamedTuple):
    """Tensors on the device, or on their way to it: see `make_stream_wait`."""

    tensors: Sequence[Tensor]
    copied: torch.cuda.Event | None = None

    def make_stream_wait(self) -> None:
        """Let the current stream, not the caller, wait until the tensors are on the device: what is
        computed on that stream from now on finds them there.
        """
        if self.copied is None:
            return
        stream = torch.cuda.current_stream()
        stream.wait_event(self.copied)
        # Their one buffer is the copying stream's, which may write to it again when it is dropped:
        # but not before this stream has read it, even if what computes gives up in the middle.
        self.tensors[0].record_stream(stream)


class Transfer(Protocol):
    """The way to one device and back."""

    def upload(self, items: Sequence[Item]) -> Upload:
        """Have each item write its array, and send all of them to the device."""
        ...

    def computing(self) -> AbstractContextManager[Any]:
        """A context in which to wait for uploads, compute, and download."""
        ...

    def download(self, tensors: Mapping[K, Tensor]) -> dict[K, Array]:
        """Wait for the tensors, and return them as arrays in host memory, integers as int32. These
        may share memory, which lives as long as one of them.
        """
        ...


def transfer_for(device: torch.device) -> Transfer:
    """The way to `device`, for a model whose weights are there already, or are computed on the
    current stream.
    """
    return CudaTransfer(device) if device.type == "cuda" else HostTransfer()


class HostTransfer:
    """The way to the CPU, which is none: what computes reads the host's memory."""

    def upload(self, items: Sequence[Item]) -> Upload:
        """See `Transfer`."""
        tensors = []
        for shape, dtype, write in items:
            tensor = torch.empty(shape, dtype=dtype)
            write(as_array(tensor))
            tensors.append(tensor)
        return Upload(tensors)

    def computing(self) -> AbstractContextManager[Any]:
        """See `Transfer`."""
        return nullcontext()

    def download(self, tensors: Mapping[K, Tensor]) -> dict[K, Array]:
        """See `Transfer`."""
        return {name: result_array(tensor) for name, tensor in tensors.items()}


class CudaTransfer:
    """The way to a GPU, through page-locked memory. That is torch's to keep, and to use again once
    it has been copied and nobody has an array of it.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._copies, self._computations = _streams(device)
        self._computations.wait_stream(torch.cuda.current_stream(device))

    def upload(self, items: Sequence[Item]) -> Upload:
        """See `Transfer`."""
        layout = Layout((item.shape, item.dtype) for item in items)
        buffer = torch.empty(layout.size, dtype=torch.uint8, pin_memory=True)
        for item, tensor in zip(items, layout.views(buffer), strict=True):
            item.write(as_array(tensor))
        with torch.cuda.stream(self._copies):
            copy = buffer.to(self._device, non_blocking=True)
            return Upload(layout.views(copy), self._copies.record_event())

    def computing(self) -> AbstractContextManager[Any]:
        """See `Transfer`."""
        return torch.cuda.stream(self._computations)

    def download(self, tensors: Mapping[K, Tensor]) -> dict[K, Array]:
        """See `Transfer`."""
        if not tensors:
            return {}
        tensors = widest_first(tensors)
        joined = join(tensors)
        buffer = torch.empty(joined.shape, dtype=joined.dtype, pin_memory=True)
        buffer.copy_(joined, non_blocking=True)
        self._computations.record_event().synchronize()
        arrays = part(buffer, tensors)
        largest = max(arrays, key=lambda name: arrays[name].nbytes)
        # So that whoever keeps little of a batch, a stream for instance, does not keep the buffer.
        return {n: array if n == largest else array.copy() for n, array in arrays.items()}


@cache
def _streams(device: torch.device) -> tuple[torch.cuda.Stream, torch.cuda.Stream]:
    """One stream for copies to the device, and one to compute. All models of the device share them:
    they take turns, and one has at once the memory that another one has left.
    """
    copies, computations = (torch.cuda.Stream(device) for _ in range(2))  # type: ignore[no-untyped-call]
    return copies, computations


def join(tensors: Mapping[K, Tensor]) -> Tensor:
    """Tensors, the widest types first, one after the other: [bytes of all]."""
    flat = [_as_sent(tensor).flatten().view(torch.uint8) for tensor in tensors.values()]
    return flat[0] if len(flat) == 1 else torch.cat(flat)


def part(joined: Tensor, tensors: Mapping[K, Tensor]) -> dict[K, Array]:
    """What `join` gave, in host memory, as arrays shaped as the tensors; views, not copies."""
    types = [torch.int32 if t.dtype == torch.int64 else t.dtype for t in tensors.values()]
    sizes = [t.numel() * own.itemsize for t, own in zip(tensors.values(), types, strict=True)]
    parts = torch.split(joined, sizes)
    return {
        name: as_array(own.view(dtype).view(tensor.shape))
        for own, dtype, (name, tensor) in zip(parts, types, tensors.items(), strict=True)
    }


def widest_first(tensors: Mapping[K, Tensor]) -> dict[K, Tensor]:
    """So that each lies at a multiple of its numbers' size."""
    return dict(sorted(tensors.items(), key=lambda item: -_as_sent_size(item[1])))


def _as_sent_size(tensor: Tensor) -> int:
    return torch.int32.itemsize if tensor.dtype == torch.int64 else tensor.itemsize


def _as_sent(tensor: Tensor) -> Tensor:
    """Integers as int32: they are ids of far fewer classes."""
    return tensor.to(torch.int32) if tensor.dtype == torch.int64 else tensor


def result_array(tensor: Tensor) -> Array:
    """A result in host memory as an array, integers as int32."""
    return as_array(_as_sent(tensor))


def as_array(tensor: Tensor) -> Array:
    """An array over the same memory, also for bfloat16."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
