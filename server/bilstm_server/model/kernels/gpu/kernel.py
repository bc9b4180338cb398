"""The layer on a GPU of NVIDIA's: float32, bfloat16 and float16, for inference.

Needs Triton, which comes with torch for CUDA on Linux, and which needs a C compiler at run time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from triton.runtime import driver

from ..interface import (
    DirectionWeights,
    KernelUnavailable,
    Layer,
    Linear,
    Viterbi,
    needs_operations,
)
from ..reference import ReferenceLayer
from .layer import GpuLayer, shape_of
from .plans import CostTable, Processor, Shape
from .tuning import Tuner

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_LEAST_CAPABILITY = (8, 0)


class GpuKernel:
    """The kernel for one GPU, and what plans cost on it for the shapes of layers that were made.

    It makes reference layers out of weights that it has no plan for.
    """

    name = "gpu"

    def __init__(self, device: torch.device, tuner: type[Tuner] | None = None):
        """`tuner` chooses the plans; a benchmark has one that notes what it tries.

        Raises `KernelUnavailable` if the kernel can't run on the device.
        """
        if torch.version.cuda is None:
            raise KernelUnavailable("the gpu kernel needs a torch with CUDA")
        capability = torch.cuda.get_device_capability(device)
        if capability < _LEAST_CAPABILITY:
            raise KernelUnavailable(
                "the gpu kernel needs compute capability 8.0 or more; "
                f"{torch.cuda.get_device_name(device)} has {capability[0]}.{capability[1]}"
            )
        self._device = device
        self._tuner = tuner or Tuner
        self.processor = _start_triton(device)
        self._tables: dict[Shape, CostTable | KernelUnavailable] = {}

    def __call__(self, directions: Sequence[DirectionWeights]) -> Layer:
        """Make a layer. The first one of a shape takes as long as all its plans take to compile and
        to run a few times.
        """
        weights = directions[0]
        if weights.w_hr is not None:
            return ReferenceLayer(directions, "the gpu kernel has no projection (proj_size)")
        if weights.w_hh.dtype not in _DTYPES:
            return ReferenceLayer(
                directions, f"the gpu kernel does not compute in {weights.w_hh.dtype}"
            )
        if needs_operations(*(tensor for own in directions for tensor in own.tensors)):
            return ReferenceLayer(directions, "the gpu kernel packs ordinary tensors only")
        shape = shape_of(directions)
        try:
            with torch.cuda.device_of(weights.w_hh):  # type: ignore[no-untyped-call]
                return GpuLayer(directions, shape, self._table(shape))
        except KernelUnavailable as error:
            return ReferenceLayer(directions, str(error))

    @staticmethod
    def linear(weight: Tensor, bias: Tensor | None) -> Linear:
        """See `Kernel`."""
        return ReferenceLayer.linear(weight, bias)

    @staticmethod
    def viterbi(transitions: Tensor, start: Tensor, end: Tensor) -> Viterbi:
        """See `Kernel`."""
        return ReferenceLayer.viterbi(transitions, start, end)

    def _table(self, shape: Shape) -> CostTable:
        if shape not in self._tables:
            try:
                self._tables[shape] = self._tuner(shape, self.processor, self._device).table()
            except KernelUnavailable as error:
                self._tables[shape] = error
        found = self._tables[shape]
        if isinstance(found, KernelUnavailable):
            raise found
        return found


@cache
def load(device: torch.device) -> GpuKernel:
    """Load the kernel for this GPU. Raises `KernelUnavailable`, with what to do about it."""
    return GpuKernel(device)


def _start_triton(device: torch.device) -> Processor:
    """Have Triton compile what it launches kernels with, unless it finds it in its cache."""
    try:
        properties = driver.active.utils.get_device_properties(device.index or 0)
    except Exception as error:  # of many types: no compiler, no headers, a cache it can't write
        raise KernelUnavailable(
            f"the gpu kernel: Triton can't compile its launcher ({error}); it needs gcc or clang "
            "(or CC to name one), Python's headers, and a folder that it can write to and run code "
            "from (TRITON_CACHE_DIR)"
        ) from error
    return Processor(properties["multiprocessor_count"], properties["max_shared_mem"])
