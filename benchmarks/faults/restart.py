"""A rolling restart of two servers under callers that know both: how many of their calls fail."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

from bilstm_server.testing import ServerProcess

from .findings import Finding
from .pairs import RATE, Ends, Pair, call_while

NAME = "restart"
_RESTARTS = 20
_REST_SECONDS = 1.0  # before the first restart
# Between restarts, of the time for which a server was away: so long does a client of gRPC wait, at
# the most, until it connects to it again. Kubernetes calls it minReadySeconds.
_REST_SHARE = 1.5
_DELAY_SECONDS = 0.5  # for clients to hear that the server is not ready, as docs/operations.md says


def trial(restarts: int = _RESTARTS) -> Iterator[Finding]:
    with ExitStack() as running:
        pair = Pair(running, f"--drain-delay-seconds={_DELAY_SECONDS}")
        ends = asyncio.run(call_while(pair.target, _restart(pair, restarts)))
    yield from failed(NAME, ends, f"{restarts} restarts")


def failed(trial: str, ends: Ends, happened: str) -> Iterator[Finding]:
    """How many calls of each kind of caller there were, and how those that failed ended."""
    for caller, codes in ends.codes.items():
        sent = f"{RATE:.0f} calls/s by {caller}, {happened}"
        calls = codes.total()
        yield Finding(trial, sent, "calls", calls)
        yield Finding(trial, sent, "share that failed", 1 - codes["OK"] / max(calls, 1), most=0)
        yield Finding(trial, sent, "the longest call", 1e3 * ends.longest[caller], "ms")
        for code, count in codes.items():
            if code != "OK":
                yield Finding(trial, sent, f"ended as {code}", count)


async def _restart(pair: Pair, restarts: int) -> None:
    """One after the other, each as an operator would: it drains, and its successor is ready, and
    clients have found it, before the next one's turn."""
    await asyncio.sleep(_REST_SECONDS)
    for number in range(restarts):
        away = await pair.renew(number % 2, ServerProcess.stop)
        await asyncio.sleep(_REST_SHARE * away)
