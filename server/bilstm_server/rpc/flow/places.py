"""Whose connections give way where there are too many, of one address or of all.

gRPC bounds the connections of all addresses together, and has no bound for each. So it is given
some places more than may be taken, and a thread looks who is there and closes the newest ones of
whoever has too many. The spare places are for who comes next: one address that takes all that it
can get leaves room for another.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal, Self

import structlog

from ...metrics import Metrics
from ...settings import ConnectionLimits
from .connections import (
    Connection,
    ConnectionFinder,
    count_descriptors,
    has_descriptors,
    network_of,
)

log = structlog.get_logger()

Limit = Literal["peer", "all"]  # that is exceeded, of the peer or of all

_SPARE = 1 / 16  # of the places, and at least one
_LOOK_SECONDS = 0.05  # from one look to the next, at the least
_LOOK_SHARE = 0.02  # of a core's time that looks may take
_LOG_SECONDS = 10.0  # from one line to the next


def spare_places(limits: ConnectionLimits) -> int:
    """How many connections more gRPC should allow than there may be."""
    return max(1, int(_SPARE * limits.max_connections)) if has_descriptors() else 0


def surplus(
    connections: Sequence[Connection], limits: ConnectionLimits
) -> list[tuple[Connection, Limit]]:
    """Return which of the connections have to go, and why; the oldest ones come first. Pure.

    First those that an address has beyond its limit, then, one by one, the newest of the address
    that has most.
    """
    own: dict[str, list[int]] = defaultdict(list)  # by peer, in the order in which they came
    for order, connection in enumerate(connections):
        own[network_of(connection.address[0])].append(order)
    going: list[tuple[Connection, Limit]] = []
    most = limits.max_peer_connections or len(connections)
    for those in (those for peer, those in own.items() if _has_limit(peer)):
        going += [(connections[order], "peer") for order in those[most:]]
        del those[most:]
    for _ in range(len(connections) - len(going) - limits.max_connections):
        greediest = max(own.values(), key=lambda those: (len(those), those[-1:]))
        going.append((connections[greediest.pop()], "all"))
    return going


def _has_limit(peer: str) -> bool:
    """Whether the peer is one caller, and not a proxy or a socket that brings everyone."""
    try:
        return not ipaddress.ip_network(peer).is_loopback
    except ValueError:
        return False


class ConnectionPlaces:
    """A thread that closes the connections for which there is no place, for as long as the `with`
    block lasts. Those to all of the ports count together; port 0 stands for a Unix socket."""

    def __init__(self, limits: ConnectionLimits, ports: Sequence[int], metrics: Metrics):
        self._limits = limits
        self._finder = ConnectionFinder(*ports)
        self._metrics = metrics
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="connections", daemon=True)
        self._ending: set[Connection] = set()  # shut down, and not yet closed by gRPC
        self._closed: Counter[str] = Counter()  # by peer, and not logged yet
        self._logged_at = -_LOG_SECONDS
        # Fewer descriptors than this can't be too many connections.
        self._few = min(limits.max_connections, limits.max_peer_connections or 2**31)
        self._scraped = ConnectionFinder(*ports)  # apart: a scrape has a thread of its own
        metrics.watch_connections(self._count)

    def __enter__(self) -> Self:
        if has_descriptors():
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _count(self) -> int:
        return len(self._scraped.find()) if has_descriptors() else 0

    def _watch(self) -> None:
        seconds = _LOOK_SECONDS
        while not self._ended.wait(seconds):
            began = time.thread_time()
            with suppress(OSError):  # without a descriptor left, nothing can be found
                self._look()
            seconds = max(_LOOK_SECONDS, (time.thread_time() - began) / _LOOK_SHARE)

    def _look(self) -> None:
        if count_descriptors() > self._few:
            found = self._finder.find()
            self._ending.intersection_update(found)
            staying = [connection for connection in found if connection not in self._ending]
            for connection, limit in surplus(staying, self._limits):
                if connection.end():
                    self._ending.add(connection)
                    self._metrics.close_connection(limit)
                    self._closed[network_of(connection.address[0])] += 1
        if self._closed and time.monotonic() >= self._logged_at + _LOG_SECONDS:
            self._logged_at = time.monotonic()
            peer, most = self._closed.most_common(1)[0]
            closed = self._closed.total()
            log.warning("connections closed", reason="too many", closed=closed, peer=peer, its=most)
            self._closed.clear()
