"""Streams whose server is lost: what is sent again, and what can't be."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from client_streams import (
    CANCELLED,
    SEQUENCES,
    STATES,
    UNAVAILABLE,
    Chunks,
    Streams,
    X,
)
from client_streams import client as client
from client_streams import connect as connect
from client_streams import fake as fake
from client_streams import faked as faked
from client_streams import quick as quick
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from streaming import HANGS_AFTER_SECONDS, Break, FakeServer, serving, sums

from bilstm_client import (
    Client,
    EncodingChunk,
    Overloaded,
    ServerError,
    Unavailable,
)
from bilstm_client._streams.options import StreamOptions
from bilstm_client._streams.stream import Stream
from bilstm_client.types import Array


class Blocked:
    """Chunks that can be iterated again; the first time they block in the middle."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.threads: list[threading.Thread] = []

    def __iter__(self) -> Iterator[Array]:
        self.threads.append(threading.current_thread())
        first = len(self.threads) == 1
        yield X
        if first:
            assert self.gate.wait(HANGS_AFTER_SECONDS)
        yield X


class LettingGo:
    """Chunks that wait, in their middle, until the thread that was blocked has ended."""

    def __init__(self, blocked: Blocked):
        self._blocked = blocked
        self._count = 0

    def __iter__(self) -> Iterator[Array]:
        return self

    def __next__(self) -> Array:
        self._count += 1
        if self._count == 2:
            self._blocked.gate.set()
            self._blocked.threads[0].join(HANGS_AFTER_SECONDS)
            assert not self._blocked.threads[0].is_alive()
        if self._count > 4:
            raise StopIteration
        return self._count * X


@pytest.mark.usefixtures("quick")
def test_a_dead_call_disturbs_nothing(fake: FakeServer) -> None:
    """A call that is over, and whose thread was in a sequence's chunks, touches no sequence when
    these go on: each is the next call's alone."""
    blocked = Blocked()
    fake.breaks = [Break(requests=1)]
    with serving(fake) as target, Client(target) as client:
        results = list(client.encode_stream([blocked, LettingGo(blocked), X, X]))
    expected = [[X, X], [X, 2 * X, 3 * X, 4 * X], [X], [X]]
    for encoding, parts in zip(results, expected, strict=True):
        np.testing.assert_array_equal(encoding.states, sums(np.concatenate(parts)))
    assert len(fake.calls) == 2
    assert [fake.calls[0].steps(i) for i in range(4)] == [len(X), 0, 0, 0]


def test_what_is_begun_is_one_calls() -> None:
    """A call that is over takes nothing, and what it still finds is not the next one's."""
    stream = Stream(StreamOptions.of(STATES, "return"), 1.0)
    chunks: list[Any] = [X, "no numbers"]
    stream.add(iter(chunks))
    stream.add(X)
    dead = stream.begin_call()
    entry = stream.take(dead)
    assert entry is not None
    list(dead.chunk(entry, X))
    live = stream.begin_call()
    assert stream.take(dead) is None
    assert stream.take(live) is entry
    assert list(dead.chunk(entry, "no numbers")) == []
    list(dead.array(entry))
    dead.end(entry)
    assert (entry.failure, entry.sent.steps, entry.sent.whole) == (None, 0, False)
    assert list(dead.flush()) == []


@pytest.mark.usefixtures("quick")
def test_no_room_at_a_reconnect(faked: Streams, fake: FakeServer) -> None:
    """A server without room for a stream that it had before is one that is lost."""
    full = grpc.StatusCode.RESOURCE_EXHAUSTED
    fake.breaks = [Break(replies=2), Break(replies=0, code=full), Break(replies=0, code=full)]
    results = list(faked.encode_stream(SEQUENCES))
    for x, encoding in zip(SEQUENCES, results, strict=True):
        np.testing.assert_array_equal(encoding.states, sums(x))
    assert len(fake.calls) == 4


def test_no_room(faked: Streams, fake: FakeServer) -> None:
    """For a new stream that is told."""
    fake.breaks = [Break(replies=0, code=grpc.StatusCode.RESOURCE_EXHAUSTED)]
    with pytest.raises(Overloaded, match="as the script says"):
        list(faked.encode_stream(SEQUENCES))
    assert len(fake.calls) == 1


@pytest.mark.usefixtures("quick")
def test_another_version_where_errors_are_returned(faked: Streams, fake: FakeServer) -> None:
    """Only the sequence that was handed on in part is lost."""
    fake.reply_steps = 2
    fake.versions, fake.breaks = ["1", "2"], [Break(replies=3)]
    chunks = list(faked.encode_chunks([X, X], on_error="return"))
    assert [chunk.first_step for chunk in chunks if chunk.key == 0] == [0, 2, 4]
    lost = chunks[2]
    assert isinstance(lost.error, Unavailable)
    assert (lost.error.index, lost.error.key, lost.last) == (0, 0, True)
    joined = np.concatenate([chunk.states for chunk in chunks[3:]])
    np.testing.assert_array_equal(joined, sums(X))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("reply_steps", [1000, 4])
@pytest.mark.parametrize("code", [UNAVAILABLE, CANCELLED])
def test_lost_at_any_point(
    code: grpc.StatusCode,
    reply_steps: int,
    ordered: bool,
    faked: Streams,
    fake: FakeServer,
    tmp_path: Path,
) -> None:
    """Wherever a call breaks, every result comes once, and is right."""
    fake.reply_steps, fake.pairs_reversed = reply_steps, True
    replies = sum(-(-len(x) // reply_steps) for x in SEQUENCES) + 1
    for broken in range(replies + 1):
        fake.breaks = [Break(replies=broken, code=code), Break(replies=2, code=code)]
        save = (lambda key: tmp_path / f"{key}.npy") if broken % 2 else None
        results = list(faked.encode_stream(enumerate(SEQUENCES), ordered=ordered, save_states=save))
        assert sorted(key for key, _ in results) == list(range(len(SEQUENCES)))
        if ordered:
            assert [key for key, _ in results] == list(range(len(SEQUENCES)))
        for key, encoding in results:
            np.testing.assert_array_equal(encoding.states, sums(SEQUENCES[key]))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("other_steps", [2, 3, 1000])
def test_chunks_lost_at_any_point(other_steps: int, faked: Streams, fake: FakeServer) -> None:
    """Chunks that were delivered are not delivered again, though others may be cut elsewhere."""
    fake.reply_steps = 2
    for broken in range(1, sum(-(-len(x) // 2) for x in SEQUENCES) + 2):
        fake.breaks = [Break(replies=broken)]
        chunks = faked.encode_chunks(SEQUENCES)
        parts: list[list[EncodingChunk[int]]] = [[] for _ in SEQUENCES]
        fake.reply_steps = 2
        for count, chunk in enumerate(chunks, 1):
            parts[chunk.key].append(chunk)
            if count == broken - 1:
                fake.reply_steps = other_steps
        for x, own in zip(SEQUENCES, parts, strict=True):
            assert [chunk.first_step for chunk in own] == [
                sum(len(c.states) for c in own[:i]) for i in range(len(own))
            ]
            joined = np.concatenate([chunk.states for chunk in own])
            np.testing.assert_array_equal(joined, sums(x))
            assert [chunk.last for chunk in own] == [False] * (len(own) - 1) + [True]


@pytest.mark.usefixtures("quick")
@given(breaks=st.lists(st.tuples(st.booleans(), st.integers(0, 4)), max_size=4))
@hypothesis_settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_lost_often(breaks: list[tuple[bool, int]], faked: Streams, fake: FakeServer) -> None:
    """However often it breaks, as it sends or as it reads, also with sequences in chunks."""
    fake.breaks = [
        Break(replies=count) if sends else Break(requests=count + 1) for sends, count in breaks
    ]
    fake.reply_steps = 5
    source = [x if i % 2 else Chunks(x[:1], x[1:]) for i, x in enumerate(SEQUENCES)]
    results = list(faked.encode_stream(source, in_flight=3))
    for x, encoding in zip(SEQUENCES, results, strict=True):
        np.testing.assert_array_equal(encoding.states, sums(x))


@pytest.mark.usefixtures("quick")
def test_the_source_is_read_once(faked: Streams, fake: FakeServer) -> None:
    """What is sent again is not pulled again; an object with chunks is iterated again."""
    pulled = list[int]()
    chunks = Chunks(X[:2], X[2:])

    def source() -> Iterator[Any]:
        for i in range(4):
            pulled.append(i)
            yield chunks

    fake.breaks = [Break(requests=1), Break(requests=2)]
    results = list(faked.encode_stream(source(), in_flight=1))
    assert pulled == [0, 1, 2, 3]
    assert chunks.iterated == 6
    for encoding in results:
        np.testing.assert_array_equal(encoding.states, sums(X))


ONCE = (
    r"UNAVAILABLE: the server was lost \(as the script says\), and sequences\[1\] was given as an "
    r"iterator, which can't be read again; give an object that can be iterated, or an array$"
)


@pytest.mark.usefixtures("quick")
def test_iterator_that_was_begun(faked: Streams, fake: FakeServer) -> None:
    """An iterator that was read from can't be sent again: that is told."""
    fake.breaks = [Break(requests=3)]
    with pytest.raises(Unavailable, match=ONCE) as caught:
        list(faked.encode_stream([("a", X), ("b", iter([X, X, X]))]))
    assert (caught.value.index, caught.value.key) == (1, "b")
    assert len(fake.calls) == 1


@pytest.mark.usefixtures("quick")
def test_iterator_that_was_begun_is_one_of_many(faked: Streams, fake: FakeServer) -> None:
    """Where errors are returned, it is the only one that is lost."""
    fake.breaks = [Break(requests=3)]
    source = [X, iter([X, X]), X]
    results = list(faked.encode_stream(source, on_error="return"))
    assert isinstance(results[1], Unavailable)
    for encoding in (results[0], results[2]):
        np.testing.assert_array_equal(encoding.states, sums(X))


@pytest.mark.usefixtures("quick")
def test_another_version_begins_anew(faked: Streams, fake: FakeServer, tmp_path: Path) -> None:
    """No result is made of two versions' parts."""
    fake.reply_steps = 2
    for save in (None, lambda index: tmp_path / f"{index}.npy"):
        fake.versions, fake.breaks = ["1", "2"], [Break(replies=3)]
        (encoding,) = faked.encode_stream([X], save_states=save)
        np.testing.assert_array_equal(encoding.states, sums(X))
    fake.versions, fake.breaks = ["1", "2"], [Break(replies=3)]
    with pytest.raises(Unavailable, match=r"now fake version 2, and sequences\[0\] had begun"):
        list(faked.encode_chunks([X]))


def test_other_end(faked: Streams, fake: FakeServer) -> None:
    """Any other status is no loss of the server: it ends the stream at once."""
    fake.breaks = [Break(replies=2, code=grpc.StatusCode.INTERNAL)]
    with pytest.raises(ServerError, match="as the script says"):
        list(faked.encode_stream(SEQUENCES))
    assert len(fake.calls) == 1
