"""What can't be served of Keras is refused with the layer's name, and never read otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.model.storage.from_keras.files import Layer, sequential, write_keras
from tests.model.storage.from_keras.layers import (
    batch_norm,
    bidirectional,
    conv,
    dense,
    embedding,
    lstm,
    plain,
    time_distributed,
)
from tests.model.storage.from_keras.reading import refusal
from tests.model.storage.from_keras.test_functional import call, entry, functional, inputs, tensor


def changed(layer: Layer, /, **settings: Any) -> Layer:
    layer.config |= settings
    return layer


REFUSED: list[tuple[Layer, str]] = [
    (lstm(3, 4, recurrent_activation="hard_sigmoid"), "recurrent_activation is hard_sigmoid"),
    (lstm(3, 4, activation="relu"), "activation is relu, and only tanh is served"),
    (changed(lstm(3, 4), units=5), "weight_ih_l0 is [16, 3], expected [20, 3]"),
    (lstm(3, 4, use_bias=False, time_major=True), "time_major is on"),
    (bidirectional(3, 4, go_backwards=True), "its layers do not go forward and backward"),
    (bidirectional(3, 4, "least"), "merge_mode is 'least', expected concat, sum, ave or mul"),
    (bidirectional(3, 4, recurrent_activation="hard_sigmoid"), "recurrent_activation is hard"),
    (
        changed(bidirectional(3, 4), layer={"class_name": "GRU", "config": {}}),
        "has a GRU inside, and only an LSTM is served",
    ),
    (time_distributed(lstm(3, 4)), "has a LSTM inside, and only Dense"),
    (dense(3, 4, "hard_sigmoid"), "by which Keras 2 and 3 mean two functions"),
    (dense(3, 4, "sparsemax"), "activation is sparsemax, which is not served"),
    (changed(dense(3, 4), units="4"), "units is a str, expected a whole number"),
    (conv(3, 4, 3, "same", 2, 1), "padding is same with strides 2"),
    (changed(conv(3, 4, 3, "same", 1, 1), data_format="channels_first"), "data_format is channels"),
    (changed(batch_norm(3), axis=1), "axis is 1, and only the last one, -1, is served"),
    (changed(batch_norm(3), renorm=True), "renorm is on"),
    (embedding(20, 4), "reads sequence as ids below 20, which it is not"),
    (plain("Lambda", function={"class_name": "__lambda__", "config": {"code": ""}}), "has no type"),
    (plain("GRU", units=4), "has no type here; serve the model up to the layer before it"),
    (plain("Flatten"), "has no type here"),
    (plain("GlobalMaxPooling1D", keepdims=True), "keepdims is on"),
]


@pytest.mark.parametrize(("layer", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_a_layer(layer: Layer, words: str, tmp_path: Path) -> None:
    """A setting or class that is not served is named with its layer."""
    config = sequential([layer], [None, None, 3])
    path = write_keras(tmp_path / "model.keras", config, [layer])
    said = refusal(path)
    assert said.startswith(f"layer {layer.name} ({layer.kind}): ")
    assert words in said


@pytest.mark.parametrize("field", ["module", "registered_name"])
def test_a_class_of_the_owners_own(field: str, tmp_path: Path) -> None:
    """A class under a name of Keras's that is the owner's own is no layer of Keras's."""
    layer = lstm(3, 4)
    config = sequential([layer], [None, None, 3])
    config["config"]["layers"][1][field] = "my>LSTM"
    said = refusal(write_keras(tmp_path / "model.keras", config, [layer]))
    assert said.startswith(f"layer {layer.name} (my>LSTM")


def test_a_model_of_the_owners_own(tmp_path: Path) -> None:
    """A subclassed model is refused: what it computes is in its code alone."""
    config = {"class_name": "MyModel", "config": {}, "module": "mine"}
    said = refusal(write_keras(tmp_path / "model.keras", config, []))
    assert "is a 'mine.MyModel', and its code alone says what it computes" in said


@pytest.mark.parametrize("shape", [[None], [None, None, 8, 3], "many", None])
def test_an_input_of_another_form(shape: Any, tmp_path: Path) -> None:
    """An input that is neither ids nor features for each step is refused with its shape."""
    layer = lstm(3, 4)
    said = refusal(write_keras(tmp_path / "model.keras", sequential([layer], shape), [layer]))
    assert "input sequence: its shape is" in said


def test_floats_without_columns(tmp_path: Path) -> None:
    """[batch, steps] that no embedding reads are refused: a step's floats are columns."""
    layer = lstm(3, 4)
    said = refusal(
        write_keras(tmp_path / "model.keras", sequential([layer], [None, None]), [layer])
    )
    assert "which has one number a step" in said


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"initial_state": [tensor("features")]}, "is called with initial_state"),
        ({"training": True}, "is called with training"),
        ({"mask": tensor("features")}, "not called"),
        ({"mask": tensor("other")}, "there is no layer 'other'"),
    ],
)
def test_a_call(named: dict[str, Any], words: str, tmp_path: Path) -> None:
    """A call with an argument that changes the numbers is refused."""
    features, layer = inputs()[1], lstm(3, 4)
    entries = [entry(features), entry(layer, call(tensor("features"), **named))]
    config = functional(entries, ["features", 0, 0], [layer.name, 0, 0])
    assert words in refusal(write_keras(tmp_path / "model.keras", config, [layer]))


def outputs_of(*entries: dict[str, Any]) -> Sequence[dict[str, Any]]:
    return [entry(inputs()[1]), *entries]


def test_a_mask_of_other_numbers(tmp_path: Path) -> None:
    """A mask that is no comparison of ids with their padding is refused."""
    layer, mask = lstm(3, 4), plain("Less")
    entries = outputs_of(
        entry(mask, call(tensor("features"), 1)),
        entry(layer, call(tensor("features"), mask=tensor(mask.name))),
    )
    config = functional(entries, ["features", 0, 0], [layer.name, 0, 0])
    words = f"reads a mask from {mask.name}, which is not served"
    assert words in refusal(write_keras(tmp_path / "model.keras", config, [layer]))


@pytest.mark.parametrize("index", [1, -2, {"class_name": "__slice__", "config": {"start": 1}}])
def test_another_part(index: Any, tmp_path: Path) -> None:
    """A part other than the first or last step is refused."""
    layer, part = lstm(3, 4, return_sequences=True), plain("GetItem")
    whole = {"class_name": "__slice__", "config": dict.fromkeys(("start", "stop", "step"))}
    entries = outputs_of(
        entry(layer, call(tensor("features"))),
        entry(part, call(tensor(layer.name), [whole, index])),
    )
    config = functional(entries, ["features", 0, 0], [part.name, 0, 0])
    said = refusal(write_keras(tmp_path / "model.keras", config, [layer]))
    assert "takes another part than x[:, -1] or x[:, 0]" in said
