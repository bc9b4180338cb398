"""How fast a stream's source is pulled, and what is sent of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm_client import (
    Client,
    Live,
)
from bilstm_client._calls.channel import channel_options
from bilstm_client._calls.target import Target
from bilstm_client._streams.entries import entry_of
from bilstm_client._streams.sending import CHUNK_BYTES, Sending
from bilstm_client.types import Array
from tests.client.clients import AnyClient
from tests.client.streams.sources import (
    SEQUENCES,
    X,
    assert_states,
    mapped,
    requests_of,
    sequence,
)
from tests.support.fake_streams import INPUT_SIZE, FakeServer, sums
from tests.support.waiting import HANGS_AFTER_SECONDS

# -- how fast it is pulled ---------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
def test_endless_source(ordered: bool, faked: AnyClient, fake: FakeServer) -> None:
    """An endless source is pulled no further than `in_flight` beyond what is answered."""
    in_flight, beyond, pulled = 5, list[int](), 0

    def source() -> Iterator[tuple[int, Array]]:
        nonlocal pulled
        while True:
            yield pulled, sequence(1 + pulled % 7, pulled)
            pulled += 1
            if pulled >= fake.answered + in_flight:
                beyond.append(pulled)

    fake.answers.clear()
    results = faked.encode_stream(source(), in_flight=in_flight, ordered=ordered)
    with ThreadPoolExecutor() as pool:
        opened = pool.submit(open_when_full, fake, in_flight)
        for key, encoding in results:
            assert_states(encoding, sums(sequence(1 + key % 7, key)))
            if key == 200:
                break
        opened.result()
    results.close()
    assert pulled < 201 + 2 * in_flight
    assert all(n <= fake.answered + in_flight for n in beyond)


def open_when_full(fake: FakeServer, sequences: int) -> None:
    """Let the fake answer once it has had so many."""
    try:
        for _ in range(sequences):
            assert fake.completed.acquire(timeout=HANGS_AFTER_SECONDS)
        assert not fake.completed.acquire(blocking=False)  # none beyond them was sent
    finally:
        fake.answers.set()


def test_each_is_sent_as_soon_as_it_is_pulled(client: AnyClient) -> None:
    """A source may wait for the result of what it gave before it gives more."""
    seen = threading.Event()
    seen.set()

    def source() -> Iterator[Array]:
        for x in SEQUENCES:
            if isinstance(client, Client):
                assert seen.wait(HANGS_AFTER_SECONDS)
            seen.clear()
            yield x

    async def async_source() -> AsyncIterator[Array]:
        for x in SEQUENCES:
            assert await asyncio.to_thread(seen.wait, HANGS_AFTER_SECONDS)
            seen.clear()
            yield x

    count = 0
    given: Any = source() if isinstance(client, Client) else async_source()
    for _ in client.encode_stream(given):
        count += 1
        seen.set()
    assert count == len(SEQUENCES)


def test_chunks_keep_nobody_waiting(client: AnyClient) -> None:
    """What came before a sequence in chunks is sent before these are asked for, and each chunk
    before the next."""
    seen = threading.Event()

    def chunks() -> Iterator[Array]:
        assert seen.wait(HANGS_AFTER_SECONDS)
        yield X

    async def async_chunks() -> AsyncIterator[Array]:
        assert await asyncio.to_thread(seen.wait, HANGS_AFTER_SECONDS)
        yield X

    given: Any = chunks() if isinstance(client, Client) else async_chunks()
    results = client.encode_stream([X, given])
    first = next(results)
    seen.set()
    assert_states(next(results), first.states)


def test_a_refusal_is_told_as_soon(client: AnyClient) -> None:
    """So it is with what the client itself refuses."""
    told = threading.Event()

    def chunks() -> Iterator[Any]:
        yield "no numbers"

    def source() -> Iterator[Any]:
        yield "no numbers"
        yield chunks()
        if isinstance(client, Client):
            assert told.wait(HANGS_AFTER_SECONDS)

    errors = client.encode_stream(source(), on_error="return")
    assert isinstance(next(errors), TypeError)
    assert isinstance(next(errors), TypeError)
    told.set()
    assert list(errors) == []


# -- requests ----------------------------------------------------------------------------------


@given(steps=st.lists(st.integers(1, 200_000), max_size=6))
@hypothesis_settings(max_examples=25, deadline=None, derandomize=True)
def test_packing(steps: list[int]) -> None:
    """Requests hold as many sequences as fit, none twice, each whole before the next."""
    messages = requests_of(*[np.full((n, INPUT_SIZE), i, "f4") for i, n in enumerate(steps)])
    assert all(len(message) < CHUNK_BYTES + 1000 for message in messages)
    # One is sent when the next piece would not fit: so any two in a row hold more than fits one.
    assert len(messages) <= 1 + 2 * sum(steps) * INPUT_SIZE * 4 / CHUNK_BYTES
    ids, received = list[int](), [0] * len(steps)
    ended = list[int]()
    for message in messages:
        for chunk in pb.EncodeStreamRequest.FromString(message).chunks:
            array = tensors.decode(chunk.steps)
            assert (array == chunk.id).all()
            ids.append(chunk.id)
            received[chunk.id] += len(array)
            ended += [chunk.id] if chunk.last else []
    assert ids == sorted(ids)
    assert received == steps
    assert ended == list(range(len(steps)))


@pytest.mark.parametrize("refused", [1_023, 1_024, 3_000])
def test_refused_ones_keep_their_turn(refused: int) -> None:
    """However many a client refuses, what comes after them is sent after them."""
    sending = Sending()
    messages: list[bytes] = []
    for index in range(refused + 1):
        entry = entry_of(index, "no numbers" if index < refused else np.ones((20_000, 16), "f4"))
        sending.begin(entry)
        messages += sending.array(entry)
    messages += sending.flush()
    ids = [c.id for m in messages for c in pb.EncodeStreamRequest.FromString(m).chunks]
    assert ids == sorted(ids)
    assert set(ids) == set(range(refused + 1))


def test_small_sequences_share_a_request() -> None:
    """What is there at once goes in one request."""
    assert len(requests_of(*SEQUENCES)) == 1


def test_a_large_array_is_converted_in_pieces() -> None:
    """Of an array of another type no more than a piece is converted at a time."""
    x = np.ones((500_000, INPUT_SIZE), "f8")
    pieces = requests_of(x)
    assert len(pieces) >= 10
    assert max(map(len, pieces)) < CHUNK_BYTES + 1000


@pytest.mark.parametrize("dtype", ["u1", "i4", "i8", "f8"])
def test_pieces_are_cut_as_they_are_sent(dtype: str) -> None:
    """However few bytes an element has in memory, a request has no more than it should."""
    for shape in ((2_000_000,), (400_000, INPUT_SIZE)):
        assert max(map(len, requests_of(np.ones(shape, dtype)))) < CHUNK_BYTES + 1000


@pytest.mark.parametrize("mode", ["c", "r+"])
def test_memory_maps_keep_what_was_written(mode: Any, tmp_path: Path) -> None:
    """Pages are given back, and nothing that was written to them before is lost."""
    x = mapped(np.zeros((1_000_000, INPUT_SIZE), "f4"), tmp_path, mode)
    x[::1000] = 7
    (first, *_) = requests_of(x[5:], x)
    assert tensors.decode(pb.EncodeStreamRequest.FromString(first).chunks[0].steps)[995, 0] == 7
    np.testing.assert_array_equal(x[::1000], 7)


def test_options_on_the_wire(faked: AnyClient, fake: FakeServer) -> None:
    """The stream's options are as they were asked for."""
    options: Any = {"outputs": ["final", "states"], "model": "m", "version": "2"}
    list(faked.encode_stream([X], **options, output_data_type="float16", ordered=False))
    assert fake.calls[0].options == pb.StreamOptions(
        model="m",
        version="2",
        outputs=[pb.OUTPUT_FINAL, pb.OUTPUT_STATES],
        output_data_type=pb.DATA_TYPE_FLOAT16,
        any_order=True,
    )
    list(faked.encode_chunks([X], live=Live(4, 2)))
    assert fake.calls[1].options.live == pb.Live(block_steps=4, lookahead_steps=2)


def test_keepalive() -> None:
    """A peer that is gone is noticed by a stream that only waits, and while nobody calls."""
    options = dict(channel_options(Target.of("localhost")))
    assert options["grpc.keepalive_time_ms"] == 30_000
    assert options["grpc.keepalive_timeout_ms"] == 10_000
    assert options["grpc.keepalive_permit_without_calls"]
