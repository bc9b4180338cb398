"""A server under attack, and whether it stands: what it grows by, what it logs, and whether the
calls of others in between are answered right and soon."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ..attacked import Attacked, attacked
from ..findings import Finding
from ..prober import Prober, probing
from .traffic import served_models

_MOST_WAIT = 200.0  # ms, of a good call in between
_MOST_GROWN = 32.0  # MB, once it has seen its first damaged thousands
_MOST_MORE = 8  # threads, and descriptors

Attack = Callable[[str], None]  # on an address


def attacks(trial: str, sent: str, warm_up: Attack, attack: Attack) -> Iterator[Finding]:
    """Have a server attacked, and tell whether it stands. What it grows by is counted from when
    `warm_up` is over."""
    with (
        tempfile.TemporaryDirectory() as folder,
        attacked(*served_models(Path(folder))) as server,
        probing(server.target) as prober,
    ):
        warm_up(server.target)
        server.settle()
        prober.waits()
        before = _Size(server)
        started_at = time.perf_counter()
        attack(server.target)
        yield Finding(trial, sent, "took", time.perf_counter() - started_at, "s")
        yield from _in_between(trial, sent, prober)
        server.settle()
        yield from before.grown(trial, sent)
        errors = server.errors
        yield Finding(trial, sent, "lines of errors in its log", len(errors), most=0)
        for error in errors[:10]:
            print(f"  its log: {error}")


class _Size:
    def __init__(self, server: Attacked):
        self._server = server
        self._resident, self._threads = server.resident, server.threads
        self._descriptors = server.descriptors

    def grown(self, trial: str, sent: str) -> Iterator[Finding]:
        """Raises `psutil.NoSuchProcess` if it has ended."""
        server = self._server
        grown = server.resident - self._resident
        yield Finding(trial, sent, "resident memory grew by", grown, "MB", _MOST_GROWN)
        threads = server.threads - self._threads
        yield Finding(trial, sent, "more threads", threads, most=_MOST_MORE)
        descriptors = server.descriptors - self._descriptors
        yield Finding(trial, sent, "more descriptors", descriptors, most=_MOST_MORE)


def _in_between(trial: str, sent: str, prober: Prober) -> Iterator[Finding]:
    waits = prober.waits().values()
    longest = max(of.longest for of in waits)
    yield Finding(trial, sent, "longest of good calls in between", longest, "ms", _MOST_WAIT)
    failed = sum(of.failed for of in waits)
    yield Finding(trial, sent, "good calls in between", sum(of.answered for of in waits), least=1)
    yield Finding(trial, sent, "of them failed, or with other bits", failed, most=0)
