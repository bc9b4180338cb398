"""Streams whose server is there and says nothing."""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import pytest

from bilstm.v1 import encoder_pb2 as pb
from bilstm_client import Live, Unavailable
from bilstm_client._streams.options import StreamOptions
from bilstm_client._streams.silence import Action, Silence
from bilstm_client._streams.stream import Stream
from tests.client.clients import AnyClient, Connect
from tests.client.streams.sources import STATES, X
from tests.support.fake_streams import FakeServer, sums
from tests.support.waiting import HANGS_AFTER_SECONDS

SECONDS = 0.5
SILENT = r"UNAVAILABLE: no sign of life from the server for 0\.5 s"


def test_silence() -> None:
    """Half of the time passes, then it is asked; all of it without an answer, and it is given up.
    Any progress, and nothing owed, begins anew."""
    silence = Silence(10.0)
    assert silence.look("results 1", 100.0, None) is Action.WAIT
    assert silence.look("results 1", 104.9, None) is Action.WAIT
    assert silence.look("results 1", 105.0, None) is Action.ASK
    assert silence.look("results 1", 109.9, None) is Action.WAIT
    assert silence.look("results 1", 110.0, None) is Action.GIVE_UP
    assert silence.look("results 2", 110.0, None) is Action.WAIT
    assert silence.look("results 2", 115.0, None) is Action.ASK
    silence.heard(116.0)
    assert silence.look("results 2", 120.9, None) is Action.WAIT
    assert silence.look("results 2", 121.0, None) is Action.ASK
    assert silence.look(None, 130.0, None) is Action.WAIT
    assert silence.look(None, 200.0, None) is Action.WAIT
    # A server that was lost before is owed since then; and who was held up asks all the same.
    assert silence.look("opening 2", 209.0, 195.0) is Action.ASK
    assert silence.look("opening 2", 209.1, 195.0) is Action.GIVE_UP


def test_what_is_owed() -> None:
    """The opening, the results of what is complete, and that it reads; no more."""
    stream = Stream(StreamOptions.of(STATES), 1.0)
    sending = stream.begin_call()
    assert stream.look(0.0, is_reading=False) is Action.WAIT

    def waits(now: float) -> bool:
        """Whether something is owed: after long, it is asked for."""
        stream.look(now, is_reading=True)
        return stream.look(now + 100, is_reading=True) is not Action.WAIT

    assert waits(0.0)
    stream.receive(pb.EncodeStreamResponse(opened=pb.StreamOpened()), 1.0)
    assert not waits(1000.0)
    stream.add(iter([X]))
    entry = stream.take(sending)
    assert entry is not None
    list(sending.chunk(entry, X))
    assert not waits(2000.0)  # it is not complete
    sending.writes()
    assert waits(3000.0)
    sending.wrote()
    assert not waits(4000.0)
    sending.end(entry)
    assert waits(5000.0)


def test_what_is_owed_to_live_input() -> None:
    """A block whose look-ahead has come."""
    stream = Stream(StreamOptions.of(STATES, in_chunks=True, live=Live(5, 2)), 1.0)
    stream.add(iter([X]))
    sending = stream.begin_call()
    entry = stream.take(sending)
    assert entry is not None
    list(sending.chunk(entry, X[:6]))
    assert not entry.is_owed(stream.options.live)
    list(sending.chunk(entry, X[:1]))
    assert entry.is_owed(stream.options.live)


SERVE = """
import sys
sys.path[:0] = sys.argv[1].split(":")
from tests.support.fake_streams import FakeServer, serving
with serving(FakeServer()) as target:
    print(target, flush=True)
    sys.stdin.read()
"""


class Frozen:
    """A server of its own process, that can be stopped as by Ctrl-Z."""

    def __init__(self, target: str, process: int):
        self.target = target
        self._process = process

    def freeze(self) -> None:
        os.kill(self._process, signal.SIGSTOP)
        os.waitpid(self._process, os.WUNTRACED)  # until all of its threads stand still


@pytest.fixture
def frozen() -> Iterator[Frozen]:
    paths = ":".join(sys.path)
    command = [sys.executable, "-c", SERVE, paths]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield Frozen(process.stdout.readline().strip(), process.pid)
        finally:
            process.kill()


def test_frozen_before(connect: Connect, frozen: Frozen) -> None:
    """A server that is frozen is given up as the stream opens,"""
    frozen.freeze()
    with pytest.raises(Unavailable, match=SILENT):
        list(connect(frozen.target).encode_stream([X], timeout_seconds=SECONDS))


def test_frozen_in_the_middle(connect: Connect, frozen: Frozen) -> None:
    """in its middle,"""
    client = connect(frozen.target)
    results = client.encode_stream(itertools.repeat(X), in_flight=4, timeout_seconds=SECONDS)
    np.testing.assert_array_equal(next(results).states, sums(X))
    frozen.freeze()
    with pytest.raises(Unavailable, match=SILENT):
        for _ in results:
            pass


def test_frozen_at_the_end(connect: Connect, frozen: Frozen) -> None:
    """once all was sent,"""

    def source() -> Iterator[Any]:
        yield X
        frozen.freeze()
        yield X

    client = connect(frozen.target)
    with pytest.raises(Unavailable, match=SILENT):
        list(client.encode_stream(source(), in_flight=1, timeout_seconds=SECONDS))


def test_frozen_after_the_last_result(connect: Connect, frozen: Frozen) -> None:
    """and without an error where all was answered, and only the call's end is owed."""

    def source() -> Iterator[Any]:
        yield X
        frozen.freeze()

    client = connect(frozen.target)
    (encoding,) = client.encode_stream(source(), in_flight=1, timeout_seconds=SECONDS)
    np.testing.assert_array_equal(encoding.states, sums(X))


def test_frozen_under_a_large_sequence(connect: Connect, frozen: Frozen) -> None:
    """while it is sent what it does not read,"""
    client = connect(frozen.target)

    class Endless:
        def __iter__(self) -> Iterator[Any]:
            yield X
            frozen.freeze()
            while True:
                yield np.ones((50_000, 5), "f4")

    with pytest.raises(Unavailable, match=SILENT):
        list(client.encode_stream([Endless()], timeout_seconds=SECONDS))


def test_frozen_under_live_input(connect: Connect, frozen: Frozen) -> None:
    """and while input arrives that it could answer."""
    client = connect(frozen.target)

    def chunks() -> Iterator[Any]:
        yield X
        frozen.freeze()
        while True:
            yield X[:1]
            time.sleep(0.01)

    results = client.encode_chunks([chunks()], live=Live(1), timeout_seconds=SECONDS)
    with closing(results), pytest.raises(Unavailable, match=SILENT):
        for _ in results:
            pass


@contextmanager
def mute() -> Iterator[str]:
    """Takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_mute(connect: Connect) -> None:
    """Something that takes the connection and says nothing is no server either;"""
    with mute() as target, pytest.raises(Unavailable, match=SILENT):
        list(connect(target).encode_stream([X], timeout_seconds=SECONDS))


def test_mute_proxy(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """nor is a proxy, which is named;"""
    with mute() as address:
        for name in ("grpc_proxy", "no_grpc_proxy"):
            monkeypatch.setenv(name, f"http://{address}" if name == "grpc_proxy" else "")
        words = SILENT + re.escape(f" (through the proxy {address} (grpc_proxy))")
        with pytest.raises(Unavailable, match=words):
            list(connect("server.example").encode_stream([X], timeout_seconds=SECONDS))


def test_address_of_nobody(connect: Connect) -> None:
    """nor an address that drops what comes (of those that are for documentation)."""
    with pytest.raises(Unavailable):
        list(connect("192.0.2.1:50051").encode_stream([X], timeout_seconds=SECONDS))


def test_source_that_is_slow(faked: AnyClient) -> None:
    """A stream that owes nothing may be quiet for longer than its timeout, also where the server
    has no health service to ask."""

    def source() -> Iterator[Any]:
        yield X
        time.sleep(3 * SECONDS)
        yield X

    assert len(list(faked.encode_stream(source(), timeout_seconds=SECONDS))) == 2


def test_caller_that_is_slow(faked: AnyClient) -> None:
    """So may one whose caller takes long over a result."""
    results = faked.encode_stream([X] * 20, in_flight=10, timeout_seconds=SECONDS)
    next(results)
    time.sleep(3 * SECONDS)
    assert len(list(results)) == 19


def test_long_computation(faked: AnyClient, fake: FakeServer) -> None:
    """So may one whose server computes for long, and answers as to its health."""
    fake.is_healthy = True
    fake.answers.clear()
    results = faked.encode_stream([X], timeout_seconds=SECONDS)
    asked = 3

    def answer_later() -> None:
        for _ in range(asked):
            assert fake.checked.acquire(timeout=HANGS_AFTER_SECONDS)
        fake.answers.set()

    thread = threading.Thread(target=answer_later)
    thread.start()
    (encoding,) = results
    thread.join()
    np.testing.assert_array_equal(encoding.states, sums(X))


def test_no_answer_and_no_health(faked: AnyClient, fake: FakeServer) -> None:
    """One that answers neither is given up."""
    fake.answers.clear()
    with pytest.raises(Unavailable, match=SILENT):
        list(faked.encode_stream([X], timeout_seconds=SECONDS))
