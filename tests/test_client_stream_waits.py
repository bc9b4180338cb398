"""How long a stream waits for a server that is not there, or gets nowhere."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from client_streams import (
    SEQUENCES,
    Connect,
    Streams,
    X,
    assert_states,
)
from client_streams import client as client
from client_streams import connect as connect
from client_streams import fake as fake
from client_streams import faked as faked
from client_streams import quick as quick
from conftest import RunningServer, settings
from streaming import HANGS_AFTER_SECONDS, Break, FakeServer, serving, sums

from bilstm_client import (
    Unavailable,
)
from bilstm_client._streams.patience import Patience


def test_server_that_is_not_there_yet(connect: Connect, fake: FakeServer) -> None:
    """A stream may begin before its server does, and outlive it."""
    with serving(fake) as target:
        port = int(target.rsplit(":", 1)[1])
    results = connect(target).encode_stream(itertools.repeat(X), in_flight=4)
    starter = threading.Event()

    def serve_later() -> None:
        with serving(fake, port):
            assert starter.wait(HANGS_AFTER_SECONDS)

    for _ in range(2):
        starter.clear()
        thread = threading.Thread(target=serve_later)
        thread.start()
        np.testing.assert_array_equal(next(results).states, sums(X))
        starter.set()
        thread.join()
    results.close()


def test_no_server(connect: Connect, fake: FakeServer) -> None:
    """Without any progress for the timeout the stream ends as Unavailable."""
    with serving(fake) as target:
        pass
    with pytest.raises(Unavailable, match="Connection refused"):
        list(connect(target).encode_stream([X], timeout_seconds=0.2))


@pytest.mark.usefixtures("quick")
def test_server_that_gets_nowhere(faked: Streams, fake: FakeServer) -> None:
    """A server that is lost again whenever it has begun is given up, too."""
    fake.breaks = [Break(replies=1)] * 10_000
    with pytest.raises(Unavailable, match="as the script says"):
        list(faked.encode_stream([X], timeout_seconds=0.1))


def test_restarted_server(connect: Connect, model_folder: Path) -> None:
    """A server that drains answers what it has, and its successor the rest."""
    running = RunningServer(settings(model=[("small", model_folder)]))
    client = connect(running.target)
    expected = [client.encode(x).states for x in SEQUENCES]
    results = client.encode_stream(itertools.cycle(enumerate(SEQUENCES)), in_flight=16)

    def restart(running: RunningServer) -> RunningServer:
        running.close()
        return RunningServer(settings(model=[("small", model_folder)], port=running.app.port))

    received = list[int]()
    with ThreadPoolExecutor() as pool:
        for _ in range(2):
            restarted = pool.submit(restart, running)
            while not restarted.done() or len(received) % 100:
                index, encoding = next(results)
                assert_states(encoding, expected[index])
                received.append(index)
            running = restarted.result()
    results.close()
    client.close()
    running.close()
    assert received == [i % len(SEQUENCES) for i in range(len(received))]


def test_patience() -> None:
    """Pauses double up to two seconds until the time without progress is over."""
    patience = Patience(10.0, spread=lambda low, high: 1.0)
    now, pauses = 100.0, list[float | None]()
    while (pause := patience.pause(now)) is not None:
        pauses.append(pause)
        now += pause
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0, 0.9])
    patience.progressed()
    assert patience.pause(now) == 0.1
    patience.connected(now + 2)
    assert patience.pause(now + 11) is None  # it was there, but not for long
    patience.connected(now + 12)
    assert patience.pause(now + 22) == 0.1  # for long


def test_patience_is_told_when() -> None:
    """A pause is not shorter than the server has said; where it says more than is left, that is
    the end; and no two clients pause alike."""
    patience = Patience(10.0)
    assert 3.0 <= patience.pause(0.0, said=3.0) <= 3.6  # type: ignore[operator]
    assert patience.pause(4.0, said=7.0) is None
    pauses = {Patience(10.0).pause(0.0) for _ in range(10)}
    assert len(pauses) > 1
    assert all(0.05 <= pause <= 0.15 for pause in pauses if pause is not None)
