"""Where the states of a sequence come together as they arrive: in one array, or in a file."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from ..types import Array


class States(Protocol):
    """Where the states of one sequence come together."""

    def add(self, states: Array, steps: int) -> None:
        """Add states, [t, K*P], that follow those before. The sequence has `steps` in all."""

    def whole(self) -> Array:
        """The states of all steps, [T, K*P], once they have come."""

    def discard(self) -> None:
        """Remove what there is: the states will not be needed."""


class StatesInMemory:
    """States in an array, which is made once and then filled."""

    def __init__(self) -> None:
        self._array: Array | None = None
        self._filled = 0  # steps

    def add(self, states: Array, steps: int) -> None:
        if self._array is None:
            if len(states) == steps:
                self._array = states.copy()
                return
            self._array = np.empty((steps, *states.shape[1:]), states.dtype)
        self._array[self._filled : self._filled + len(states)] = states
        self._filled += len(states)

    def whole(self) -> Array:
        assert self._array is not None
        return self._array

    def discard(self) -> None:
        self._array = None


class StatesInFile:
    """States in an .npy file, written as they come, under another name until it is whole."""

    def __init__(self, path: Path):
        self.path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._file: IO[bytes] | None = None
        self._dtype = np.dtype(np.float32)

    def add(self, states: Array, steps: int) -> None:
        if self._file is None:
            self._file = self._temporary.open("wb")
            self._dtype = states.dtype
            header = {
                "descr": np.lib.format.dtype_to_descr(states.dtype),
                "fortran_order": False,
                "shape": (steps, *states.shape[1:]),
            }
            np.lib.format.write_array_header_1_0(self._file, header)
        self._file.write(np.ascontiguousarray(states).view(np.uint8).data)

    def whole(self) -> Array:
        assert self._file is not None
        self._file.close()
        self._temporary.replace(self.path)
        array: Array = np.load(self.path, mmap_mode="r")
        return array if array.dtype == self._dtype else array.view(self._dtype)  # bfloat16 is V2

    def discard(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # what could not be written still can't be
                self._file.close()
            with suppress(OSError):
                self._temporary.unlink(missing_ok=True)
