"""Memory that the C library keeps for itself after much of it was wanted at once, given back.

What a flood of calls or of metadata took in small pieces stays in glibc's arenas when it is free:
hundreds of megabytes that the system does not get back, and that the next flood adds to.
"""

from __future__ import annotations

import ctypes
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

_LOOK_SECONDS = 10.0  # from one look to the next
_GROWTH_BYTES = 64 * 1024 * 1024  # above the least there was, from which giving back pays
_STATM = Path("/proc/self/statm")


class Heap:
    """A thread that looks how much memory the process has, and gives back what is free of it, for
    as long as the `with` block lasts."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="heap", daemon=True)

    def __enter__(self) -> Self:
        if _STATM.exists() and _trim is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _watch(self) -> None:
        least = resident_bytes()
        while not self._ended.wait(_LOOK_SECONDS):
            with suppress(OSError):  # a flood of connections has all descriptors: the next look
                # What is in use now may be free at the next look, and nothing would have grown.
                if resident_bytes() > least + _GROWTH_BYTES:
                    give_back()
                least = min(least, resident_bytes())


def resident_bytes() -> int:
    """The memory that the process has now, in bytes."""
    pages = int(_STATM.read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def give_back() -> None:
    """Give the system the memory that is free; other threads go on meanwhile."""
    if _trim is not None:
        _trim(0)


_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
