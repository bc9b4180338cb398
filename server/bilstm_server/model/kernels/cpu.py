"""The layer on a CPU, compiled: float32 and bfloat16, for inference.

`cpu.cpp` has the recurrence; this is its interface to torch. It is loaded by ctypes, which
releases the interpreter's lock for a whole layer.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from . import cpu_build
from .interface import (
    DirectionWeights,
    KernelUnavailable,
    Layer,
    Linear,
    Part,
    RaggedBatch,
    Results,
    needs_operations,
)
from .reference import ReferenceLayer

_NO_MEMORY = "no memory for the CPU kernel's buffers"
_NUMBERS = {torch.float32: 0, torch.bfloat16: 1}  # cpu.cpp's names for them


class _Direction(ctypes.Structure):
    _fields_ = [("w_ih", c_void_p), ("w_hh", c_void_p), ("w_hr", c_void_p), ("bias", c_void_p)]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, c_int64) for name in ("input", "hidden", "output", "directions")),
        ("direction", _Direction * 2),
    ]


class _Batch(ctypes.Structure):
    _fields_ = [
        ("sequences", c_int64),
        *((name, c_void_p) for name in ("lengths", "first_rows", "positions")),
        ("x", c_void_p),
        ("y", c_void_p),
        ("y_stride", c_int64),
        *((name, c_void_p) for name in ("h_0", "c_0", "h_n", "c_n")),
        ("float_cells", c_int64),
    ]


_Batches = _Batch * 2  # forward's and reverse's


class CpuKernel:
    """A compiled library. As a `Kernel` it makes layers out of weights: reference layers out of
    those that are neither float32 nor bfloat16, or not on the CPU.
    """

    def __init__(self, library: Path, missed: str | None = None):
        """`missed`: why it is not a faster one.

        Raises `KernelUnavailable` if the library does not load, or does not compute rightly.
        """
        self.missed = missed
        self.instructions = library.stem.removeprefix("cpu-").partition("-")[0]
        try:
            functions = ctypes.CDLL(str(library))
        except OSError as error:
            raise KernelUnavailable(
                f"the cpu kernel does not load: {error}; remove it and run `bilstm-server compile`"
            ) from error
        if functions.bilstm_start() != 0:
            raise KernelUnavailable("the cpu kernel may not use AMX on this system")
        self._packed_bytes = functions.bilstm_packed_bytes
        self._packed_bytes.argtypes = [c_int, c_int64, c_int64]
        self._packed_bytes.restype = c_int64
        self._pack = functions.bilstm_pack
        self._pack.argtypes = [c_int, c_int, c_int64, c_int64, c_void_p, c_void_p]
        self._pack.restype = None
        self.run = functions.bilstm_run
        self.run.argtypes = [c_int, c_void_p, c_void_p, c_int]
        self.run_linear = functions.bilstm_linear
        self.run_linear.argtypes = [c_int, *[c_int64] * 3, *[c_void_p] * 4]
        self._check()

    def __call__(self, directions: Sequence[DirectionWeights]) -> Layer:
        if not _can_pack(*(tensor for own in directions for tensor in own.tensors)):
            return ReferenceLayer(directions)
        return CpuLayer(directions, self)

    def linear(self, weight: Tensor, bias: Tensor | None) -> Linear:
        """See `Kernel`. A row has the same bits whatever the others are."""
        if not _can_pack(weight.detach()):
            return ReferenceLayer.linear(weight, bias)
        return CpuLinear(weight, bias, self)

    def pack(self, matrix: Tensor, gates: bool) -> Tensor:
        """A weight matrix [columns, depth] in the order in which the kernel reads it, as bytes."""
        matrix = matrix.detach().contiguous()
        columns, depth = matrix.shape
        number = _NUMBERS[matrix.dtype]
        packed = torch.zeros(self._packed_bytes(number, columns, depth), dtype=torch.uint8)
        self._pack(number, gates, columns, depth, matrix.data_ptr(), packed.data_ptr())
        return packed

    def pack_bias(self, columns: int, gates: bool, *biases: Tensor | None) -> Tensor:
        """The biases' sum, in float32 and ordered as `pack` orders the columns."""
        total = torch.zeros(columns)
        for bias in biases:
            if bias is not None:
                total += bias.detach()
        size = self._packed_bytes(_NUMBERS[torch.float32], columns, 1)
        packed = torch.zeros(size, dtype=torch.uint8)
        self._pack(_NUMBERS[torch.float32], gates, columns, 1, total.data_ptr(), packed.data_ptr())
        return packed

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
            inputs = draw(batch.tokens, width), draw(2, 40, output), draw(2, 40, hidden)
            x, h_0, c_0 = (t.double() for t in inputs)
            exact = ReferenceLayer([d.map(Tensor.double) for d in directions])(x, batch, h_0, c_0)
            actual = CpuLayer(directions, self)(inputs[0], batch, *inputs[1:])
            for one, other in zip(actual, exact, strict=True):
                if not (one.double() - other).norm() <= tolerance * other.norm():
                    raise KernelUnavailable(f"the cpu kernel computed wrong results in {dtype}")


class CpuLayer:
    """One layer with its weights packed for the kernel."""

    kernel = "cpu"
    missed: str | None = None

    def __init__(self, directions: Sequence[DirectionWeights], kernel: CpuKernel):
        first = directions[0]
        self._kernel = kernel
        self._number = _NUMBERS[first.w_ih.dtype]
        # The weights of this moment: for gradients and for copies.
        self._directions = [direction.copy() for direction in directions]
        self._packed = [
            _Packed(
                kernel.pack(direction.w_ih, gates=True),
                kernel.pack(direction.w_hh, gates=True),
                None if direction.w_hr is None else kernel.pack(direction.w_hr, gates=False),
                kernel.pack_bias(len(direction.w_ih), True, direction.b_ih, direction.b_hh),
            )
            for direction in directions
        ]
        self._output = first.w_hh.shape[1]
        self._hidden = first.w_hh.shape[0] // 4
        self._layer = _Layer(first.w_ih.shape[1], self._hidden, self._output, len(directions))
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
        y = x.new_empty(batch.tokens, directions * self._output)
        h_n, c_n = torch.empty_like(h_0), torch.empty_like(c_0)
        start, addresses = x.data_ptr(), batch.addresses
        ys, hs, cs, h_ns, c_ns = map(Tensor.data_ptr, (y, h_0, c_0, h_n, c_n))
        # From one direction to the next: its columns of y, its rows of the states.
        column = self._output * x.itemsize
        h_rows, c_rows = sequences * column, sequences * self._hidden * x.itemsize
        passed = _Batches()
        for k in range(directions):
            passed[k] = _Batch(
                *(sequences, *addresses, start, ys + k * column, directions * self._output),
                *(hs + k * h_rows, cs + k * c_rows, h_ns + k * h_rows, c_ns + k * c_rows),
            )
        self._run(passed)
        return y, h_n, c_n

    def apart(self, parts: Sequence[Part | None]) -> list[Results | None]:
        """See `Layer`. Raises `MemoryError`. The reference computes what it computes of a call."""
        if needs_operations(*(tensor for part in parts if part for tensor in part.tensors)):
            return ReferenceLayer(self._directions).apart(parts)
        results: list[Results | None] = []
        passed = _Batches()
        read: list[Tensor] = []  # by the kernel: not to be freed before
        for k, part in enumerate(parts):
            if part is None:
                results.append(None)
                continue
            x, batch = part.x.contiguous(), part.batch
            h_0, c_0 = part.h_0.to(x.dtype).contiguous(), part.c_0.float().contiguous()
            y = x.new_empty(batch.tokens, self._output)
            h_n, c_n = torch.empty_like(h_0), torch.empty_like(c_0)
            states = (state.data_ptr() for state in (h_0, c_0, h_n, c_n))
            passed[k] = _Batch(
                *(len(batch), *batch.addresses, x.data_ptr(), y.data_ptr(), self._output),
                *(*states, True),
            )
            results.append((y, h_n, c_n))
            read += (x, h_0, c_0)
        self._run(passed)
        return [result and (result[0], result[1].float(), result[2]) for result in results]

    def _run(self, batches: ctypes.Array[_Batch]) -> None:
        failed = self._kernel.run(
            self._number,
            ctypes.byref(self._layer),
            ctypes.byref(batches),
            torch.get_num_threads(),
        )
        if failed:
            raise MemoryError(_NO_MEMORY)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy packs the weights anew: perhaps on another machine."""
        return make_layer, (self._directions,)


class CpuLinear:
    """A matrix and a bias packed for the kernel: what `torch.nn.functional.linear` computes."""

    def __init__(self, weight: Tensor, bias: Tensor | None, kernel: CpuKernel):
        self._kernel = kernel
        self._copies = (weight.detach().clone(), None if bias is None else bias.detach().clone())
        self._sizes = (weight.shape[1], weight.shape[0])
        self._number = _NUMBERS[weight.dtype]
        self._packed = (kernel.pack(weight, False), kernel.pack_bias(len(weight), False, bias))

    def __call__(self, x: Tensor) -> Tensor:
        """[B, D] -> [B, columns]. Raises `MemoryError`."""
        if needs_operations(x):
            return F.linear(x, *self._copies)
        x = x.contiguous()
        y = x.new_empty(len(x), self._sizes[1])
        weight, bias = map(Tensor.data_ptr, self._packed)
        if self._kernel.run_linear(
            self._number, len(x), *self._sizes, x.data_ptr(), weight, bias, y.data_ptr()
        ):
            raise MemoryError(_NO_MEMORY)
        return y

    def __reduce__(self) -> tuple[Any, ...]:
        return make_linear, self._copies


class _Packed(NamedTuple):
    w_ih: Tensor
    w_hh: Tensor
    w_hr: Tensor | None
    bias: Tensor


def _can_pack(*weights: Tensor) -> bool:
    return (
        weights[0].dtype in _NUMBERS
        and weights[0].device.type == "cpu"
        and not needs_operations(*weights)
    )


@cache
def load() -> CpuKernel:
    """The kernel for this machine. Raises `KernelUnavailable`, with what to do about it."""
    variants = cpu_build.runnable()
    if not variants:
        raise KernelUnavailable(f"the cpu kernel: {cpu_build.NO_VARIANT}")
    missed: str | None = None
    for variant in variants:
        try:
            if not variant.library().exists():
                raise KernelUnavailable(
                    f"the cpu kernel for {variant.name} is not compiled: "
                    "run `bilstm-server compile`"
                )
            return CpuKernel(variant.library(), missed)
        except KernelUnavailable as error:
            missed = missed or str(error)
    raise KernelUnavailable(missed)


def compile_fastest() -> tuple[Path, dict[str, Exception]]:
    """Compile the fastest variant that the compiler knows and that computes rightly on this CPU.

    Returns where it lies, and what was wrong with faster ones by name. Raises `BuildError` if
    there is none.
    """
    problems: dict[str, Exception] = {}
    for variant in cpu_build.runnable():
        try:
            library = cpu_build.build(variant)
            CpuKernel(library)
        except (cpu_build.BuildError, KernelUnavailable) as error:
            problems[variant.name] = error
        else:
            return library, problems
    raise cpu_build.BuildError(str(next(iter(problems.values()), cpu_build.NO_VARIANT)))


def make_layer(directions: Sequence[DirectionWeights]) -> Layer:
    """A layer by the fastest kernel that a CPU has here."""
    try:
        return load()(directions)
    except KernelUnavailable:
        return ReferenceLayer(directions)


def make_linear(weight: Tensor, bias: Tensor | None) -> Linear:
    """The same of a product."""
    try:
        return load().linear(weight, bias)
    except KernelUnavailable:
        return ReferenceLayer.linear(weight, bias)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
