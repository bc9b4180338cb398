"""Functional models of Keras, in both of the ways in which a config says what reads what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.model.storage.from_keras.files import Layer, run, write_keras, write_named, write_nested
from tests.model.storage.from_keras.layers import (
    bidirectional,
    dense,
    draw,
    embedding,
    lstm,
    plain,
)
from tests.model.storage.from_keras.reading import close, encode, load

IDS = 20


def tensor(name: str, call: int = 0, result: int = 0) -> dict[str, Any]:
    """What a layer gave, as an argument in Keras 3."""
    return {"class_name": "__keras_tensor__", "config": {"keras_history": [name, call, result]}}


def entry(layer: Layer, *calls: Any) -> dict[str, Any]:
    """A layer of a functional model, with each of its calls."""
    return {
        "class_name": layer.kind,
        "config": layer.config,
        "name": layer.name,
        "inbound_nodes": list(calls),
    }


def call(*arguments: Any, **named: Any) -> dict[str, Any]:
    return {"args": list(arguments), "kwargs": named}


def slices(*indices: Any) -> list[Any]:
    whole = {
        "class_name": "__slice__",
        "config": {"start": None, "stop": None, "step": None},
    }
    return [whole if index is None else index for index in indices]


def inputs() -> list[Layer]:
    return [
        Layer("InputLayer", {"name": "tokens", "batch_shape": [None, None]}),
        Layer("InputLayer", {"name": "features", "batch_shape": [None, None, 3]}),
    ]


def functional(
    entries: Sequence[Mapping[str, Any]], input_layers: Any, output_layers: Any
) -> dict[str, Any]:
    config = {"name": "model", "layers": entries}
    config |= {"input_layers": input_layers, "output_layers": output_layers}
    return {"class_name": "Functional", "config": config}


def test_named_outputs_of_two_inputs(tmp_path: Path) -> None:
    """A model of Keras 3 with two inputs, a shared layer, states, `x[:, -1]` and named outputs."""
    tokens, features = inputs()
    table, joined = embedding(IDS, 5, mask_zero=True), plain("Concatenate", axis=-1)
    both = bidirectional(8, 4, return_sequences=True, return_state=True)
    shared, product = dense(8, 2), plain("Multiply")
    not_equal, last = plain("NotEqual"), plain("GetItem")
    mask = tensor(not_equal.name)
    config = functional(
        [
            entry(tokens),
            entry(features),
            entry(product, call([tensor(both.name, 0, 1), tensor(both.name, 0, 4)])),
            entry(shared, call(tensor(last.name)), call(tensor(both.name))),
            entry(last, call(tensor(both.name), slices(None, -1))),
            entry(both, call(tensor(joined.name), mask=mask, training=False)),
            entry(joined, call([tensor(table.name), tensor("features")])),
            entry(table, call(tensor("tokens"))),
            entry(not_equal, call(tensor("tokens"), 0)),
        ],
        [["tokens", 0, 0], ["features", 0, 0]],
        {
            "one": [shared.name, 0, 0],
            "each": [shared.name, 1, 0],
            "product": [product.name, 0, 0],
        },
    )
    layers = [product, shared, both, joined, table]
    encoder = load(write_keras(tmp_path / "model.keras", config, layers))
    assert list(encoder.config.inputs) == ["tokens", "features"]
    assert encoder.config.inputs["tokens"].padding_id == 0
    ids, x = np.random.default_rng(0).integers(1, IDS, 7), draw(7, 3)
    outputs = encode(encoder, ids, x)
    rows = np.concatenate([run([table], ids), x], 1)
    states = run([both], rows)
    close(outputs["each"], run([shared], states))
    close(outputs["one"], run([shared], states[-1]))
    forward, backward = both.variables[:3], both.variables[3:]
    h = lstm_states(forward, rows)[0][-1]
    c = lstm_states(backward, rows[::-1])[1][-1]
    close(outputs["product"], h * c)


def lstm_states(variables: Sequence[Any], x: Any) -> tuple[Any, Any]:
    """Hidden and cell states [T, H] of one direction."""
    kernel, recurrent, bias = variables
    h = c = np.zeros(len(recurrent))
    hidden, cell = [], []
    for step in x:
        i, f, g, o = np.split(step @ kernel + h @ recurrent + bias, 4)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
        hidden.append(h)
        cell.append(c)
    return np.stack(hidden), np.stack(cell)


def test_lists_of_calls(tmp_path: Path) -> None:
    """A model of Keras 2, whose calls are lists, with several outputs named by their layers."""
    tokens, features = inputs()
    table, joined, tagger = embedding(IDS, 5), plain("Concatenate", axis=2), lstm(8, 4)
    tagger.config["return_sequences"] = True
    tags, pooled, score = dense(4, 3), plain("GlobalMaxPooling1D"), dense(4, 1, "sigmoid")

    def reads(*names: str) -> list[Any]:
        return [[name, 0, 0, {}] for name in names]

    config = functional(
        [
            entry(tokens),
            entry(features),
            entry(table, reads("tokens")),
            entry(joined, reads(table.name, "features")),
            entry(tagger, reads(joined.name)),
            entry(tags, reads(tagger.name)),
            entry(pooled, reads(tagger.name)),
            entry(score, reads(pooled.name)),
        ],
        [["tokens", 0, 0], ["features", 0, 0]],
        [[tags.name, 0, 0], [score.name, 0, 0]],
    )
    layers = [table, joined, tagger, tags, pooled, score]
    encoder = load(write_named(tmp_path / "model.h5", config, layers))
    ids, x = np.random.default_rng(0).integers(0, IDS, 7), draw(7, 3)
    outputs = encode(encoder, ids, x)
    states = run([tagger], np.concatenate([run([table], ids), x], 1))
    close(outputs[tags.name], run([tags], states))
    close(outputs[score.name], run([pooled, score], states))


def test_attention_of_operations(tmp_path: Path) -> None:
    """A softmax over the steps, multiplied with the states and summed, as Keras's operations."""
    states, scores = lstm(3, 4, return_sequences=True), dense(4, 1, "tanh")
    weights, product = plain("Softmax", axis=1), plain("Multiply")
    total = plain("Sum", axis=1, keepdims=False)
    _, features = inputs()
    config = functional(
        [
            entry(features),
            entry(states, call(tensor("features"))),
            entry(scores, call(tensor(states.name))),
            entry(weights, call(tensor(scores.name))),
            entry(product, call(tensor(weights.name), tensor(states.name))),
            entry(total, call(tensor(product.name))),
        ],
        ["features", 0, 0],
        [total.name, 0, 0],
    )
    encoder = load(write_keras(tmp_path / "model.keras", config, [states, scores]))
    x = draw(7, 3)
    y = run([states], x)
    exponentials = np.exp(run([scores], y))
    close(encode(encoder, x)[total.name], (exponentials / exponentials.sum(0) * y).sum(0))


def test_a_model_inside(tmp_path: Path) -> None:
    """A model that is a layer of another, in either layout, has its layers' own numbers."""
    before, after = lstm(3, 4, return_sequences=True), dense(4, 4, "relu")
    norm, last = dense(4, 5), dense(5, 2)
    _, features = inputs()
    inner = {
        "class_name": "Sequential",
        "config": {
            "name": "inner",
            "layers": [
                {"class_name": layer.kind, "config": layer.config} for layer in (after, norm)
            ],
        },
        "name": "inner",
        "inbound_nodes": [[[before.name, 0, 0, {}]]],
    }
    config = functional(
        [
            entry(features),
            entry(before, [[features.name, 0, 0, {}]]),
            inner,
            entry(last, [["inner", 0, 0, {}]]),
        ],
        [["features", 0, 0]],
        [[last.name, 0, 0]],
    )
    x = draw(6, 3)
    for path in write_nested(tmp_path, config, [before, last], [after, norm]):
        encoder = load(path)
        close(encode(encoder, x)["logits"], run([before, after, norm, last], x))
