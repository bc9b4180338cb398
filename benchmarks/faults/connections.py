"""Connections that cost memory, threads or time: each flood against a server of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

from bilstm_client import Client

from .attacked import Attacked, attacked
from .findings import Finding
from .floods import FLOODS, Flood
from .prober import ENCODE, HEALTH, probing, served

NAME = "connections"
_MOST_GROWN = 64.0  # MB
_MOST_WAIT = 50.0  # ms
_MOST_THREADS = 32
_STREAMS = 5  # of another client, meanwhile


def trial() -> Iterator[Finding]:
    for flood in FLOODS:
        yield from _flood(flood)


def _flood(flood: Flood) -> Iterator[Finding]:
    with (
        attacked() as server,
        probing(server.target) as prober,
        ExitStack() as held,
    ):
        target = server.target
        if flood.on_metrics:
            target = urlsplit(server.server.metrics_url).netloc
        threads = server.threads
        prober.waits()
        with server.peak() as grown:
            flood.run(target, held)
            server.settle()
            waits = prober.waits()
            time.sleep(flood.hold_seconds)
            if flood.hold_seconds:
                yield _streams(flood, server)
            more_threads = server.threads - threads
        sent = flood.sent
        yield Finding(NAME, sent, "resident memory grew by", grown[0], "MB", _MOST_GROWN)
        yield Finding(NAME, sent, "more threads", more_threads, most=_MOST_THREADS)
        yield from served(NAME, sent, waits[ENCODE])
        yield Finding(NAME, sent, "health's p99", waits[HEALTH].p99, "ms", _MOST_WAIT)
        held.close()
        time.sleep(1.0)
        yield Finding(NAME, sent, "grown still, 1 s after they left", server.grown, "MB")


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
