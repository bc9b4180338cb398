"""Where the rows of one output come together as they arrive: in an array, or in a file."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from ..types import Array


class Rows(Protocol):
    """Where the rows of one output come together."""

    count: int
    """How many have come."""

    def add(self, rows: Array, total: int) -> None:
        """Add rows, [t, …], that follow those before. The sequence has `total` in all, at most."""

    def whole(self) -> Array:
        """All rows, once they have come."""

    def discard(self) -> None:
        """Remove what there is: the rows will not be needed."""


class RowsInMemory:
    """Rows in an array, which is made once and then filled."""

    def __init__(self) -> None:
        self.count = 0
        self._array: Array | None = None

    def add(self, rows: Array, total: int) -> None:
        if self._array is None:
            if len(rows) == total:
                self._array, self.count = rows.copy(), total
                return
            self._array = np.empty((total, *rows.shape[1:]), rows.dtype)
        self._array[self.count : self.count + len(rows)] = rows
        self.count += len(rows)

    def whole(self) -> Array:
        assert self._array is not None
        is_full = self.count == len(self._array)
        return self._array if is_full else self._array[: self.count].copy()

    def discard(self) -> None:
        self._array = None


class RowsInFile:
    """Rows in an .npy file, written as they come, under another name until it is whole."""

    def __init__(self, path: Path):
        self.count = 0
        self.path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._file: IO[bytes] | None = None
        self._dtype = np.dtype(np.float32)

    def add(self, rows: Array, total: int) -> None:
        if self._file is None:
            self._file = self._temporary.open("wb")
            self._dtype = rows.dtype
            header = {
                "descr": np.lib.format.dtype_to_descr(rows.dtype),
                "fortran_order": False,
                "shape": (total, *rows.shape[1:]),
            }
            np.lib.format.write_array_header_1_0(self._file, header)
        self._file.write(np.ascontiguousarray(rows).view(np.uint8).data)
        self.count += len(rows)

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
