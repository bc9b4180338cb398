"""The compiled library: its functions, and weights in the order in which it reads them.

It is loaded by ctypes, which releases the interpreter's lock for a whole layer. Knows no module
and no kernel's choice.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor

from ..interface import KernelUnavailable

NUMBERS = {torch.float32: 0, torch.bfloat16: 1}  # cpu.cpp's names for the types


class DirectionStruct(ctypes.Structure):
    _fields_ = [("w_ih", c_void_p), ("w_hh", c_void_p), ("w_hr", c_void_p), ("bias", c_void_p)]


class LayerStruct(ctypes.Structure):
    _fields_ = [
        *((name, c_int64) for name in ("input", "hidden", "output", "directions")),
        ("direction", DirectionStruct * 2),
    ]


class BatchStruct(ctypes.Structure):
    _fields_ = [
        ("sequences", c_int64),
        *((name, c_void_p) for name in ("lengths", "first_rows", "positions")),
        ("x", c_void_p),
        ("y", c_void_p),
        ("y_stride", c_int64),
        *((name, c_void_p) for name in ("h_0", "c_0", "h_n", "c_n")),
        ("float_cells", c_int64),
    ]


BatchStructs = BatchStruct * 2  # the forward direction's and the backward one's


class ChainStruct(ctypes.Structure):
    _fields_ = [
        *((name, c_int64) for name in ("tags", "stride")),
        *((name, c_void_p) for name in ("transitions", "start", "end")),
    ]


class PathBatchStruct(ctypes.Structure):
    _fields_ = [
        ("sequences", c_int64),
        *((name, c_void_p) for name in ("lengths", "first_rows", "positions")),
        ("begin", c_int64),
        *((name, c_void_p) for name in ("emissions", "scores", "backpointers", "path", "best")),
    ]


class Library:
    """The functions of a compiled library, loaded into this process."""

    def __init__(self, path: Path):
        """Raises `KernelUnavailable` if it does not load, or may not run here."""
        self.instructions = path.stem.removeprefix("cpu-").partition("-")[0]
        try:
            functions = ctypes.CDLL(str(path))
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
        self._run = functions.bilstm_run
        self._run.argtypes = [c_int, c_void_p, c_void_p, c_int]
        self._linear = functions.bilstm_linear
        self._linear.argtypes = [c_int, *[c_int64] * 3, *[c_void_p] * 4, c_int]
        self._advance = functions.bilstm_viterbi_advance
        self._trace = functions.bilstm_viterbi_trace
        for function in (self._advance, self._trace):
            function.argtypes = [c_int, c_void_p, c_void_p, c_int]

    def run(self, number: int, layer: LayerStruct, batches: ctypes.Array[BatchStruct]) -> None:
        """Run a layer, each direction over its batch. Raises `MemoryError`."""
        threads = torch.get_num_threads()
        _check(self._run(number, ctypes.byref(layer), ctypes.byref(batches), threads))

    def run_linear(self, number: int, sizes: tuple[int, int, int], *addresses: int) -> None:
        """Multiply: `sizes` are rows, depth and columns, `addresses` those of the input, the packed
        matrix, the packed bias and the output. Raises `MemoryError`.
        """
        _check(self._linear(number, *sizes, *addresses, torch.get_num_threads()))

    def advance_paths(self, wide: bool, chain: ChainStruct, batch: PathBatchStruct) -> None:
        """Walk the next steps of the batch; `wide` says whether scores are float64. Raises
        `MemoryError`.
        """
        threads = torch.get_num_threads()
        _check(self._advance(wide, ctypes.byref(chain), ctypes.byref(batch), threads))

    def trace_paths(self, wide: bool, chain: ChainStruct, batch: PathBatchStruct) -> None:
        """Walk the batch's best paths back. Raises `MemoryError`."""
        threads = torch.get_num_threads()
        _check(self._trace(wide, ctypes.byref(chain), ctypes.byref(batch), threads))

    def pack(self, matrix: Tensor, gates: bool) -> Tensor:
        """Pack a weight matrix [columns, depth] into bytes, in the order that the kernel reads."""
        matrix = matrix.detach().contiguous()
        columns, depth = matrix.shape
        number = NUMBERS[matrix.dtype]
        packed = torch.zeros(self._packed_bytes(number, columns, depth), dtype=torch.uint8)
        self._pack(number, gates, columns, depth, matrix.data_ptr(), packed.data_ptr())
        return packed

    def pack_bias(self, columns: int, gates: bool, *biases: Tensor | None) -> Tensor:
        """Pack the biases' sum, in float32 and ordered as `pack` orders the columns."""
        total = torch.zeros(columns)
        for bias in biases:
            if bias is not None:
                total += bias.detach()
        size = self._packed_bytes(NUMBERS[torch.float32], columns, 1)
        packed = torch.zeros(size, dtype=torch.uint8)
        self._pack(NUMBERS[torch.float32], gates, columns, 1, total.data_ptr(), packed.data_ptr())
        return packed


def _check(code: int) -> None:
    if code:
        raise MemoryError("no memory for the CPU kernel's buffers")
