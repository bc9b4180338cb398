"""The layer on a CPU, compiled: float32 and bfloat16, for inference.

Chooses and checks what was compiled, and says of which weights it makes layers. `cpu.cpp` has the
recurrence, and `library` is the way to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ..interface import (
    DirectionWeights,
    KernelUnavailable,
    Layer,
    Linear,
    Viterbi,
    needs_operations,
)
from ..ragged import RaggedBatch
from ..reference import ReferenceLayer
from . import build
from .layer import CpuLayer, CpuLinear
from .library import NUMBERS, Library
from .viterbi import CpuViterbi


class CpuKernel:
    """The kernel of a compiled library.

    It makes reference layers out of weights that are neither float32 nor bfloat16, or not on the
    CPU.
    """

    name = "cpu"

    def __init__(self, library: Path, fallback_reason: str | None = None):
        """`fallback_reason` says why it is not a faster library.

        Raises `KernelUnavailable` if the library does not load, or does not compute rightly.
        """
        self.fallback_reason = fallback_reason
        self._library = Library(library)
        self._check()
        self._check_paths()

    @property
    def instructions(self) -> str:
        """The name of the instruction set that the library was compiled for."""
        return self._library.instructions

    def __call__(self, directions: Sequence[DirectionWeights]) -> Layer:
        """See `Kernel`."""
        if not _can_pack(*(tensor for own in directions for tensor in own.tensors)):
            return ReferenceLayer(directions)
        return CpuLayer(directions, self._library)

    def linear(self, weight: Tensor, bias: Tensor | None) -> Linear:
        """See `Kernel`. A row of the result has the same bits whatever the other rows are."""
        if not _can_pack(weight.detach()):
            return ReferenceLayer.linear(weight, bias)
        return CpuLinear(weight, bias, self._library)

    def viterbi(self, transitions: Tensor, start: Tensor, end: Tensor) -> Viterbi:
        """See `Kernel`."""
        tensors = (transitions.detach(), start.detach(), end.detach())
        if transitions.device.type != "cpu" or needs_operations(*tensors):
            return ReferenceLayer.viterbi(transitions, start, end)
        return CpuViterbi(transitions, start, end, self._library)

    def _check(self) -> None:
        """Compare a small batch with float64: what was compiled was perhaps never run on a CPU
        like this one.
        """
        generator = torch.Generator().manual_seed(0)
        batch = RaggedBatch([1 + index % 3 for index in range(40)])
        width, hidden, output = 37, 24, 19

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(dtype)

        for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
            directions = [
                DirectionWeights(
                    draw(4 * hidden, width) / 6,
                    draw(4 * hidden, output) / 4,
                    draw(4 * hidden),
                    draw(4 * hidden),
                    draw(output, hidden),
                )
                for _ in range(2)
            ]
            inputs = draw(batch.steps, width), draw(2, 40, output), draw(2, 40, hidden)
            x, h_0, c_0 = (t.double() for t in inputs)
            exact = ReferenceLayer([d.map(Tensor.double) for d in directions])(x, batch, h_0, c_0)
            actual = CpuLayer(directions, self._library)(inputs[0], batch, *inputs[1:])
            for one, other in zip(actual, exact, strict=True):
                if not (one.double() - other).norm() <= tolerance * other.norm():
                    raise KernelUnavailable(f"the cpu kernel computed wrong results in {dtype}")

    def _check_paths(self) -> None:
        """Compare the best paths of a small batch with the reference's, whose bits they have."""
        generator = torch.Generator().manual_seed(0)
        batch, tags = RaggedBatch([1 + index % 3 for index in range(20)]), 37
        shapes = ((tags, tags), (tags,), (tags,), (batch.steps, tags))
        for dtype in (torch.float32, torch.float64):
            *chain, emissions = (torch.randn(s, generator=generator, dtype=dtype) for s in shapes)
            paths = [
                viterbi.trace(*viterbi.advance(emissions, batch), batch)
                for viterbi in (self.viterbi(*chain), ReferenceLayer.viterbi(*chain))
            ]
            if not all(map(torch.equal, *paths)):
                raise KernelUnavailable(f"the cpu kernel found wrong paths in {dtype}")


def _can_pack(*weights: Tensor) -> bool:
    return (
        weights[0].dtype in NUMBERS
        and weights[0].device.type == "cpu"
        and not needs_operations(*weights)
    )


@cache
def load() -> CpuKernel:
    """Load the kernel for this machine. Raises `KernelUnavailable`, with what to do about it."""
    variants = build.runnable()
    if not variants:
        raise KernelUnavailable(f"the cpu kernel: {build.NO_VARIANT}")
    fallback_reason: str | None = None
    for variant in variants:
        try:
            if not variant.library().exists():
                raise KernelUnavailable(
                    f"the cpu kernel for {variant.name} is not compiled: "
                    "run `bilstm-server compile`"
                )
            return CpuKernel(variant.library(), fallback_reason)
        except KernelUnavailable as error:
            fallback_reason = fallback_reason or str(error)
    raise KernelUnavailable(fallback_reason)


def compile_fastest() -> tuple[Path, dict[str, Exception]]:
    """Compile the fastest variant that the compiler knows and that computes rightly on this CPU.

    Returns where it lies, and what was wrong with faster ones by name. Raises `BuildError` if
    there is none.
    """
    problems: dict[str, Exception] = {}
    for variant in build.runnable():
        try:
            library = build.build(variant)
            CpuKernel(library)
        except (build.BuildError, KernelUnavailable) as error:
            problems[variant.name] = error
        else:
            return library, problems
    raise build.BuildError(str(next(iter(problems.values()), build.NO_VARIANT)))
