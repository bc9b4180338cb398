"""What replies that nobody takes may hold: bounded for each connection, in all, and in time. The
peers are HTTP/2 clients that stop where no gRPC client would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from benchmarks.faults.wire import PatientConnection
from bilstm.v1 import encoder_pb2 as pb
from bilstm_server.errors import Overloaded
from bilstm_server.metrics import Metrics
from bilstm_server.rpc.flow.untaken import UntakenReplies
from bilstm_server.settings import ReplyLimits
from tests.rpc.flow.peers import (
    CHECK,
    ENCODE,
    EXHAUSTED,
    MESSAGE_BYTES,
    encodes,
    handled,
    request,
    sample,
    wait_for,
)
from tests.support.servers import RunningServer

NO_MODEL = Metrics().no_model
STATES = pb.OutputInfo(name="states", per_step=True, width=12)
# The small model's states, their description, and what a call takes.
REPLY_BYTES = 2000 * 12 * 4 + STATES.ByteSize() + 24 * 1024


def test_replies_that_nobody_takes(serve: Callable[..., RunningServer]) -> None:
    """They are bounded for each connection, in all, and in time: then the connection is ended, its
    calls are not counted as OK, and others have been served all the while."""
    server = serve(max_connection_reply_bytes=MESSAGE_BYTES, reply_seconds=1.0)
    most = MESSAGE_BYTES // REPLY_BYTES
    with PatientConnection(server.target) as peer:
        for _ in range(most + 3):
            peer.call(ENCODE, request(2000), seconds=10)
        encodes(server)
        wait_for(lambda: len(peer.statuses) == 3, peer)
        assert set(peer.statuses.values()) == {EXHAUSTED}
        wait_for(lambda: sample(server, "bilstm_reply_bytes") == most * REPLY_BYTES)
        wait_for(lambda: peer.ended, peer)
        encodes(server)
    wait_for(lambda: sample(server, "bilstm_reply_bytes") == 0)
    assert handled(server, "CANCELLED") == most
    assert handled(server, "OK") == 2
    assert sample(server, "bilstm_dropped_total", model="small", reason="stalled") == most


class FakeContext:
    """Of a call from that peer, until `end`."""

    def __init__(self, peer: str):
        self._peer = peer
        self._callbacks: list[Callable[[object], None]] = []

    def peer(self) -> str:
        return self._peer

    def add_done_callback(self, callback: Callable[[object], None]) -> None:
        self._callbacks.append(callback)

    def end(self) -> None:
        for callback in self._callbacks:
            callback(self)


def context(peer: str) -> Any:
    return FakeContext(peer)


@pytest.fixture
def small_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that take nothing beside their replies."""
    monkeypatch.setattr("bilstm_server.rpc.flow.untaken._CALL_BYTES", 0)


def untaken_replies(
    max_connection_reply_bytes: int, end_connection: Callable[[str], bool]
) -> UntakenReplies:
    """Room for a thousand bytes."""
    limits = ReplyLimits(
        max_reply_bytes=1000, max_connection_reply_bytes=max_connection_reply_bytes
    )
    return UntakenReplies(limits, end_connection)


async def test_no_connection_may_hold_more_than_it_leaves(small_calls: None) -> None:
    """A connection holds no more than it leaves, so that another one finds room, and one after
    that."""
    replies = untaken_replies(1000, lambda peer: True)
    held: dict[str, int] = {}
    for peer in ("a", "b", "c"):
        with suppress(Overloaded):
            while True:
                replies.begin(context(peer), 10, NO_MODEL)
                held[peer] = held.get(peer, 0) + 10
    assert held == {"a": 500, "b": 250, "c": 120}


async def test_who_holds_most_and_takes_nothing_is_ended_for_others(small_calls: None) -> None:
    """However many connections try to hold all, one that takes its replies is not refused."""
    ended: list[str] = []

    def end(peer: str) -> bool:
        ended.append(peer)
        return True

    replies = untaken_replies(1000, end)
    now = asyncio.get_running_loop().time()
    calls: dict[str, list[Any]] = {}
    for number in range(50):
        peer = f"hog {number}"
        with suppress(Overloaded):
            while True:
                call = context(peer)
                replies.begin(call, 10, NO_MODEL).given_at = now - 10  # and not taken since
                calls.setdefault(peer, []).append(call)
        for gone in ended:  # gRPC finds its connection ended, and then its calls
            for call in calls.pop(gone, ()):
                call.end()
        replies._relieved_at = now - 10  # time passes
        taken = context("polite")
        replies.begin(taken, 10, NO_MODEL)
        taken.end()
    assert "polite" not in ended
    assert ended


async def test_peers_without_names_are_not_taken_for_one_connection(small_calls: None) -> None:
    """Peers of a Unix socket, who are all called the same, are not bounded as one connection."""
    replies = untaken_replies(10, lambda peer: True)
    for _ in range(40):
        replies.begin(context("unix:"), 10, NO_MODEL)


async def test_taken_replies_make_room(small_calls: None) -> None:
    """A reply that was taken makes room for as much."""
    replies = untaken_replies(100, lambda peer: True)
    first = context("ipv4:127.0.0.1:1")
    replies.begin(first, 100, NO_MODEL)
    with pytest.raises(Overloaded, match="not taken"):
        replies.begin(first, 1, NO_MODEL)
    first.end()
    assert replies.used == 0
    replies.begin(first, 100, NO_MODEL)


def test_replies_of_other_methods_count(serve: Callable[..., RunningServer]) -> None:
    """Health checks whose answers nobody takes, too: their connection is ended."""
    server = serve(reply_seconds=0.5)
    with PatientConnection(server.target, stream_window=0) as peer:
        for _ in range(5):
            peer.call(CHECK, b"")
        wait_for(lambda: sample(server, "bilstm_reply_bytes") > 5 * 24 * 1024, peer)
        wait_for(lambda: peer.ended, peer)
    wait_for(lambda: sample(server, "bilstm_reply_bytes") == 0)
    encodes(server)


def test_reply_that_was_not_taken_before_the_deadline(serve: Callable[..., RunningServer]) -> None:
    """A reply that was not taken before the deadline is not counted as OK."""
    server = serve()
    with PatientConnection(server.target) as peer:
        peer.call(ENCODE, request(2000), headers=(("grpc-timeout", "1S"),))
        wait_for(lambda: handled(server, "DEADLINE_EXCEEDED") == 1)
    assert handled(server, "OK") == 0
