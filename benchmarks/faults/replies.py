"""Replies that nobody reads: what they cost the server, and whether others are served meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb

from .attacked import Attacked, attacked
from .findings import Finding
from .prober import ENCODE, Prober, probing, served
from .wire import PatientConnection

NAME = "replies"
_MB = 2**20
_BUDGET_MB = 128
_CONNECTION_MB = 64
_MOST_GROWN = 2 * _BUDGET_MB + 64.0  # a reply is there twice while it is handed over
_WIDTH = 12  # of the model that ships, whose states have 128 numbers
_PACE_SECONDS = 1e-5  # between calls, for each step: slower than computing, so none is refused
_SECONDS = 8.0  # in which the server computes what it will, and nothing is read


def trial() -> Iterator[Finding]:
    yield from _unread("60 calls of 786 KB, replies of 8.4 MB unread, by ten", 10, 6, 16_384)
    yield from _unread("1,000 calls, replies of 786 KB unread, by one", 1, 1_000, 1_536)
    yield from _unread("60 calls, replies of 8.4 MB read a byte a second, by ten", 10, 6, 16_384, 1)


def _unread(
    sent: str, connections: int, calls: int, steps: int, bytes_a_second: int = 0
) -> Iterator[Finding]:
    x = np.zeros((steps, _WIDTH), np.float16 if steps < 16_384 else np.float32)
    request = pb.EncodeRequest(sequences=[tensors.encode(x)]).SerializeToString()
    budgets = {
        "max_reply_bytes": _BUDGET_MB * _MB,
        "max_connection_reply_bytes": _CONNECTION_MB * _MB,
    }
    with (
        attacked(**budgets) as server,
        probing(server.target) as prober,
        ExitStack() as connected,
    ):
        answered = server.handled("Encode", "OK")
        prober.waits()
        attackers = [
            connected.enter_context(
                PatientConnection(
                    server.target,
                    takes_replies=bool(bytes_a_second),
                    receive_buffer=4096 if bytes_a_second else 0,
                )
            )
            for _ in range(connections)
        ]
        with server.peak() as grown:
            begun = _call_all(attackers, calls, request, _PACE_SECONDS * steps)
            _wait(attackers, bytes_a_second)
        waits = prober.waits()
        # The prober's own calls are OK as well.
        said = server.handled("Encode", "OK") - answered - waits[ENCODE].answered
        yield Finding(NAME, sent, "resident memory grew by", grown[0], "MB", _MOST_GROWN)
        yield Finding(NAME, sent, "calls that were begun", begun)
        yield Finding(NAME, sent, "of them counted as OK, about", max(said, 0.0))
        yield from served(NAME, sent, waits)
        yield _after(sent, server, prober, connected)


def _call_all(
    attackers: list[PatientConnection], calls: int, request: bytes, pace_seconds: float
) -> int:
    """Each connection's calls one after the other, in turns. Returns how many were begun: fewer
    where the server takes no more."""
    begun = 0
    for _ in range(calls):
        for attacker in attackers:
            if attacker.ended:
                continue
            begun += attacker.call(ENCODE, request, seconds=1.0) > 0
            time.sleep(pace_seconds)
    return begun


def _wait(attackers: list[PatientConnection], bytes_a_second: int) -> None:
    until = time.perf_counter() + _SECONDS
    while time.perf_counter() < until:
        for attacker in attackers if bytes_a_second else ():
            attacker.read_byte()
        time.sleep(1 / (bytes_a_second or 1))


def _after(sent: str, server: Attacked, prober: Prober, connected: ExitStack) -> Finding:
    connected.close()
    time.sleep(2.0)
    return Finding(NAME, sent, "grown still, 2 s after they left", server.grown, "MB")
