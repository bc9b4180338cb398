"""States in parts as they arrive, and live input: `encode_chunks` of both clients."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from bilstm_client import (
    Client,
    InvalidInput,
    Live,
    NotRequested,
    Unavailable,
)
from bilstm_client.types import Array
from tests.client.clients import AnyClient, AwaitedClient
from tests.client.streams.sources import WRONG, Chunks, X, assert_states
from tests.support.fake_streams import INPUT_SIZE, Break, FakeServer, sums
from tests.support.servers import RunningServer
from tests.support.waiting import HANGS_AFTER_SECONDS


def test_chunks(faked: AnyClient, fake: FakeServer) -> None:
    """Results come in parts as they arrive, the other outputs with the last."""
    fake.reply_steps = 3
    chunks = list(
        faked.encode_chunks(
            [("a", X), ("b", WRONG)], outputs=["states", "final"], on_error="return"
        )
    )
    shown = [(c.key, c.first_step, c.last, c.forward_exact, c.reverse_exact) for c in chunks]
    assert shown[:3] == [
        ("a", 0, False, True, True),
        ("a", 3, False, True, True),
        ("a", 6, True, True, True),
    ]
    joined = np.concatenate([chunk.states for chunk in chunks[:3]])
    np.testing.assert_array_equal(joined, sums(X))
    joined[...] = 0
    assert [chunk.encoding for chunk in chunks[:2]] == [None, None]
    encoding = chunks[2].encoding
    assert encoding is not None
    with pytest.raises(NotRequested, match="encode_chunks yields them in its chunks"):
        _ = encoding.states
    np.testing.assert_array_equal(encoding.final, sums(X)[-1])
    assert isinstance(chunks[3].error, InvalidInput)
    assert (chunks[3].key, chunks[3].last) == ("b", True)
    with pytest.raises(InvalidInput):
        _ = chunks[3].states
    assert len(chunks) == 4
    assert repr(chunks[2]) == (
        "EncodingChunk(key='a', first_step=6, states=float32[1, 5], last=True, forward_exact=True, "
        "reverse_exact=True, encoding=Encoding(final=float32[5]))"
    )


def test_chunks_of_the_real_server(client: AnyClient) -> None:
    """A long sequence's parts, joined, are its states."""
    x = np.tile(X, (20_000, 1))
    chunks = list(client.encode_chunks([x]))
    assert len(chunks) > 1
    assert repr(chunks[-1]).endswith("last=True, forward_exact=True, reverse_exact=True)")
    joined = np.concatenate([chunk.states for chunk in chunks])
    (encoding,) = client.encode_stream([x])
    assert_states(encoding, joined)


def test_live(faked: AnyClient, fake: FakeServer) -> None:
    """A live sequence's results come while it still arrives."""
    given = list[int]()
    seen = threading.Event()

    def source() -> Iterator[Array]:
        for i in range(4):
            yield np.ones((2, INPUT_SIZE), "f4")
            given.append(i)
            if i == 1 and isinstance(faked, Client):  # a block and its look-ahead are there
                assert seen.wait(HANGS_AFTER_SECONDS)

    chunks = faked.encode_chunks([("mic", source())], live=Live(block_steps=3, lookahead_steps=1))
    first = next(chunks)
    seen.set()
    assert (first.key, first.first_step, len(first.states)) == ("mic", 0, 3)
    assert (first.last, first.forward_exact, first.reverse_exact) == (False, True, False)
    if isinstance(faked, Client):
        assert 2 not in given
    rest = list(chunks)
    assert [chunk.first_step for chunk in rest] == [3, 6, 8]
    assert [chunk.last for chunk in rest] == [False, False, True]
    assert np.concatenate([chunk.states for chunk in rest]).shape == (5, INPUT_SIZE)
    assert [len(request.chunks) for request in fake.calls[0].requests] == [1] * 5


@pytest.mark.parametrize("lookahead", [0, 2])
def test_live_of_the_real_server(lookahead: int, client: AnyClient) -> None:
    """A live stream's parts, joined, are as long as what was sent; each is told if it is exact."""
    (encoding,) = client.encode_stream([X])
    source = [("mic", Chunks(*np.split(X, 7)))]
    live = Live(block_steps=3, lookahead_steps=lookahead)
    chunks = list(client.encode_chunks(source, live=live))
    joined = np.concatenate([chunk.states for chunk in chunks])
    assert joined.shape == encoding.states.shape
    assert [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert not chunks[0].reverse_exact


@pytest.mark.usefixtures("quick")
def test_live_that_is_lost(faked: AnyClient, fake: FakeServer) -> None:
    """A live stream can't be resumed: that is told."""
    fake.breaks = [Break(requests=2)]
    source = Chunks(X, X, X)
    with pytest.raises(Unavailable, match=r"sequences\[0\] is a live stream, which can't be res"):
        list(faked.encode_chunks([source], live=Live(4)))


def test_live_input_without_brackets(faked: AnyClient) -> None:
    """The chunks of a live input, given as they are, would be sequences of their own: refused."""
    with pytest.raises(TypeError, match=r"in brackets: encode_chunks\(\[chunks\], live="):
        list(faked.encode_chunks(iter([X, X]), live=Live(2)))


def test_live_input_in_any_other_form(faked: AnyClient) -> None:
    """All that can't be meant so is taken: brackets, keys, lists of arrays, no live stream."""
    expected = len(X)
    sources: list[Any] = [[iter([X])], iter([("a", X)]), [X], iter([iter([X])])]
    for source in sources:
        chunks = list(faked.encode_chunks(source, live=Live(2)))
        assert sum(len(chunk.states) for chunk in chunks) == expected
    assert len(list(faked.encode_chunks(iter([X, X])))) == 2


def test_live_async_input_without_brackets(server: RunningServer) -> None:
    """The same of an asynchronous one."""
    client = AwaitedClient(server.target)
    try:

        async def microphone() -> Any:
            yield X

        with pytest.raises(TypeError, match="in brackets"):
            list(client.encode_chunks(microphone(), live=Live(2)))
    finally:
        client.close()
        client.stop()
