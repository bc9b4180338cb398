"""Streams of both clients: what a source may be, and in which order results come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import ml_dtypes
import numpy as np
import pytest
import torch

from bilstm_client import (
    AsyncClient,
    Client,
    InvalidInput,
    Live,
    NotAnArray,
)
from bilstm_client.types import Array, Encoding
from tests.client.clients import AnyClient, Connect
from tests.client.streams.sources import (
    SEQUENCES,
    WRONG,
    Chunks,
    X,
    assert_states,
    mapped,
    sequence,
)
from tests.support.fake_streams import FakeServer, sums
from tests.support.servers import RunningServer, settings

# -- what a source may be ----------------------------------------------------------------------


def test_plain_sequences(client: AnyClient) -> None:
    """A stream's results are those of calls, in the source's order."""
    outputs: Any = ("states", "final", "mean", "max", "logits", "state")
    alone = client.encode_batch(SEQUENCES, outputs=outputs)
    streamed = list(client.encode_stream(SEQUENCES, outputs=outputs))
    for one, other in zip(streamed, alone, strict=True):
        for name in outputs[:-1]:
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=0, atol=1e-6)
        np.testing.assert_allclose(one.state.cell, other.state.cell, rtol=0, atol=1e-6)
        assert one.timing.batch_sequences >= 1


@pytest.mark.parametrize("ordered", [True, False])
def test_pairs(ordered: bool, client: AnyClient) -> None:
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


def test_cube(client: AnyClient) -> None:
    """An array of sequences is a source."""
    cube = np.stack([sequence(4, i) for i in range(3)])
    alone = client.encode_batch(cube)
    for one, other in zip(client.encode_stream(cube), alone, strict=True):
        assert_states(one, other.states)


def test_no_sequences(client: AnyClient) -> None:
    """A source without sequences gives no results."""
    assert list(client.encode_stream([])) == []


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
def test_forms_of_a_sequence(form: str, client: AnyClient, tmp_path: Path) -> None:
    """A sequence gives the same result in whatever form it comes."""
    expected = client.encode(X).states
    (encoding,) = client.encode_stream([FORMS[form](tmp_path)])
    assert_states(encoding, expected)


@pytest.mark.parametrize("parts", [[X[:3], X[3:6]], [X[:3], X[3:]], (X[:2], X[2:4], X[4:])])
def test_list_of_arrays(parts: Any, client: AnyClient) -> None:
    """A list of arrays may be one sequence's chunks or several sequences, and so is neither."""
    wrong, right = client.encode_stream([("wrong", parts), ("right", X)], on_error="return")
    key, error = wrong
    assert (key, type(error)) == ("wrong", NotAnArray)
    assert str(error).startswith("sequences[0]: is a list of arrays of two dimensions. Give ")
    assert "iter(chunks)" in str(error)
    assert isinstance(right[1], Encoding)
    with pytest.raises(NotAnArray, match=r"iter\(chunks\)"):
        list(client.encode_chunks([list(parts)], live=Live(2)))


@pytest.mark.parametrize("form", [np.asarray, torch.tensor])
def test_array_as_a_key(form: Callable[[Array], Any], client: AnyClient) -> None:
    """Two sequences, or one and its label, in a tuple are no pair: the stream ends with that."""
    for source in ([(form(X), form(X))], zip([form(X)], ["label"], strict=True)):
        with pytest.raises(TypeError, match=r"source\[0\] is a tuple of two.*its key is an array"):
            list(client.encode_stream(source))
    numbers = form(np.arange(2))  # whose items are numbers, of no dimensions
    assert len(list(client.encode_stream(zip(numbers, [X, X], strict=True)))) == 2


def test_token_ids(client: AnyClient) -> None:
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


def test_results_are_the_callers_own(client: AnyClient) -> None:
    """Every array can be written to, and writing to one leaves the others as they are."""
    one, other = client.encode_stream([X, X], outputs=["states", "final"])
    before = other.states.copy()
    for array in (one.states, one.final):
        array[...] = 7
    np.testing.assert_array_equal(other.states, before)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_output_data_type(name: Any, client: AnyClient, tmp_path: Path) -> None:
    """Results come in the type that is asked for, also from a file."""
    expected = client.encode(X, output_data_type=name).states
    dtype = np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else "f2")
    for save in (None, lambda index: tmp_path / f"{index}.npy"):
        (encoding,) = client.encode_stream([X], output_data_type=name, save_states=save)
        assert encoding.states.dtype == dtype
        np.testing.assert_array_equal(encoding.states, expected)


def test_several_at_once(client: AnyClient) -> None:
    """A client has any number of streams at once, and calls beside them."""
    first, second = client.encode_stream(SEQUENCES), client.encode_stream(SEQUENCES[::-1])
    alone = client.encode_batch(SEQUENCES)
    for n, (one, other) in enumerate(zip(first, second, strict=True)):
        assert_states(one, alone[n].states)
        assert_states(other, alone[-1 - n].states)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"in_flight": 0}, ValueError, "in_flight must be 1 or more, got 0"),
        ({"in_flight": True}, TypeError, "in_flight must be a whole number, got True"),
        ({"in_flight": 2.0}, TypeError, "in_flight must be a whole number, got 2.0"),
        ({"save_states": "x.npy"}, TypeError, "save_states must be a function from key to path"),
        ({"on_error": "ignore"}, ValueError, "on_error must be 'raise' or 'return'"),
        ({"outputs": ["bo gus"]}, ValueError, "'bo gus' is no output"),
        ({"timeout_seconds": "1"}, TypeError, "timeout_seconds must be a number"),
        ({"save_states": str, "outputs": ["final"]}, ValueError, "save_states needs 'states'"),
        ({"colour": "red"}, TypeError, "unexpected keyword argument 'colour'"),
    ],
)
def test_bad_option(options: Any, kind: type[Exception], message: str, faked: AnyClient) -> None:
    """What can't be is refused at once, before the stream is iterated."""
    with pytest.raises(kind, match=message):
        faked.encode_stream([X], **options)


def test_bad_live(faked: AnyClient) -> None:
    """Live is a `Live`."""
    with pytest.raises(TypeError, match="live must be a Live, got int"):
        faked.encode_chunks([X], live=cast(Any, 5))
    with pytest.raises(TypeError, match=r"block_steps must be a whole number, got 2\.5"):
        Live(cast(Any, 2.5))
    with pytest.raises(ValueError, match="block_steps must be 1 or more, got 0"):
        Live(0)
    with pytest.raises(ValueError, match="lookahead_steps must be 0 or more, got -1"):
        Live(1, -1)


def test_numpys_numbers(client: AnyClient) -> None:
    """A number is one whatever type it has."""
    one, other = client.encode_stream([X, X], in_flight=cast(Any, np.int64(1)))
    assert_states(one, other.states)


# -- order -------------------------------------------------------------------------------------


def test_any_order(faked: AnyClient, fake: FakeServer) -> None:
    """Without order results come as they are done."""
    fake.pairs_reversed = True
    results = list(faked.encode_stream(enumerate(SEQUENCES), ordered=False))
    assert [key for key, _ in results] == [1, 0, 3, 2, 5, 4]
    for key, encoding in results:
        assert_states(encoding, sums(SEQUENCES[key]))


@pytest.mark.parametrize("ordered", [True, False])
def test_errors_keep_the_order(ordered: bool, client: AnyClient) -> None:
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


def test_many_tiny_sequences_in_flight(connect: Connect, model_folder: Path) -> None:
    """However many sequences a request has room for, and whatever a call may bring, a stream's
    requests have no more than a server takes."""
    source = np.zeros((3_000, 1, X.shape[1]), np.float32)
    running = RunningServer(
        settings(model=[("small", model_folder)], max_request_sequences=4, max_stream_sequences=10)
    )
    try:
        client = connect(running.target)
        assert sum(1 for _ in client.encode_stream(source, in_flight=len(source))) == len(source)
    finally:
        running.close()


def test_limits(client: AnyClient) -> None:
    """The limits of streams are told beside the others."""
    limits = client.get_model().limits
    assert limits.max_stream_bytes > limits.max_stream_sequences > 0
