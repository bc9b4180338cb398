"""The kernels this project has, by name, and the choice among them.

A kernel runs one LSTM layer over a ragged batch; see `interface`. Nothing above `model/`
names a kernel otherwise than by its string.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from .cpu import kernel as cpu
from .interface import (
    MOST_TAGS,
    Backpointers,
    DirectionInput,
    DirectionWeights,
    Kernel,
    KernelUnavailable,
    Layer,
    Linear,
    Paths,
    Results,
    Viterbi,
    needs_operations,
    rounded,
    state_type,
)
from .ragged import RaggedBatch, to_device
from .reference import ReferenceLayer
from .viterbi import ReferenceViterbi

NAMES = ("gpu", "cpu", "reference")  # fastest first


class Choice(NamedTuple):
    """A kernel that can run, and what there is to say of it."""

    kernel: Kernel
    instructions: str | None = None  # the instruction set that it was compiled for
    fallback_reason: str | None = None  # why it is not a faster one

    @property
    def name(self) -> str:
        """The kernel's name."""
        return self.kernel.name


def choose_kernel(name: str, device: torch.device) -> Choice:
    """Choose the kernel that `name` stands for on the device; `auto` is the fastest one there.

    Raises `KernelUnavailable`, with the reason, if it can't run there, and `ValueError` for a name
    that is no kernel.
    """
    if name == "auto":
        try:
            return choose_kernel("cpu" if device.type == "cpu" else "gpu", device)
        except KernelUnavailable as error:
            return Choice(ReferenceLayer, fallback_reason=str(error))
    if name == "gpu":
        if device.type != "cuda":
            raise KernelUnavailable(f"the gpu kernel can't run on {device.type}")
        return Choice(_load_gpu(device))
    if name == "cpu":
        if device.type != "cpu":
            raise KernelUnavailable(f"the cpu kernel can't run on {device.type}")
        kernel = cpu.load()
        return Choice(kernel, kernel.instructions, kernel.fallback_reason)
    if name == "reference":
        return Choice(ReferenceLayer)
    raise ValueError(f"no kernel is named {name!r}; there are: auto, {', '.join(NAMES)}")


def _load_gpu(device: torch.device) -> Kernel:
    try:
        from .gpu import kernel
    except ImportError as error:
        raise KernelUnavailable(
            f"the gpu kernel needs Triton, which comes with torch for CUDA on Linux: {error}"
        ) from error
    return kernel.load(device)


__all__ = [
    "MOST_TAGS",
    "NAMES",
    "Backpointers",
    "Choice",
    "DirectionInput",
    "DirectionWeights",
    "Kernel",
    "KernelUnavailable",
    "Layer",
    "Linear",
    "Paths",
    "RaggedBatch",
    "ReferenceViterbi",
    "Results",
    "Viterbi",
    "choose_kernel",
    "needs_operations",
    "rounded",
    "state_type",
    "to_device",
]
