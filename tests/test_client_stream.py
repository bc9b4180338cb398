"""`encode_stream` and `encode_chunks` of both clients: every claim is made of both.

A real server where it matters what is computed; the fake of `streaming` where a test must decide
when the server reads, answers or breaks.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, assert_type, cast

import grpc
import ml_dtypes
import numpy as np
import pytest
import torch
from conftest import RunningServer, settings
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from streaming import HANGS_AFTER_SECONDS, INPUT_SIZE, Break, FakeServer, serving, sums
from test_client import AwaitedClient

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm_client import (
    AsyncClient,
    Cancelled,
    Client,
    DeadlineExceeded,
    EncoderError,
    EncodingChunk,
    InvalidInput,
    Live,
    ModelNotFound,
    Overloaded,
    ServerError,
    Unavailable,
    _stream_options,
)
from bilstm_client._base import CHANNEL_OPTIONS
from bilstm_client._entries import entry_of
from bilstm_client._sending import CHUNK_BYTES, Sending
from bilstm_client._stream_options import Patience
from bilstm_client.errors import SequenceFailure, sequence_error
from bilstm_client.types import Array, Encoding

CANCELLED, UNAVAILABLE = grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE


class AwaitedStreams(AwaitedClient):
    """An `AsyncClient` whose streams are iterated as `Client`'s are."""

    def encode_stream(self, source: Any, **options: Any) -> Generator[Any, None, None]:
        return self._iterate(lambda: self._client.encode_stream(source, **options))

    def encode_chunks(self, source: Any, **options: Any) -> Generator[Any, None, None]:
        return self._iterate(lambda: self._client.encode_chunks(source, **options))

    def _iterate(
        self, begin: Callable[[], AsyncGenerator[Any, None]]
    ) -> Generator[Any, None, None]:
        async def begun() -> AsyncGenerator[Any, None]:
            return begin()

        results = self._wait(begun())  # what it is told wrongly, it says at once

        def iterate() -> Generator[Any, None, None]:
            try:
                while (result := self._wait(anext(results, END))) is not END:
                    yield result
            finally:
                self._wait(results.aclose())

        return iterate()


END = object()
Streams = Client | AwaitedStreams
Connect = Callable[..., Streams]


@pytest.fixture(params=(Client, AwaitedStreams), ids=["Client", "AsyncClient"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes clients of one kind, and closes them after the test."""
    with ExitStack() as stack:

        def open_client(target: str, **options: Any) -> Streams:
            client = cast(Streams, request.param(target, **options))
            if isinstance(client, AwaitedStreams):
                stack.callback(client.stop)
            stack.callback(client.close)
            return client

        yield open_client


@pytest.fixture
def client(connect: Connect, server: RunningServer) -> Streams:
    return connect(server.target)


@pytest.fixture
def fake() -> FakeServer:
    return FakeServer()


@pytest.fixture
def faked(connect: Connect, fake: FakeServer) -> Iterator[Streams]:
    """A client of the fake."""
    with serving(fake) as target:
        yield connect(target)


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses before a lost server is asked again that are none."""
    monkeypatch.setattr(_stream_options, "_FIRST_PAUSE_SECONDS", 0.001)


def sequence(steps: int, seed: int = 0) -> Array:
    rng = np.random.default_rng((seed, steps))
    return rng.integers(-3, 4, (steps, INPUT_SIZE)).astype(np.float32)  # of sums without rounding


def states_of(encoding: Encoding) -> Array:
    assert encoding.states is not None
    return encoding.states


def assert_states(encoding: Encoding, expected: Array | None, tolerance: float = 1e-6) -> None:
    assert expected is not None
    np.testing.assert_allclose(states_of(encoding), expected, rtol=0, atol=tolerance)


SEQUENCES = [sequence(steps, i) for i, steps in enumerate((3, 1, 12, 5, 1, 7))]

# -- what a source may be ---------------------------------------------------------------------


def static_types(client: Client, aio: AsyncClient, x: Array) -> None:
    """Never run: what a type checker knows of a stream's results."""
    pairs = [("a", x)]
    assert_type(client.encode_stream([x]), Generator[Encoding, None, None])
    assert_type(client.encode_stream(pairs), Generator[tuple[str, Encoding], None, None])
    assert_type(
        client.encode_stream(pairs, on_error="return"),
        Generator[tuple[str, Encoding | SequenceFailure], None, None],
    )
    assert_type(
        client.encode_stream([x], on_error="return"),
        Generator[Encoding | SequenceFailure, None, None],
    )
    assert_type(client.encode_chunks(pairs), Generator[EncodingChunk[str], None, None])
    assert_type(client.encode_chunks([x]), Generator[EncodingChunk[int], None, None])
    assert_type(aio.encode_stream([x]), AsyncGenerator[Encoding, None])
    assert_type(aio.encode_stream(pairs), AsyncGenerator[tuple[str, Encoding], None])


def test_plain_sequences(client: Streams) -> None:
    """A stream's results are those of calls, in the source's order."""
    outputs: Any = ("states", "final", "mean", "max", "logits", "state")
    alone = client.encode_batch(SEQUENCES, outputs=outputs)
    streamed = list(client.encode_stream(SEQUENCES, outputs=outputs))
    for one, other in zip(streamed, alone, strict=True):
        for name in outputs[:-1]:
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=0, atol=1e-6)
        assert one.state is not None
        assert other.state is not None
        np.testing.assert_allclose(one.state.cell, other.state.cell, rtol=0, atol=1e-6)
        assert one.timing.batch_sequences >= 1


@pytest.mark.parametrize("ordered", [True, False])
def test_pairs(ordered: bool, client: Streams) -> None:
    """Each result of a pair comes with its key, whatever that is."""
    keys: list[Any] = ["a", 7, None, ["not", "hashable"], ("t", 1), {}]
    alone = client.encode_batch(SEQUENCES)
    source = zip(keys, SEQUENCES, strict=True)
    results = list(client.encode_stream(source, ordered=ordered))
    assert len(results) == len(keys)
    for key, encoding in results:
        assert_states(encoding, alone[keys.index(key)].states)
    if ordered:
        assert [key for key, _ in results] == keys


def test_no_sequences(client: Streams) -> None:
    """A source without sequences gives no results."""
    assert list(client.encode_stream([])) == []


class Chunks:
    """Can be iterated any number of times."""

    def __init__(self, *chunks: Any):
        self._chunks = chunks
        self.iterated = 0

    def __iter__(self) -> Iterator[Any]:
        self.iterated += 1
        return iter(self._chunks)


def mapped(x: Array, folder: Path, mode: Any = "r") -> Array:
    np.save(folder / "x.npy", x)
    return np.load(folder / "x.npy", mmap_mode=mode)  # type: ignore[no-any-return]


X = sequence(7)
FORMS: dict[str, Callable[[Path], Any]] = {
    "float64": lambda _: X.astype("f8"),
    "big-endian": lambda _: X.astype(">f4"),
    "nested lists": lambda _: X.tolist(),
    "list of rows": lambda _: list(X),
    "Fortran": lambda _: np.asfortranarray(X),
    "torch": lambda _: torch.tensor(X, requires_grad=True),
    "torch bfloat16": lambda _: torch.tensor(X, dtype=torch.bfloat16),
    "memory map": lambda folder: mapped(X, folder),
    "private memory map": lambda folder: mapped(X, folder, "c"),
    "view of a memory map": lambda folder: np.asarray(mapped(X[::-1], folder))[::-1],
    "generator of chunks": lambda _: (chunk for chunk in np.split(X, [1, 4])),
    "chunks of many kinds": lambda _: iter([X[:1].tolist(), torch.tensor(X[1:5]), X[5:]]),
    "object with chunks": lambda _: Chunks(X[:3], X[3:]),
    "chunks without steps": lambda _: Chunks(X[:0], X[:3], X[3:3], X[3:], X[:0]),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_sequence(form: str, client: Streams, tmp_path: Path) -> None:
    """A sequence gives the same result in whatever form it comes."""
    expected = client.encode(X).states
    (encoding,) = client.encode_stream([FORMS[form](tmp_path)])
    assert_states(encoding, expected)


def test_token_ids(client: Streams) -> None:
    """Token ids go as they are, whole or in chunks."""
    ids = np.array([3, 0, 19, 7])
    expected = client.encode(ids, model="tokens").states
    forms = [ids, ids.tolist(), iter([ids[:1], ids[1:]]), range(4)]
    *same, counted = client.encode_stream(forms, model="tokens")
    for encoding in same:
        assert_states(encoding, expected)
    assert_states(counted, client.encode(range(4), model="tokens").states)


def test_async_sources(server: RunningServer) -> None:
    """What `AsyncClient` iterates may be async: the source, and a sequence's chunks."""

    async def chunks() -> AsyncIterator[Array]:
        yield X[:2]
        yield X[2:]

    async def source() -> AsyncIterator[tuple[str, Any]]:
        yield "whole", X
        yield "chunks", chunks()

    async def run() -> None:
        async with AsyncClient(server.target) as client:
            expected = (await client.encode(X)).states
            keys = []
            async for key, encoding in client.encode_stream(source()):
                keys.append(key)
                assert_states(encoding, expected)
            assert keys == ["whole", "chunks"]

    asyncio.run(run())


def test_async_chunks_without_a_loop(server: RunningServer) -> None:
    """Chunks that must be awaited are a TypeError in `Client`, of their sequence alone."""

    async def chunks() -> AsyncIterator[Array]:
        yield X

    with Client(server.target) as client:
        wrong, right = client.encode_stream([chunks(), X], on_error="return")
    assert isinstance(wrong, TypeError)
    assert str(wrong) == "sequences[0]: an async iterable needs an AsyncClient"
    assert isinstance(right, Encoding)


def test_results_are_the_callers_own(client: Streams) -> None:
    """Every array can be written to, and writing to one leaves the others as they are."""
    one, other = client.encode_stream([X, X], outputs=["states", "final"])
    before = states_of(other).copy()
    for array in (one.states, one.final):
        assert array is not None
        array[...] = 7
    np.testing.assert_array_equal(states_of(other), before)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_output_data_type(name: Any, client: Streams, tmp_path: Path) -> None:
    """Results come in the type that is asked for, also from a file."""
    expected = client.encode(X, output_data_type=name).states
    dtype = np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else "f2")
    for save in (None, lambda index: tmp_path / f"{index}.npy"):
        (encoding,) = client.encode_stream([X], output_data_type=name, save_states=save)
        assert states_of(encoding).dtype == dtype
        np.testing.assert_array_equal(states_of(encoding), cast(Array, expected))


def test_several_at_once(client: Streams) -> None:
    """A client has any number of streams at once, and calls beside them."""
    first, second = client.encode_stream(SEQUENCES), client.encode_stream(SEQUENCES[::-1])
    alone = client.encode_batch(SEQUENCES)
    for n, (one, other) in enumerate(zip(first, second, strict=True)):
        assert_states(one, alone[n].states)
        assert_states(other, alone[-1 - n].states)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"in_flight": 0}, ValueError, "in_flight must be a number of sequences"),
        ({"on_error": "ignore"}, ValueError, "on_error must be 'raise' or 'return'"),
        ({"outputs": ["bogus"]}, ValueError, "'bogus' is no output"),
        ({"timeout_seconds": "1"}, TypeError, "timeout_seconds must be a number"),
        ({"save_states": str, "outputs": ["final"]}, ValueError, "save_states needs 'states'"),
        ({"colour": "red"}, TypeError, "unexpected keyword argument 'colour'"),
    ],
)
def test_bad_option(options: Any, kind: type[Exception], message: str, faked: Streams) -> None:
    """What can't be is refused at once, before the stream is iterated."""
    with pytest.raises(kind, match=message):
        faked.encode_stream([X], **options)


def test_bad_live(faked: Streams) -> None:
    """Live is a `Live`."""
    with pytest.raises(TypeError, match="live must be a Live, got int"):
        faked.encode_chunks([X], live=cast(Any, 5))


# -- how fast it is pulled --------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
def test_endless_source(ordered: bool, faked: Streams, fake: FakeServer) -> None:
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
    opener = threading.Timer(0, lambda: open_when_full(fake, in_flight))
    opener.start()
    for key, encoding in results:
        assert_states(encoding, sums(sequence(1 + key % 7, key)))
        if key == 200:
            break
    results.close()
    opener.join()
    assert pulled < 201 + 2 * in_flight
    assert all(n <= fake.answered + in_flight for n in beyond)


def open_when_full(fake: FakeServer, sequences: int) -> None:
    """Let the fake answer once it has had so many."""
    for _ in range(sequences):
        assert fake.completed.acquire(timeout=HANGS_AFTER_SECONDS)
    assert not fake.completed.acquire(blocking=False)  # none beyond them was sent
    fake.answers.set()


def test_each_is_sent_as_soon_as_it_is_pulled(client: Streams) -> None:
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


def test_chunks_keep_nobody_waiting(client: Streams) -> None:
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


def test_a_refusal_is_told_as_soon(client: Streams) -> None:
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


# -- requests ---------------------------------------------------------------------------------


def requests_of(*sequences: Any) -> list[bytes]:
    """What a call sends of sequences that are all there."""
    sending = Sending()
    messages: list[bytes] = []
    for index, x in enumerate(sequences):
        entry = entry_of(index, x)
        sending.begin(entry)
        messages += sending.array(entry)
        assert entry.failure is None
    return [*messages, *sending.flush()]


@given(steps=st.lists(st.integers(1, 200_000), max_size=6))
@hypothesis_settings(max_examples=25, deadline=None, derandomize=True)
def test_packing(steps: list[int]) -> None:
    """Requests hold as many sequences as fit, none twice, each whole before the next."""
    messages = requests_of(*[np.full((n, INPUT_SIZE), i, "f4") for i, n in enumerate(steps)])
    assert all(len(message) < CHUNK_BYTES + 1000 for message in messages)
    assert len(messages) <= 1 + sum(2 * n * INPUT_SIZE * 4 / CHUNK_BYTES + 1 for n in steps)
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


def test_options_on_the_wire(faked: Streams, fake: FakeServer) -> None:
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
    """A peer that is gone is noticed by a stream that only waits."""
    options = dict(CHANNEL_OPTIONS)
    assert options["grpc.keepalive_time_ms"] == 60_000
    assert options["grpc.keepalive_timeout_ms"] == 20_000
    assert "grpc.keepalive_permit_without_calls" not in options


def test_grpc_retries_no_streams() -> None:
    """gRPC keeps nothing of a stream to send it again."""
    config = json.loads(dict(CHANNEL_OPTIONS)["grpc.service_config"])
    (of_streams,) = (c for c in config["methodConfig"] if "method" in c["name"][0])
    assert of_streams == {
        "name": [{"service": "bilstm.v1.EncoderService", "method": "EncodeStream"}]
    }


# -- order ------------------------------------------------------------------------------------


def test_any_order(faked: Streams, fake: FakeServer) -> None:
    """Without order results come as they are done."""
    fake.pairs_reversed = True
    results = list(faked.encode_stream(enumerate(SEQUENCES), ordered=False))
    assert [key for key, _ in results] == [1, 0, 3, 2, 5, 4]
    for key, encoding in results:
        assert_states(encoding, sums(SEQUENCES[key]))


WRONG = np.ones((2, 4), "f4")


@pytest.mark.parametrize("ordered", [True, False])
def test_errors_keep_the_order(ordered: bool, client: Streams) -> None:
    """An error is in its sequence's place, though the server is quicker to refuse."""
    source = [x for good in SEQUENCES * 5 for x in (good, WRONG, "no numbers")]
    results = list(
        client.encode_stream(
            enumerate(source), on_error="return", ordered=ordered, in_flight=len(source)
        )
    )
    if ordered:
        assert [key for key, _ in results] == list(range(len(source)))
    assert sorted(key for key, _ in results) == list(range(len(source)))
    kinds = {0: Encoding, 1: InvalidInput, 2: TypeError}
    assert all(isinstance(result, kinds[key % 3]) for key, result in results)


# -- errors of one sequence -------------------------------------------------------------------


def test_raised_error(client: Streams) -> None:
    """A sequence that is refused ends the stream by an error that says which it was."""
    results = client.encode_stream([("a", X), ("b", X), ("c", WRONG), ("d", X)])
    assert [next(results)[0], next(results)[0]] == ["a", "b"]
    with pytest.raises(InvalidInput) as caught:
        next(results)
    error = caught.value
    assert (error.index, error.key, error.field) == (2, "c", "sequences[2].shape")
    assert error.expected == "must be [T, 5] (input_size), got [2, 4]"
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(results) == []


def test_raised_type_error(client: Streams) -> None:
    """So does what is no array, after the results of those before it."""
    results = client.encode_stream([X, X, "abc", X])
    assert_states(next(results), states_of(next(results)))
    with pytest.raises(TypeError, match=r"^sequences\[2\]: must be an array of numbers"):
        next(results)


HALF_WRONG: dict[str, Any] = {
    "of another width": (InvalidInput, [X, WRONG, X]),
    "no numbers": (TypeError, [X, "abc", X]),
    "without steps": (InvalidInput, []),
    "no array": (TypeError, None),
}


@pytest.mark.parametrize("case", HALF_WRONG)
def test_refused_in_the_middle(case: str, client: Streams) -> None:
    """What is wrong in a later chunk is its sequence's error, and the stream goes on."""
    kind, chunks = HALF_WRONG[case]
    wrong = chunks if chunks is None else iter(chunks)
    results = list(client.encode_stream([X, wrong, X], on_error="return"))
    assert [type(result) for result in results] == [Encoding, kind, Encoding]
    assert_states(results[2], states_of(results[0]))


@pytest.mark.parametrize(
    "wrong",
    [lambda: iter([WRONG, X, X]), lambda: np.broadcast_to(np.float32(1), (500_000, 4))],
    ids=["chunks", "array"],
)
def test_refusals_do_not_add_up(
    wrong: Callable[[], Any], connect: Connect, model_folder: Path
) -> None:
    """A server that keeps few sequences takes any number that it refuses half way."""
    running = RunningServer(settings(model=[("small", model_folder)], max_stream_sequences=4))
    try:
        source = (wrong() for _ in range(12))
        client = connect(running.target)
        results = list(client.encode_stream(source, on_error="return"))
        client.close()
    finally:
        running.close()
    assert [type(result) for result in results] == [InvalidInput] * 12


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidInput),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded),
        (grpc.StatusCode.UNAVAILABLE, Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
        (grpc.StatusCode.INTERNAL, ServerError),
        (None, ServerError),
    ],
)
def test_kinds_of_errors(code: grpc.StatusCode | None, kind: type[EncoderError]) -> None:
    """A sequence's error is what a call would have raised."""
    number = 99 if code is None else code.value[0]
    message = pb.SequenceError(code=number, message="because", error_id="e1")
    error = sequence_error(message, 3)
    assert type(error) is kind
    assert error.code is (code or grpc.StatusCode.UNKNOWN)
    assert "because" in str(error)
    if isinstance(error, ServerError):
        assert error.error_id == "e1"


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ("steps", "sequences[3]"),
        ("steps.shape", "sequences[3].shape"),
        ("initial_state.cell.data", "initial_states[3].cell.data"),
        ("last", "sequences[3]"),
    ],
)
def test_fields_of_errors(field: str, named: str) -> None:
    """The field at fault is named as the caller knows it."""
    error = sequence_error(pb.SequenceError(code=3, field=field, expected="must be so"), 3)
    assert isinstance(error, InvalidInput)
    assert (error.field, error.expected) == (named, "must be so")
    assert str(error) == f"INVALID_ARGUMENT: {named}: must be so"


def test_error_of_the_stream(client: Streams) -> None:
    """What concerns all sequences ends the stream, also where errors are returned."""
    with pytest.raises(ModelNotFound):
        list(client.encode_stream([X], model="none", on_error="return"))
    with pytest.raises(InvalidInput, match=r"outputs\[0\]") as caught:
        list(client.encode_stream([[1, 2]], model="tokens", outputs=["logits"]))
    assert caught.value.index is None


# -- its end ----------------------------------------------------------------------------------


class SourceError(Exception):
    pass


def ended(fake: FakeServer) -> None:
    """Wait until the fake has seen the end of every call."""
    for call in fake.calls:
        assert call.ended.wait(HANGS_AFTER_SECONDS)


@pytest.mark.parametrize("where", ["source", "chunks", "iter"])
@pytest.mark.parametrize("on_error", ["raise", "return"])
def test_source_that_raises(
    where: str, on_error: Any, faked: Streams, fake: FakeServer, capfd: pytest.CaptureFixture[str]
) -> None:
    """An exception of the source's own ends the stream, and is raised as it is."""
    error, cause = SourceError("mine"), ValueError("its cause")
    error.__cause__ = cause

    def chunks() -> Iterator[Array]:
        yield X
        raise error

    def source() -> Iterator[Any]:
        yield X
        if where == "chunks":
            yield chunks()
            yield X
        raise error

    class NoSource:
        def __iter__(self) -> Iterator[Any]:
            raise error

    given: Any = NoSource() if where == "iter" else source()
    with pytest.raises(SourceError) as caught:
        list(faked.encode_stream(given, on_error=on_error))
    assert caught.value is error
    assert error.__cause__ is cause
    assert not isinstance(error.__context__, grpc.RpcError | EncoderError)
    ended(fake)
    assert capfd.readouterr() == ("", "")


def test_no_source(faked: Streams) -> None:
    """What can't be iterated is a TypeError."""
    with pytest.raises(TypeError, match="'int' object is not iterable"):
        list(faked.encode_stream(cast(Any, 5)))


def source_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "bilstm-source"}


def test_break(faked: Streams, fake: FakeServer, capfd: pytest.CaptureFixture[str]) -> None:
    """To leave the loop cancels the call, and leaves nothing behind."""
    results = faked.encode_stream((sequence(3, i) for i in range(10**9)), in_flight=3)
    for _ in results:
        break
    results.close()
    for thread in source_threads():  # it may just be in the source
        thread.join(HANGS_AFTER_SECONDS)
    assert source_threads() == set()
    ended(fake)
    if isinstance(faked, AwaitedStreams):
        assert own_tasks(faked) == set()
    assert capfd.readouterr() == ("", "")


def own_tasks(client: AwaitedStreams) -> set[str]:
    """The stream's tasks that its client's loop still has."""

    async def names() -> set[str]:
        tasks = (cast(Any, task.get_coro()).__qualname__ for task in asyncio.all_tasks())
        return {name for name in tasks if name.startswith("AioStream")}

    return client._wait(names())


def test_break_while_the_source_blocks(server: RunningServer) -> None:
    """A source that blocks keeps nobody from leaving; its thread ends when it does."""
    gate = threading.Event()

    def source() -> Iterator[Array]:
        yield X
        gate.wait(HANGS_AFTER_SECONDS)

    with Client(server.target) as client:
        for _ in client.encode_stream(source()):
            break
    (puller,) = source_threads()
    gate.set()
    puller.join(HANGS_AFTER_SECONDS)
    assert not puller.is_alive()


async def test_cancelled_task(fake: FakeServer) -> None:
    """A task that is cancelled in its stream leaves nothing behind, and its source is closed."""
    closed = asyncio.Event()

    async def source() -> AsyncIterator[Array]:
        try:
            yield X
            await asyncio.Event().wait()
        finally:
            closed.set()

    with serving(fake) as target:
        async with AsyncClient(target) as client:

            async def run() -> None:
                async for _ in client.encode_stream(source()):
                    answered.set()

            answered = asyncio.Event()
            task = asyncio.create_task(run())
            await answered.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with asyncio.timeout(HANGS_AFTER_SECONDS):
                await closed.wait()
                await asyncio.to_thread(ended, fake)


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


# -- a server that is lost --------------------------------------------------------------------


@pytest.mark.usefixtures("_quick")
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
            np.testing.assert_array_equal(states_of(encoding), sums(SEQUENCES[key]))


@pytest.mark.usefixtures("_quick")
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
                sum(len(cast(Array, c.states)) for c in own[:i]) for i in range(len(own))
            ]
            joined = np.concatenate([cast(Array, chunk.states) for chunk in own])
            np.testing.assert_array_equal(joined, sums(x))
            assert [chunk.last for chunk in own] == [False] * (len(own) - 1) + [True]


@pytest.mark.usefixtures("_quick")
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
        np.testing.assert_array_equal(states_of(encoding), sums(x))


@pytest.mark.usefixtures("_quick")
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
        np.testing.assert_array_equal(states_of(encoding), sums(X))


ONCE = (
    r"UNAVAILABLE: the server was lost \(as the script says\), and sequences\[1\] was given as an "
    r"iterator, which can't be read again; give an object that can be iterated, or an array$"
)


@pytest.mark.usefixtures("_quick")
def test_iterator_that_was_begun(faked: Streams, fake: FakeServer) -> None:
    """An iterator that was read from can't be sent again: that is told."""
    fake.breaks = [Break(requests=3)]
    with pytest.raises(Unavailable, match=ONCE) as caught:
        list(faked.encode_stream([("a", X), ("b", iter([X, X, X]))]))
    assert (caught.value.index, caught.value.key) == (1, "b")
    assert len(fake.calls) == 1


@pytest.mark.usefixtures("_quick")
def test_iterator_that_was_begun_is_one_of_many(faked: Streams, fake: FakeServer) -> None:
    """Where errors are returned, it is the only one that is lost."""
    fake.breaks = [Break(requests=3)]
    source = [X, iter([X, X]), X]
    results = list(faked.encode_stream(source, on_error="return"))
    assert isinstance(results[1], Unavailable)
    for encoding in (results[0], results[2]):
        np.testing.assert_array_equal(states_of(encoding), sums(X))


@pytest.mark.usefixtures("_quick")
def test_another_version_begins_anew(faked: Streams, fake: FakeServer, tmp_path: Path) -> None:
    """No result is made of two versions' parts."""
    fake.reply_steps = 2
    for save in (None, lambda index: tmp_path / f"{index}.npy"):
        fake.versions, fake.breaks = ["1", "2"], [Break(replies=3)]
        (encoding,) = faked.encode_stream([X], save_states=save)
        np.testing.assert_array_equal(states_of(encoding), sums(X))
    fake.versions, fake.breaks = ["1", "2"], [Break(replies=3)]
    with pytest.raises(Unavailable, match=r"now fake version 2, and sequences\[0\] had begun"):
        list(faked.encode_chunks([X]))


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
        np.testing.assert_array_equal(states_of(next(results)), sums(X))
        starter.set()
        thread.join()
    results.close()


def test_no_server(connect: Connect, fake: FakeServer) -> None:
    """Without any progress for the timeout the stream ends as Unavailable."""
    with serving(fake) as target:
        pass
    with pytest.raises(Unavailable, match="Connection refused"):
        list(connect(target).encode_stream([X], timeout_seconds=0.2))


def test_other_end(faked: Streams, fake: FakeServer) -> None:
    """Any other status is no loss of the server: it ends the stream at once."""
    fake.breaks = [Break(replies=2, code=grpc.StatusCode.INTERNAL)]
    with pytest.raises(ServerError, match="as the script says"):
        list(faked.encode_stream(SEQUENCES))
    assert len(fake.calls) == 1


@pytest.mark.usefixtures("_quick")
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
    patience = Patience(10.0)
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


# -- states in files --------------------------------------------------------------------------


def test_save_states(client: Streams, tmp_path: Path) -> None:
    """States go to files as numpy reads them, and come back as maps of these."""
    alone = client.encode_batch(SEQUENCES, outputs=["states", "final"])
    for key, encoding in client.encode_stream(
        ((str(i), x) for i, x in enumerate(SEQUENCES)),
        outputs=["states", "final"],
        save_states=lambda key: tmp_path / f"{key}.npy",
    ):
        expected = alone[int(key)]
        assert isinstance(encoding.states, np.memmap)
        assert_states(encoding, expected.states)
        final, expected_final = cast(Array, encoding.final), cast(Array, expected.final)
        np.testing.assert_allclose(final, expected_final, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(np.load(tmp_path / f"{key}.npy"), encoding.states)
    assert len(list(tmp_path.iterdir())) == len(SEQUENCES)


def test_save_states_of_a_stream_that_ends(
    faked: Streams, fake: FakeServer, tmp_path: Path
) -> None:
    """A file is whole or not there."""
    fake.reply_steps = 2
    fake.breaks = [Break(replies=6, code=grpc.StatusCode.INTERNAL)]
    with pytest.raises(ServerError):
        list(faked.encode_stream(SEQUENCES, save_states=lambda index: tmp_path / f"{index}.npy"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.npy", "1.npy"]


def test_save_states_where_none_can_be(faked: Streams, tmp_path: Path) -> None:
    """A file that can't be written is its own error."""
    with pytest.raises(FileNotFoundError):
        list(faked.encode_stream([X], save_states=lambda _: tmp_path / "none" / "x.npy"))


MEMORY = """
import sys, threading
import numpy as np, psutil
from bilstm_client import Client

target, folder, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
process = psutil.Process()
with Client(target) as client:
    list(client.encode_stream([np.ones((1000, 5), "f8")]))
    before = most = process.memory_info().rss
    done = threading.Event()
    def watch():
        global most
        while not done.wait(0.005):
            most = max(most, process.memory_info().rss)
    watcher = threading.Thread(target=watch)
    watcher.start()
    x = np.load(f"{folder}/x.npy", mmap_mode="r")
    (encoding,) = client.encode_stream([x], save_states=lambda _: f"{folder}/y.npy")
    done.set()
    watcher.join()
    assert encoding.states.shape == (steps, 5)
    assert encoding.states[-1, 0] == steps
print(most - before)
"""


def test_memory(fake: FakeServer, tmp_path: Path) -> None:
    """A sequence from a file to a file takes a fraction of its size of the client's memory."""
    steps = 4_000_000  # 160 MB as float64
    fake.reply_steps = 50_000
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float64, (steps, INPUT_SIZE))[:] = 1
    with serving(fake) as target:
        run = subprocess.run(
            [sys.executable, "-c", MEMORY, target, str(tmp_path), str(steps)],
            capture_output=True,
            text=True,
            timeout=2 * HANGS_AFTER_SECONDS,
        )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 64 * 2**20


# -- chunk by chunk ---------------------------------------------------------------------------


def test_chunks(faked: Streams, fake: FakeServer) -> None:
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
    joined = np.concatenate([cast(Array, chunk.states) for chunk in chunks[:3]])
    np.testing.assert_array_equal(joined, sums(X))
    joined[...] = 0
    assert [chunk.encoding for chunk in chunks[:2]] == [None, None]
    encoding = chunks[2].encoding
    assert encoding is not None
    assert encoding.states is None
    np.testing.assert_array_equal(cast(Array, encoding.final), sums(X)[-1])
    assert isinstance(chunks[3].error, InvalidInput)
    assert (chunks[3].key, chunks[3].states, chunks[3].last) == ("b", None, True)
    assert len(chunks) == 4
    assert repr(chunks[2]) == (
        "EncodingChunk(key='a', first_step=6, states=float32[1, 5], last=True, forward_exact=True, "
        "reverse_exact=True, encoding=Encoding(final=float32[5]))"
    )


def test_chunks_of_the_real_server(client: Streams) -> None:
    """A long sequence's parts, joined, are its states."""
    x = np.tile(X, (20_000, 1))
    chunks = list(client.encode_chunks([x]))
    assert len(chunks) > 1
    joined = np.concatenate([cast(Array, chunk.states) for chunk in chunks])
    (encoding,) = client.encode_stream([x])
    assert_states(encoding, joined)


def test_live(faked: Streams, fake: FakeServer) -> None:
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
    assert (first.key, first.first_step, len(cast(Array, first.states))) == ("mic", 0, 3)
    assert (first.last, first.forward_exact, first.reverse_exact) == (False, True, False)
    if isinstance(faked, Client):
        assert 2 not in given
    rest = list(chunks)
    assert [chunk.first_step for chunk in rest] == [3, 6, 8]
    assert [chunk.last for chunk in rest] == [False, False, True]
    assert np.concatenate([cast(Array, chunk.states) for chunk in rest]).shape == (5, INPUT_SIZE)
    assert [len(request.chunks) for request in fake.calls[0].requests] == [1] * 5


@pytest.mark.parametrize("lookahead", [0, 2])
def test_live_of_the_real_server(lookahead: int, client: Streams) -> None:
    """A live stream's parts, joined, are as long as what was sent; each is told if it is exact."""
    (encoding,) = client.encode_stream([X])
    source = [("mic", Chunks(*np.split(X, 7)))]
    live = Live(block_steps=3, lookahead_steps=lookahead)
    chunks = list(client.encode_chunks(source, live=live))
    joined = np.concatenate([cast(Array, chunk.states) for chunk in chunks])
    assert joined.shape == states_of(encoding).shape
    assert [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert not chunks[0].reverse_exact


@pytest.mark.usefixtures("_quick")
def test_live_that_is_lost(faked: Streams, fake: FakeServer) -> None:
    """A live stream can't be resumed: that is told."""
    fake.breaks = [Break(requests=2)]
    source = Chunks(X, X, X)
    with pytest.raises(Unavailable, match=r"sequences\[0\] is a live stream, which can't be res"):
        list(faked.encode_chunks([source], live=Live(4)))


def test_limits(client: Streams) -> None:
    """The limits of streams are told beside the others."""
    limits = client.get_model().limits
    assert limits.max_stream_bytes > limits.max_stream_sequences > 0
