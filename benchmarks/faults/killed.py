"""SIGKILL of one of two servers under load: nothing is lost for callers who may try again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

from bilstm_server.testing import ServerProcess

from .findings import Finding
from .pairs import OURS, RATE, Pair, call_while

NAME = "killed"
_KILLS = 6
_REST_SECONDS = 2.0  # between kills


def trial(kills: int = _KILLS) -> Iterator[Finding]:
    with ExitStack() as running:
        pair = Pair(running)
        ends = asyncio.run(call_while(pair.target, _kill(pair, kills)))
    for caller, codes in ends.codes.items():
        sent = f"{RATE:.0f} calls/s by {caller}, {kills} times SIGKILL"
        lost = codes.total() - codes["OK"]
        yield Finding(NAME, sent, "calls", codes.total())
        if caller == OURS:  # the other one tries no call again
            yield Finding(NAME, sent, "calls that failed", lost, most=0)
        else:
            yield Finding(NAME, sent, "calls that failed", lost)
        yield Finding(NAME, sent, "the longest call", 1e3 * ends.longest[caller], "ms")
        for code in codes.keys() - {"OK"}:
            yield Finding(NAME, sent, f"ended as {code}", codes[code])


async def _kill(pair: Pair, kills: int) -> None:
    await asyncio.sleep(_REST_SECONDS)
    for number in range(kills):
        await pair.renew(number % 2, ServerProcess.kill)
        await asyncio.sleep(_REST_SECONDS)
