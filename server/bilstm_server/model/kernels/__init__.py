"""The kernels this project has, by name, and the choice among them.

A kernel runs one LSTM layer over a ragged batch; see `interface`. Nothing above `model/`
names a kernel otherwise than by its string.
"""

from __future__ import annotations

from .interface import DirectionWeights, Kernel, Layer, RaggedBatch
from .reference import ReferenceLayer

# Fastest first: `auto` takes the first that the machine can run.
KERNELS: dict[str, Kernel] = {"reference": ReferenceLayer}


def choose_kernel(name: str = "auto") -> str:
    """The kernel that `name` stands for; `auto` is the fastest one here.

    Raises `ValueError` for a name that is no kernel.
    """
    if name == "auto":
        return next(iter(KERNELS))
    if name not in KERNELS:
        raise ValueError(f"no kernel is named {name!r}; there are: auto, {', '.join(KERNELS)}")
    return name


__all__ = [
    "KERNELS",
    "DirectionWeights",
    "Kernel",
    "Layer",
    "RaggedBatch",
    "choose_kernel",
]
