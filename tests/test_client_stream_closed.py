"""Streams whose client is closed: by its owner, in the loop over the results, in the source."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from client_streams import AwaitedStreams, Connect, Streams, X, ended, own_tasks, source_threads
from client_streams import client as client
from client_streams import connect as connect
from client_streams import fake as fake
from client_streams import faked as faked
from streaming import HANGS_AFTER_SECONDS, FakeServer, serving

from bilstm_client import (
    Cancelled,
    Client,
)
from bilstm_client._streams import patience
from bilstm_client.types import Array


def test_closed_client(faked: Streams, fake: FakeServer) -> None:
    """To close the client ends its streams as `Cancelled`, and begins no more."""
    endless = (X for _ in iter(int, 1))
    results = faked.encode_stream(endless, in_flight=2)
    next(results)
    faked.close()
    with pytest.raises(Cancelled):
        list(results)
    with pytest.raises(ValueError, match="the client is closed"):
        faked.encode_stream([X])


def test_close_ends_threads(faked: Streams, fake: FakeServer) -> None:
    """Closing the client ends what its streams run, though their generators are held."""
    results = faked.encode_stream((X for _ in iter(int, 1)), in_flight=2)
    next(results)
    threads = source_threads()
    faked.close()
    for thread in threads:  # it may just be in the source
        thread.join(HANGS_AFTER_SECONDS)
        assert not thread.is_alive()
    if isinstance(faked, AwaitedStreams):
        assert own_tasks(faked) == set()
    ended(fake)
    results.close()


def test_closed_in_the_loop(faked: Streams) -> None:
    """The client may be closed from within a loop over its own stream."""
    results = faked.encode_stream([X, X], in_flight=1)
    for _ in itertools.islice(results, 1):
        faked.close()
    with pytest.raises(Cancelled, match="the client was closed"):
        next(results)


def test_closed_in_the_source(fake: FakeServer) -> None:
    """And from within its source."""
    with serving(fake) as target:
        client = Client(target)

        def source() -> Iterator[Array]:
            yield X
            client.close()
            yield X

        with pytest.raises(Cancelled, match="the client was closed"):
            list(client.encode_stream(source(), in_flight=1))


@pytest.fixture
def waits() -> Iterator[threading.Event]:
    """Set once a stream waits for a server."""
    event = threading.Event()
    handler = logging.Handler()
    handler.emit = lambda record: event.set()  # type: ignore[method-assign]
    logger = logging.getLogger("bilstm_client")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield event
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def test_closed_while_it_waits(
    waits: threading.Event, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that waits for a server ends as `Cancelled` when the client is closed."""
    for name in ("_FIRST_PAUSE_SECONDS", "_LONGEST_PAUSE_SECONDS"):
        monkeypatch.setattr(patience, name, 10 * HANGS_AFTER_SECONDS)
    client = connect("127.0.0.1:1", timeout_seconds=20 * HANGS_AFTER_SECONDS)

    def run() -> None:
        with pytest.raises(Cancelled, match="the client was closed"):
            list(client.encode_stream([X]))

    with ThreadPoolExecutor() as pool:
        running = pool.submit(run)
        assert waits.wait(HANGS_AFTER_SECONDS)
        client.close()
        running.result(HANGS_AFTER_SECONDS)
