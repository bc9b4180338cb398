"""The resident memory of a process, file pages included, in MB. Linux only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MB = 1e6


def resident(pid: int) -> float:
    return _status(pid, "VmRSS")


@contextmanager
def peak(pid: int) -> Iterator[list[float]]:
    """By how much a process grew at the most: in the list, once the context is left."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak so far is forgotten
    before = resident(pid)
    grown: list[float] = []
    yield grown
    grown.append(_status(pid, "VmHWM") - before)


def _status(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / MB
    raise ValueError(name)
