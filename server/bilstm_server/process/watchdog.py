"""`Watchdog`: sees that the event loop no longer turns, or that the engine does not return, says
where each thread stands, and ends the process.

Where the loop still turns, it ends the process, after it has told all who wait. If it fails to, or
does not turn, the watchdog does, so that whatever supervises the process can start it anew.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import Self

import structlog

from .ending import FAILED_CODE, end_process
from .progress import Overdue, Patience, Progress, Work
from .stacks import stacks

log = structlog.get_logger()

_LOOK_SECONDS = 0.25  # from one look to the next
_STEP_SECONDS = 2 * _LOOK_SECONDS  # the most that passes from one look to the next
_MULTIPLE = 10.0  # of what a work is expected to take
_LAST_WORDS_SECONDS = 10.0  # for the loop, to tell callers and end by itself
_JOIN_SECONDS = 1.0


class Watchdog:
    """A thread that watches from `start` on, until the `with` block ends."""

    def __init__(
        self,
        hang_seconds: float,
        stall_seconds: float,
        engine: Iterable[Progress],
        report_hang: Callable[[], object],
    ):
        """Work of the `engine`'s threads may last for `hang_seconds`, or ten times what it is
        expected to take if that is more; a turn of the event loop for `stall_seconds`. 0 is for
        ever. `report_hang` is called in the loop, and is to end the block."""
        self._report_hang = report_hang
        self._turns = Progress()  # the event loop's

        def of_engine(work: Work) -> float:
            return max(hang_seconds, _MULTIPLE * work.expected_seconds)

        def of_loop(_: Work) -> float:
            return stall_seconds or math.inf

        bounds = dict.fromkeys(engine, of_engine) if hang_seconds else {}
        self._patience = Patience({**bounds, self._turns: of_loop}, _STEP_SECONDS)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(_JOIN_SECONDS)

    def start(self) -> None:
        """Watch from now on. What comes before, loading and compiling, may take what it takes."""
        self._turn()
        self._thread.start()

    def _turn(self) -> None:
        self._turns.work = Work("a turn of the event loop")

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            if overdue := self._patience.look(time.monotonic()):
                self._bark(overdue)
                return
            self._loop.call_soon_threadsafe(self._turn)

    def _bark(self, overdue: Overdue) -> None:
        work = overdue.work
        log.error(
            "hangs",
            what=work.what,
            model=work.model,
            seconds=round(overdue.seconds, 3),
            sequences=work.sequences,
            tokens=work.tokens,
            expected_seconds=round(work.expected_seconds, 3),
            threads=stacks(),
        )
        if overdue.progress is not self._turns:
            self._loop.call_soon_threadsafe(self._report_hang)
            if self._ended.wait(_LAST_WORDS_SECONDS):
                return
        end_process(FAILED_CODE)
