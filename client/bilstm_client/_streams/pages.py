"""`Pages`: gives the pages of memory-mapped files back once they were read. They count as the
process's own memory, and a file may be larger than that. Knows numpy's maps, and no streams.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

from bilstm.sizes import MAX_INPUTS

from ..types import Array

RELEASE_BYTES = 16 * 1024 * 1024
_MOST_MAPPINGS = MAX_INPUTS  # each holds its file open
_SHARED_MODES = ("r", "r+", "w+")  # whose pages the file has, too; those of "c" it has not


class Pages:
    """The pages of memory maps that were read and are not given back yet."""

    def __init__(self) -> None:
        self._mappings: list[mmap.mmap] = []
        self._read_bytes = 0

    def read(self, array: Array) -> None:
        """All of `array` was or will be read, before `release`."""
        mapping = _mapping(array)
        if mapping is None:
            return
        if not any(mapping is other for other in self._mappings):
            if len(self._mappings) == _MOST_MAPPINGS:
                self._give_back()
            self._mappings.append(mapping)
        low, high = np.lib.array_utils.byte_bounds(array)
        self._read_bytes += high - low

    def release(self) -> None:
        """Give back what was read, if it is enough to be worth it."""
        if self._read_bytes >= RELEASE_BYTES:
            self._give_back()

    def _give_back(self) -> None:
        for mapping in self._mappings if hasattr(mmap, "MADV_DONTNEED") else ():
            mapping.madvise(mmap.MADV_DONTNEED)
        self._mappings.clear()
        self._read_bytes = 0


def _mapping(array: Any) -> mmap.mmap | None:
    """The shared map of a file that the array lies in, however many views lie between."""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap) and array.mode in _SHARED_MODES:
            mapping = getattr(array, "_mmap", None)
            return mapping if isinstance(mapping, mmap.mmap) else None
        array = array.base
    return None
