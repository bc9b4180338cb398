"""Models with inputs and outputs of their own: sequences are dicts, and results have names."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from bilstm_client import InputInfo, InvalidInput, NotRequested, OutputInfo
from tests.client.calls.encodings import calls
from tests.client.clients import AnyClient
from tests.support.graphs import IDS, KINDS, TAGS, WIDTH, sentence
from tests.support.servers import RunningServer

X = sentence(7)


def test_labels(graph_client: AnyClient, graphs: RunningServer) -> None:
    """Labels are integers, a step's best class each, and come with their names in one RPC."""
    before = calls(graphs), calls(graphs, "GetModel")
    encoding = graph_client.encode(X, outputs=["labels", "logits", "probabilities"])
    assert (calls(graphs) - before[0], calls(graphs, "GetModel") - before[1]) == (1, 0)
    assert encoding.outputs == ("logits", "labels", "probabilities")
    assert encoding.labels.dtype == np.int32
    np.testing.assert_array_equal(encoding.labels, encoding.logits.argmax(1))
    np.testing.assert_allclose(encoding.probabilities.sum(1), np.ones(7), rtol=1e-5)
    np.testing.assert_array_equal(encoding.probabilities.argmax(1), encoding.labels)
    assert encoding.label_names == TAGS
    assert {encoding.label_names[label] for label in encoding.labels} <= set(TAGS)
    encoding.labels[:] = 0  # the caller's own


def test_half_floats_leave_labels(graph_client: AnyClient) -> None:
    """Labels are integers of 32 bits, whatever the floats are."""
    outputs = ["labels", "logits"]
    encoding = graph_client.encode(X, outputs=outputs, output_data_type="float16")
    assert encoding.labels.dtype == np.int32
    assert encoding.logits.dtype == np.float16


def test_label_of_the_sequence(graph_client: AnyClient) -> None:
    """A single label is an array of no dimensions, and an index into its names."""
    encoding = graph_client.encode(X["features"], outputs=["labels", "logits"], model="classifier")
    assert (encoding.labels.shape, encoding.logits.shape) == ((), (len(KINDS),))
    assert int(encoding.labels) == encoding.logits.argmax()
    assert encoding.label_names[encoding.labels] in KINDS
    assert repr(encoding) == "Encoding(logits=float32[2], labels=int32[])"


def test_outputs_of_its_own(graph_client: AnyClient) -> None:
    """All outputs are items by their name, and can be iterated; none is there twice."""
    encoding = graph_client.encode(X, outputs=["upos", "kind", "states", "state", "last"])
    assert set(encoding) == set(encoding.outputs) == {"upos", "kind", "states", "state", "last"}
    assert "upos" in encoding
    assert "labels" not in encoding
    assert {name: encoding[name].shape for name in encoding if name != "state"} == {
        "upos": (7,),
        "kind": (),
        "states": (7, 6),
        "last": (6,),
    }
    assert encoding["states"] is encoding.states
    assert encoding["state"] is encoding.state
    np.testing.assert_array_equal(encoding["last"], encoding.states[-1])
    assert encoding.names_of("kind") == KINDS
    assert encoding.names_of("upos") == ()
    duplicate = pickle.loads(pickle.dumps(encoding))
    assert (duplicate["kind"], duplicate.names_of("kind")) == (encoding["kind"], KINDS)


def test_what_was_not_requested(graph_client: AnyClient) -> None:
    """As a mapping it is a KeyError, as an attribute an AttributeError, and both say what to
    request."""
    encoding = graph_client.encode(X, outputs="upos")
    for missed in ("labels", "dependencies"):
        with pytest.raises(KeyError) as caught:
            encoding[missed]
        assert isinstance(caught.value, NotRequested)
        assert str(caught.value) == f"{missed}: not requested; give outputs={['upos', missed]}"
        with pytest.raises(NotRequested):
            encoding.names_of(missed)
    for name in ("labels", "label_names", "probabilities", "logits", "states"):
        assert not hasattr(encoding, name)


def test_batch(graph_client: AnyClient, graphs: RunningServer) -> None:
    """A batch of dicts is cut by the model's limits, which count all inputs and outputs, and each
    result is as if it were alone."""
    sequences = [sentence(steps, seed) for seed, steps in enumerate([1, 12, 5] * 6)]
    outputs = ["labels", "logits", "kind", "upos"]
    before = calls(graphs)
    batch = graph_client.encode_batch(sequences, outputs=outputs)
    assert calls(graphs) - before == 3
    for sequence, encoding in zip(sequences, batch, strict=True):
        alone = graph_client.encode(sequence, outputs=outputs)
        for name in outputs:
            np.testing.assert_allclose(encoding[name], alone[name], rtol=0, atol=1e-6)


def test_batch_cut_by_its_reply(graph_client: AnyClient, graphs: RunningServer) -> None:
    """What strides leave counts, not the steps."""
    sequences = [np.zeros((3_001, WIDTH), np.float32)] * 8
    before = calls(graphs)
    batch = graph_client.encode_batch(sequences, outputs=["states"], model="recogniser")
    assert [encoding.states.shape for encoding in batch] == [(1_500, 12)] * 8
    assert calls(graphs) - before == 2  # of 4 sequences, 1,500 rows, 12 floats each: 288,000 bytes


def test_rows_of_their_own(graph_client: AnyClient) -> None:
    """Outputs may have fewer rows than steps, and labels fewer than those."""
    x = sentence(30)["features"]
    encoding = graph_client.encode(x, outputs=["states", "labels", "logits"], model="recogniser")
    assert encoding.states.shape == (14, 12)
    best = encoding.logits.argmax(1)
    said = best[np.flatnonzero(np.diff(best, prepend=-1))]
    np.testing.assert_array_equal(encoding.labels, said[said > 0])


def test_an_input_without_its_name(graph_client: AnyClient) -> None:
    """The only input of a model may be named, or not."""
    x = X["features"]
    named = graph_client.encode({"features": x}, model="classifier", outputs="logits")
    plain = graph_client.encode(x, model="classifier", outputs="logits")
    np.testing.assert_array_equal(named.logits, plain.logits)


WRONG: dict[str, tuple[Any, str, str]] = {
    "width": (X | {"features": X["features"][:, :2]}, ".features.shape", r"\[T, 3\]"),
    "lengths": (X | {"features": X["features"][:5]}, ".features.shape", "tokens, 7, got 5"),
    "rank": (X | {"tokens": [[1]]}, ".tokens.shape", r"must be \[T\] of token ids, got \[1, 1\]"),
    "type": (X | {"tokens": np.ones(7)}, ".tokens.data_type", "INT"),
    "range": (X | {"tokens": [IDS] * 7}, ".tokens.data", "0 to 19"),
    "padding": (X | {"tokens": [0] * 7}, ".tokens.data", "padding"),
    "missing": ({"tokens": X["tokens"]}, ".features", "must be given"),
    "unknown": (X | {"feature": X["features"]}, "", "'feature'.*tokens, features"),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors_name_the_input(case: str, graph_client: AnyClient) -> None:
    """What the server refuses is named by the sequence's place, and the input's name."""
    wrong, field, words = WRONG[case]
    for call in (graph_client.encode_batch, lambda xs, **o: list(graph_client.encode_stream(xs))):
        with pytest.raises(InvalidInput, match=words) as caught:
            call([X, X, wrong], outputs="labels")
        assert caught.value.field == f"sequences[2]{field}"


def test_an_array_where_there_are_names(graph_client: AnyClient) -> None:
    """A model of several inputs refuses an array, in words that name the inputs."""
    with pytest.raises(InvalidInput, match="tokens, features"):
        graph_client.encode(X["tokens"])
    with pytest.raises(InvalidInput, match="tokens, features"):
        list(graph_client.encode_stream([X["tokens"]]))


NO_INPUTS: dict[str, tuple[Any, str]] = {
    "nothing": ({}, "sequences[1]: must be a dict of 1 to 16 inputs, got 0"),
    "many": ({str(n): [n] for n in range(17)}, "sequences[1]: must be a dict of 1 to 16"),
    "a number for a name": ({1: [1]}, "sequences[1]: must be a dict of inputs by name, got 1"),
    "no name": ({"": [1]}, "sequences[1]: must be a dict of inputs by name, got ''"),
    "a long name": ({"é" * 33: [1]}, "sequences[1]: must be a dict of inputs by name, got 'é"),
    "no numbers": (X | {"tokens": "ab"}, "sequences[1].tokens: must be an array of numbers"),
    "rows of two lengths": (X | {"features": [[1], [1, 2]]}, "sequences[1].features: must be"),
}


@pytest.mark.parametrize("case", NO_INPUTS)
def test_what_is_no_dict_of_inputs(case: str, graph_client: AnyClient) -> None:
    """What can't be sent is a TypeError that names its place, before anything is sent."""
    wrong, message = NO_INPUTS[case]
    for call in (graph_client.encode_batch, lambda xs: list(graph_client.encode_stream(xs))):
        with pytest.raises(TypeError) as caught:
            call([X, wrong])
        assert str(caught.value).startswith(message)


def test_a_batch_of_both_kinds(graph_client: AnyClient) -> None:
    """One request has either: arrays among dicts are a TypeError."""
    with pytest.raises(TypeError, match=r"^sequences\[1\]: must be a dict of inputs, as the first"):
        graph_client.encode_batch([X, X["features"]])
    with pytest.raises(TypeError, match=r"^sequences\[2\]: must be an array, as the first"):
        graph_client.encode_batch([X["features"], X["features"], X])


def test_described(graph_client: AnyClient) -> None:
    """A model says what it takes and gives, by name."""
    tagger, recogniser, classifier = graph_client.list_models()
    assert tagger.inputs == (
        InputInfo("tokens", ids=IDS, padding_id=0),
        InputInfo("features", width=WIDTH),
    )
    assert tagger.outputs[:3] == ("states", "logits", "state")
    assert set(tagger.outputs[3:]) == {"probabilities", "labels", "upos", "kind", "last"}
    infos = {info.name: info for info in tagger.output_infos}
    assert infos["labels"] == OutputInfo("labels", True, ids=len(TAGS), labels=TAGS)
    whole = "it is one of the whole sequence"
    assert infos["kind"] == OutputInfo("kind", False, 0, len(KINDS), KINDS, not_live=whole)
    assert infos["probabilities"] == OutputInfo("probabilities", True, len(TAGS))
    assert (tagger.labels, tagger.num_classes, tagger.num_embeddings) == (TAGS, len(TAGS), 0)
    assert (tagger.min_steps, recogniser.min_steps) == (1, 3)
    (labels,) = (info for info in recogniser.output_infos if info.name == "labels")
    assert (labels.windows, labels.sparse, labels.rows(30)) == (((-3, 2),), True, 14)
    assert classifier.not_live
    assert not tagger.not_live
