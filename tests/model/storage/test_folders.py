"""A model folder is written whole or not at all, and one that is broken is named with its fault."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from bilstm_server.errors import ModelError
from bilstm_server.model import ModelConfig, PlainConfig, SequenceEncoder, load_model, save_model
from tests.model.storage.importing.checkpoints import Failing
from tests.support.servers import plain_config, write_model

# -- model folders -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"bias": False, "bidirectional": False, "proj_size": 2},
        {"embedding": {"num_embeddings": 9}, "head": {"num_classes": 2, "bias": False}},
        {"head": {"num_classes": 2, "pooling": "max"}, "labels": ["no", "yes"], "version": 3},
    ],
)
def test_save_and_load(sizes: dict[str, object], tmp_path: Path) -> None:
    """A model that is saved and loaded has the same config and the same weights."""
    config = PlainConfig.model_validate({"input_size": 3, "hidden_size": 4} | sizes).graph()
    encoder = SequenceEncoder(config)
    save_model(encoder, tmp_path / "a" / "new" / "folder")
    loaded = load_model(tmp_path / "a" / "new" / "folder")
    assert loaded.config == config
    torch.testing.assert_close(loaded.state_dict(), encoder.state_dict(), rtol=0, atol=0)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_load_dtype(tmp_path: Path) -> None:
    """A model is loaded in the dtype that is asked for."""
    folder = write_model(tmp_path / "model")
    loaded = load_model(folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}


def test_save_over_a_model(tmp_path: Path) -> None:
    """A model is saved over another one; nothing else is left in the folder."""
    folder = write_model(tmp_path / "model")
    write_model(folder, seed=1, num_layers=1)
    assert load_model(folder).config.lstms[0].num_layers == 1
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("last", [0, 1])
def test_interrupted_write(
    last: int, overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that fails leaves no config beside weights that it is not of, and no other file."""
    folder = tmp_path / "model"
    if overwrite:
        write_model(folder)
    replaced: list[Path] = []

    def replace(source: Path, target: Path) -> None:
        if len(replaced) == last:
            raise OSError(28, "No space left on device")
        replaced.append(target)
        source.rename(target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(ModelError, match="No space left on device"):
        write_model(folder, seed=1)
    assert [path.name for path in replaced] == ["model.safetensors"][:last]
    names = {path.name for path in folder.iterdir()}
    written = {path.name for path in replaced}
    assert names == written | ({"config.json", "model.safetensors"} if overwrite else set())
    if overwrite:
        load_model(folder)


# -- folders that are no model -------------------------------------------------------------------


def edit_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | fields))


def edit_weights(folder: Path, name: str, value: float) -> None:
    """One number of the tensor becomes the value."""
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors[name].view(-1)[-1] = value
    safetensors.torch.save_file(tensors, path)


def swap_weights(folder: Path) -> None:
    """The weights become those of a model with other sizes."""
    other = write_model(folder.parent / "other", input_size=4)
    (other / "model.safetensors").replace(folder / "model.safetensors")


# What is done to a good folder, and what the line must name.
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json"),
    "deep JSON": (lambda f: (f / "config.json").write_text("[" * 100_000), "config.json"),
    "no UTF-8": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe{}"), "config.json"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "config.json"),
    "unknown key": (lambda f: edit_config(f, layers=2), "layers"),
    "key missing": (
        lambda f: (f / "config.json").write_text('{"input_size": 5}'),
        "hidden_size",
    ),
    "negative size": (lambda f: edit_config(f, hidden_size=-6), "hidden_size"),
    "absurd size": (lambda f: edit_config(f, hidden_size=10**18), "config.json"),
    "size beyond 64 bits": (lambda f: edit_config(f, hidden_size=10**30), "config.json"),
    "text for a size": (lambda f: edit_config(f, input_size="wide"), "input_size"),
    "unknown pooling": (
        lambda f: edit_config(f, head={"num_classes": 3, "pooling": "median"}),
        "head.pooling",
    ),
    "a label short": (
        lambda f: edit_config(f, labels=["red"]),
        "config.json: labels: expected one per class of the head (3), got 1",
    ),
    "projection too wide": (lambda f: edit_config(f, proj_size=6), "config.json: proj_size"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
    "truncated weights": (
        lambda f: (f / "model.safetensors").write_bytes(
            (f / "model.safetensors").read_bytes()[:-1]
        ),
        "model.safetensors",
    ),
    "weights of other sizes": (swap_weights, "lstm.weight_ih_l0"),
    "absurdly many layers": (lambda f: edit_config(f, num_layers=1025), "num_layers"),
    "a weight of NaN": (
        lambda f: edit_weights(f, "lstm.weight_hh_l0", torch.nan),
        "model.safetensors: lstm.weight_hh_l0 holds",
    ),
    "an infinite weight": (
        lambda f: edit_weights(f, "head.bias", torch.inf),
        "model.safetensors: head.bias holds",
    ),
    "more layers than weights": (lambda f: edit_config(f, num_layers=3), "weight_ih_l2"),
    "fewer layers than weights": (lambda f: edit_config(f, num_layers=1), "_l1"),
}


def broken_model(case: str, folder: Path) -> str:
    """Makes the case's folder; returns what must be named. Its config is of the first format."""
    fields: dict[str, Any] = {"head": {"num_classes": 3}, "labels": ["r", "g", "b"]}
    write_model(folder, **fields)
    (folder / "config.json").write_text(plain_config(**fields).model_dump_json())
    load_model(folder)
    damage, named = BROKEN[case]
    damage(folder)
    return named


TAGGER: dict[str, Any] = {
    "format": 2,
    "inputs": {"tokens": {"ids": 9}, "features": {"width": 3}},
    "layers": [
        {"name": "embedding", "type": "embedding", "inputs": ["tokens"], "width": 4},
        {"name": "joined", "type": "concat", "inputs": ["embedding", "features"]},
        {"name": "lstm", "type": "lstm", "hidden_size": 5},
        {"name": "scores", "type": "linear", "width": 2},
    ],
    "outputs": {"logits": "scores"},
}


def edit_layer(number: int, **fields: object) -> dict[str, Any]:
    """The tagger's layers with other fields in one of them."""
    layers = [layer | (fields if n == number else {}) for n, layer in enumerate(TAGGER["layers"])]
    return {"layers": layers}


# What is other in a good config, and what the line must say of it.
BROKEN_GRAPHS: dict[str, tuple[dict[str, Any], str]] = {
    "no such format": ({"format": 3}, "format: "),
    "no such type": (
        edit_layer(3, type="linaer"),
        "layers.3: there is no type 'linaer'; did you mean 'linear'?",
    ),
    "a field misspelt": (edit_layer(3, widht=2), "layers.3.linear.widht: "),
    "no such field": (edit_layer(3, hidden_size=2), "layers.3.linear.hidden_size: "),
    "reads nothing that is": (
        edit_layer(3, inputs=["lstm.heads"]),
        "layers.scores: reads 'lstm.heads', which nothing before it gives",
    ),
    "reads what comes later": (edit_layer(1, inputs=["lstm", "features"]), "layers.joined: reads"),
    "reads too much": (edit_layer(3, inputs=["lstm", "joined"]), "layers.scores: must read 1"),
    "reads floats as ids": (edit_layer(0, inputs=["features"]), "layers.embedding: reads ids"),
    "two of a name": (edit_layer(3, name="lstm"), "layers: two are named 'lstm'"),
    "named as an input": (edit_layer(1, name="tokens"), "layers: two are named 'tokens'"),
    "a name with a dot": (edit_layer(3, name="a.b"), "layers.3.linear.name: "),
    "no LSTM": ({"layers": TAGGER["layers"][:2], "outputs": {"x": "joined"}}, "layers: must have"),
    "no such output": ({"outputs": {"logits": "score"}}, "outputs.logits: no layer gives 'score'"),
    "an output of another form": ({"outputs": {"labels": "scores"}}, "outputs.labels: 'scores'"),
    "an output of the state's name": ({"outputs": {"hidden": "lstm.hidden"}}, "outputs.hidden: "),
    "a label short": ({"labels": {"logits": ["O"]}}, "labels.logits: expected one for each of 2"),
    "labels of nothing": ({"labels": {"tags": ["O", "B"]}}, "labels.tags: there is no such output"),
    "an input of both kinds": ({"inputs": {"x": {"ids": 3, "width": 3}}}, "inputs.x: must have"),
    "a padding id too large": (
        {"inputs": {"x": {"ids": 3, "padding_id": 3}}},
        "inputs.x: padding_id",
    ),
}


def test_a_config_of_layers(tmp_path: Path) -> None:
    """The config that `BROKEN_GRAPHS` breaks is a good one."""
    save_model(SequenceEncoder(ModelConfig.model_validate(TAGGER)), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(TAGGER | {"$schema": "config.schema.json"}))
    expected = ModelConfig.model_validate(TAGGER)
    assert load_model(tmp_path).config.model_dump() == expected.model_dump()


@pytest.mark.parametrize("case", BROKEN_GRAPHS)
def test_a_broken_config_of_layers(case: str, tmp_path: Path) -> None:
    """A config with a fault is a `ModelError` of one line that names the field."""
    fault, said = BROKEN_GRAPHS[case]
    save_model(SequenceEncoder(ModelConfig.model_validate(TAGGER)), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(TAGGER | fault))
    with pytest.raises(ModelError) as caught:
        load_model(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'}: {said}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", BROKEN)
def test_broken_folder(case: str, tmp_path: Path) -> None:
    """A broken model folder is a `ModelError` of one line that names the folder and the fault."""
    folder = tmp_path / "model"
    named = broken_model(case, folder)
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    said = str(caught.value)
    assert said.startswith(str(folder))
    assert named in said.removeprefix(str(folder))
    assert "\n" not in said
    assert "torch.save" not in said


@pytest.mark.parametrize("case", ["unknown key", "no weights", "weights of other sizes"])
def test_serve_broken_folder(case: str, tmp_path: Path, failing: Failing) -> None:
    """`serve` refuses a broken model folder in one line, and ends."""
    folder = tmp_path / "model"
    named = broken_model(case, folder)
    assert named in failing("serve", "--model", f"m={folder}", "--port", 0, "--metrics-port", 0)


def test_serve_missing_folder(tmp_path: Path, failing: Failing) -> None:
    """`serve` names a model folder that is not there."""
    folder = tmp_path / "none"
    assert str(folder) in failing(
        "serve", "--model", f"m={folder}", "--port", 0, "--metrics-port", 0
    )
