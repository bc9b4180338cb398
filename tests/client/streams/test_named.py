"""Streams of models with inputs and outputs of their own: dicts of arrays go in, and rows by name
come out, in parts that joined are what a call gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bilstm_client import Encoding, EncodingChunk, InvalidInput, Live, NotAnArray, NotRequested
from bilstm_client.types import Array
from tests.client.clients import AnyClient
from tests.support.graphs import KINDS, TAGS, sentence

Sentence = dict[str, Array]
ROWS = ["states", "labels", "logits", "upos"]


def in_pieces(x: Sentence, steps: int) -> Iterator[Sentence]:
    for start in range(0, len(x["tokens"]), steps):
        yield {name: array[start : start + steps] for name, array in x.items()}


def assert_same(one: Encoding, other: Encoding) -> None:
    assert set(one) == set(other)
    for name in other:
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=1e-5, err_msg=name)


def test_sequences(graph_client: AnyClient) -> None:
    """Dicts, whole or in chunks, are encoded as by a call, with the names of the labels."""
    sentences = [sentence(steps) for steps in (7, 1, 12)]
    outputs = [*ROWS, "kind", "last"]
    forms: list[Callable[[Sentence], Any]] = [lambda x: x, lambda x: in_pieces(x, 5)]
    for form in forms:
        source = [(len(x["tokens"]), form(x)) for x in sentences]
        results = list(graph_client.encode_stream(source, outputs=outputs))
        assert [steps for steps, _ in results] == [7, 1, 12]
        for (_, encoding), x in zip(results, sentences, strict=True):
            assert_same(encoding, graph_client.encode(x, outputs=outputs))
            assert encoding.label_names == TAGS
            assert encoding.names_of("kind") == KINDS


def test_long_sequences(graph_client: AnyClient, tmp_path: Path) -> None:
    """A sequence that goes in many messages and comes in many, its inputs memory maps, is what its
    parts are; its states go to a file."""
    x = sentence(60_000)
    for name, array in x.items():
        np.save(tmp_path / f"{name}.npy", array)
    mapped = {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in x}
    path = tmp_path / "states.npy"
    (encoding,) = graph_client.encode_stream(
        [mapped], outputs=["states", "labels", "logits", "last"], save_states=lambda key: path
    )
    np.testing.assert_array_equal(encoding.labels, encoding.logits.argmax(1))
    np.testing.assert_array_equal(np.load(path)[-1], encoding["last"])
    assert (encoding.states.shape, encoding.labels.shape) == ((60_000, 6), (60_000,))
    chunks = list(graph_client.encode_chunks([mapped], outputs=["labels", "logits", "kind"]))
    assert len(chunks) > 1
    for name in ("labels", "logits"):
        joined = np.concatenate([chunk[name] for chunk in chunks])
        np.testing.assert_array_equal(joined, encoding[name])


def test_chunks(graph_client: AnyClient) -> None:
    """Chunks have rows by name and as attributes; what is of the whole sequence is in the last
    one's encoding, and each says where the other is."""
    (chunk,) = graph_client.encode_chunks([sentence(7)], outputs=[*ROWS, "kind"])
    assert set(chunk) == set(chunk.outputs) == set(ROWS)
    assert chunk.labels is chunk["labels"]
    assert chunk.label_names == TAGS
    assert (chunk.labels.shape, chunk.logits.shape) == ((7,), (7, len(TAGS)))
    chunk.labels[:] = 0  # the caller's own
    assert chunk.encoding is not None
    assert (chunk.encoding.outputs, chunk.encoding["kind"].shape) == (("kind",), ())
    with pytest.raises(NotRequested, match="kind: is of the whole sequence"):
        chunk["kind"]
    with pytest.raises(NotRequested, match="upos: encode_chunks yields them in its chunks"):
        chunk.encoding["upos"]
    with pytest.raises(NotRequested, match="give outputs="):
        chunk["probabilities"]


def test_rows_of_their_own(graph_client: AnyClient, tmp_path: Path) -> None:
    """Outputs with fewer rows than steps are joined by their own, whether in arrays or a file."""
    x = sentence(20_001)["features"]
    options: dict[str, Any] = {"model": "recogniser", "outputs": ["states", "logits"]}
    path = tmp_path / "states.npy"
    (encoding,) = graph_client.encode_stream([x], save_states=lambda key: path, **options)
    assert encoding.states.shape == np.load(path).shape == (10_000, 12)
    chunks = list(graph_client.encode_chunks([x], **options))
    joined = np.concatenate([chunk.logits for chunk in chunks])
    np.testing.assert_array_equal(joined, encoding.logits)
    (short,) = graph_client.encode_stream([x[:30]], model="recogniser", outputs="labels")
    called = graph_client.encode(x[:30], model="recogniser", outputs="labels")
    np.testing.assert_array_equal(short.labels, called.labels)


def test_live(graph_client: AnyClient) -> None:
    """A live input of several arrays is answered a block at a time, exactly where the model reads
    forward alone."""
    x = sentence(10)
    chunks: list[EncodingChunk[Any]] = list(
        graph_client.encode_chunks([in_pieces(x, 2)], live=Live(block_steps=4), outputs=ROWS)
    )
    assert [chunk.first_step for chunk in chunks][:3] == [0, 4, 8]
    whole = graph_client.encode(x, outputs=ROWS)
    for name in ROWS:
        joined = np.concatenate([chunk[name] for chunk in chunks])
        np.testing.assert_allclose(joined, whole[name], rtol=0, atol=1e-5)
    with pytest.raises(InvalidInput, match="kind can't be had in a live stream") as caught:
        list(graph_client.encode_chunks([in_pieces(x, 2)], live=Live(4), outputs="kind"))
    assert caught.value.field == "outputs"


WRONG: dict[str, tuple[Callable[[Sentence], Any], type[Exception], str]] = {
    "lengths": (lambda x: x | {"tokens": [1]}, InvalidInput, "features.shape: must have as many"),
    "a chunk's": (lambda x: iter([x, {"tokens": [1]}]), InvalidInput, "features: must be given"),
    "no numbers": (lambda x: x | {"tokens": "a"}, NotAnArray, "sequences[1].tokens: must be an"),
    "no name": (
        lambda x: iter([x, {7: [1]}]),
        NotAnArray,
        "sequences[1]: must be a dict of inputs",
    ),
    "integers": (lambda x: x | {"tokens": [[1]]}, InvalidInput, "must be [T] of token ids, got [1"),
    "arrays": (lambda x: x | {"tokens": [np.ones((2, 3))]}, NotAnArray, "tokens: is a list of"),
    "a dict of lists": (lambda x: iter([x, x["tokens"]]), InvalidInput, "tokens, features"),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors(case: str, graph_client: AnyClient) -> None:
    """What is wrong with one sequence is its error alone, with the input's name."""
    make, kind, words = WRONG[case]
    wrong, x = make(sentence(7)), sentence(7)
    before, error, after = graph_client.encode_stream(
        [x, wrong, x], on_error="return", outputs="labels"
    )
    assert isinstance(error, kind)
    assert words in str(error)
    assert isinstance(before, Encoding)
    assert isinstance(after, Encoding)
    assert_same(before, after)


def test_many_inputs_in_one_message(graph_client: AnyClient) -> None:
    """So many short sequences that a message has as many inputs as it may are all encoded."""
    results = list(graph_client.encode_stream([sentence(1)] * 2_500, outputs="kind"))
    assert len(results) == 2_500
