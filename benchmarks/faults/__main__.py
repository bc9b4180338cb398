"""See the package."""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from . import (
    cancellations,
    connections,
    deadlines,
    fuzz,
    greedy,
    hang,
    killed,
    messages,
    overload,
    replies,
    requests,
    restart,
    retries,
    streams,
    swaps,
)
from .findings import Finding, heading, told

Trial = Callable[[], Iterator[Finding]]

_MODULES = (
    messages,
    replies,
    requests,
    streams,
    retries,
    connections,
    overload,
    deadlines,
    hang,
    restart,
    killed,
    cancellations,
    swaps,
    greedy,
    fuzz.calls,
    fuzz.connections,
    fuzz.handshakes,
)
TRIALS: Mapping[str, Trial] = {module.NAME: module.trial for module in _MODULES}
_MOST_SECONDS = 1800  # of a trial: one that hangs is missed, and the others go on


def main(trials: Mapping[str, Trial] = TRIALS, arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if a limit is missed")
    parser.add_argument("--only", choices=trials, action="append", metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings there too")
    chosen = parser.parse_args(arguments)
    started_at = time.perf_counter()
    print(heading())
    findings = list(told(_findings({name: trials[name] for name in chosen.only or trials})))
    missed = sum(bool(finding.limit) and not finding.held for finding in findings)
    print(f"\n{len(findings)} figures, {missed} missed, {time.perf_counter() - started_at:.0f} s")
    if chosen.json:
        chosen.json.write_text(json.dumps([f.as_json() for f in findings], indent=1) + "\n")
    return 1 if chosen.check and missed else 0


def _findings(trials: Mapping[str, Trial]) -> Iterator[Finding]:
    for name, trial in trials.items():
        try:
            with _bounded(_MOST_SECONDS):
                yield from trial()
        except Exception as error:  # the others are tried all the same
            ended = f"the trial ended with {type(error).__name__}: {error}"
            yield Finding(name, "", ended, math.nan, most=0)


@contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` where the block takes longer, whatever it waits for."""

    def end(*_: object) -> NoReturn:
        raise TimeoutError(f"not over within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


if __name__ == "__main__":
    # As Ctrl-C: every process that was started is ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
