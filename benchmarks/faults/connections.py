"""Connections that cost memory, threads or time: each flood, while others wait."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

from bilstm_client import Client

from .attacked import Attacked, attacked
from .findings import Finding
from .floods import FLOODS, Flood
from .prober import Prober, probing, served

NAME = "connections"
_MOST_GROWN = 64.0  # MB
_MOST_WAIT = 50.0  # ms
_MOST_THREADS = 32
_STREAMS = 5  # of another client, meanwhile
_TRIES = 3  # of what may be the machine's mood


def trial() -> Iterator[Finding]:
    """One server for all floods, as long as none leaves its memory larger: a flood would only fill
    what the one before has left."""
    floods = list(FLOODS)
    while floods:
        with attacked() as server, probing(server.target) as prober:
            while floods and server.grown < _MOST_GROWN / 2:
                yield from _tried(floods.pop(0), server, prober)


def _tried(flood: Flood, server: Attacked, prober: Prober) -> list[Finding]:
    """A flood that made others wait, and not by far, is tried again: the best of up to three."""
    best = _flood(flood, server, prober)
    for _ in range(_TRIES - 1):
        if not best[0].nearly:
            break
        best = min(best, _flood(flood, server, prober), key=lambda found: found[0].figure)
    return best


def _flood(flood: Flood, server: Attacked, prober: Prober) -> list[Finding]:
    sent, more = flood.sent, []
    target = urlsplit(server.server.metrics_url).netloc if flood.on_metrics else server.target
    threads = server.threads
    prober.waits()
    with ExitStack() as held, server.peak() as grown:
        flood.run(target, held)
        server.settle()
        waits = prober.waits()
        time.sleep(flood.hold_seconds)
        if flood.hold_seconds:
            more.append(_streams(flood, server))
        if flood.on_metrics:
            threads = server.threads - threads
            more.append(Finding(NAME, sent, "more threads", threads, most=_MOST_THREADS))
    server.settle()
    return [
        *served(NAME, sent, waits, _MOST_WAIT),
        *more,
        Finding(NAME, sent, "resident memory grew by", grown[0], "MB", _MOST_GROWN),
    ]


def _streams(flood: Flood, server: Attacked) -> Finding:
    """While its connections stay: whether another client's streams have results."""
    answered = 0
    with Client(server.target) as client:
        for _ in range(_STREAMS):
            try:
                answered += len(list(client.encode_stream([[[0.0] * 12]], timeout_seconds=3.0)))
            except Exception:  # whatever it is, this stream has no result
                break
    share = answered / _STREAMS
    return Finding(NAME, flood.sent, "share of another client's streams", share, least=1.0)
