"""Memory that was wanted once goes back to the system."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from bilstm_server.process import heap

# Small pieces, the last of which keeps the heap from shrinking by itself.
FLOOD = """
from bilstm_server.process import heap
pieces = [bytes(1000) for _ in range(200_000)]
last = pieces[-1]
del pieces
before = heap.resident_bytes()
heap.give_back()
print(before, heap.resident_bytes())
"""


@pytest.mark.skipif(heap._trim is None, reason="the C library is not glibc")
def test_memory_goes_back() -> None:
    """In a process of its own: the tests' heap has seen much."""
    done = subprocess.run(
        [sys.executable, "-c", FLOOD], capture_output=True, text=True, check=True, timeout=60
    )
    before, after = map(int, done.stdout.split())
    assert before - after > 100_000_000


@pytest.mark.skipif(heap._trim is None, reason="the C library is not glibc")
def test_what_has_grown_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread looks by itself, and gives back only what is worth the while."""
    # At the start; after a look, and again at its end: the least that there was.
    sizes = iter([100, 101, 101, 200, 200, 200, 110, 110, 110])
    given: list[int] = []
    watched = heap.Heap()

    def resident() -> int:
        size = next(sizes, None)
        if size is None:
            watched._ended.set()
        return (size or 110) * 1024 * 1024

    monkeypatch.setattr(heap, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(heap, "resident_bytes", resident)
    monkeypatch.setattr(heap, "give_back", lambda: given.append(1))
    with watched:
        watched._thread.join(60)
    assert given == [1, 1]


@pytest.mark.skipif(heap._trim is None, reason="the C library is not glibc")
def test_a_look_that_fails_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a flood has taken all descriptors, the thread looks again, and then gives back."""
    sizes = iter([100, None, 200, 200, 110])
    given: list[int] = []
    watched = heap.Heap()

    def resident() -> int:
        if (size := next(sizes, 0)) is None:
            raise OSError(errno.EMFILE, "Too many open files")
        if not size:
            watched._ended.set()
        return size * 1024 * 1024

    monkeypatch.setattr(heap, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(heap, "resident_bytes", resident)
    monkeypatch.setattr(heap, "give_back", lambda: given.append(1))
    with watched:
        watched._thread.join(60)
    assert given == [1]
