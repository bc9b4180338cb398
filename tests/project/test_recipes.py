"""docs/recipes.md and docs/graph.md: each config loads, and computes what the `forward` above it
does."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from safetensors.torch import load_file
from torch import Tensor, nn

from bilstm_server.model import load_model, save_model
from bilstm_server.model.config import ModelConfig
from bilstm_server.model.graph import SequenceEncoder
from bilstm_server.model.kernels import MOST_TAGS, RaggedBatch
from tests.model.storage.from_keras.files import run
from tests.model.storage.from_keras.layers import draw, lstm

from .pages import ROOT, blocks_in
from .recipes import module_of

PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
GRAPH = (ROOT / "docs" / "graph.md").read_text(encoding="utf-8")
LENGTHS = (9, 1, 6)


def sections() -> dict[str, str]:
    """The page's text, by its titles."""
    found = re.split(r"^## (.*)$", PAGE, flags=re.MULTILINE)[1:]
    return dict(zip(found[::2], found[1::2], strict=True))


RECIPES = [title for title, text in sections().items() if blocks_in(text, "json")]


def drawn(config: ModelConfig) -> dict[str, Tensor]:
    """Numbers for the parameters, as large as training would leave."""
    torch.manual_seed(0)
    state = SequenceEncoder(config).state_dict()
    return {
        name: torch.rand_like(tensor) + 0.5
        if name.endswith("running_var")
        else torch.randn_like(tensor) / max(1, tensor[0].numel()) ** 0.5
        for name, tensor in state.items()
    }


def inputs_of(config: ModelConfig) -> list[list[Tensor]]:
    """Sequences for each input."""
    return [
        [
            torch.randint(given.ids, (steps,))
            if given.ids
            else torch.randn(steps, given.width or 0)
            for steps in LENGTHS
        ]
        for given in config.inputs.values()
    ]


@torch.inference_mode()
def computed(
    folder: Path, sequences: Sequence[Sequence[Tensor]]
) -> tuple[ModelConfig, list[Mapping[str, Tensor]]]:
    """The outputs of each sequence, of one batch of all."""
    encoder = load_model(folder)
    config = encoder.config
    together = encoder(
        [torch.cat(list(x)) for x in sequences], RaggedBatch(LENGTHS), None, tuple(config.outputs)
    )
    results: list[dict[str, Tensor]] = [{} for _ in LENGTHS]
    for name, value in config.output_values.items():
        rows = value.grid.rows(np.array(LENGTHS)).tolist() if value.per_step else [1] * len(LENGTHS)
        for own, part in zip(results, together[name].split(rows), strict=True):
            own[name] = part[part >= 0] if value.sparse else part
    return config, list(results)


def write(config: ModelConfig, folder: Path) -> dict[str, Tensor]:
    tensors = drawn(config)
    encoder = SequenceEncoder(config)
    encoder.load_state_dict(tensors)
    save_model(encoder, folder)
    return tensors


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")
@pytest.mark.parametrize("title", RECIPES)
def test_recipe(title: str, tmp_path: Path) -> None:
    """A recipe's config gives what its `forward` gives for each sequence alone."""
    (forward,), text = (
        blocks_in(sections()[title], "python"),
        blocks_in(sections()[title], "json")[0],
    )
    config = ModelConfig.model_validate_json(text)
    tensors = write(config, tmp_path)
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    sequences = inputs_of(config)
    module = module_of(config, forward)
    module.load_state_dict(tensors, strict=False)
    config, results = computed(tmp_path, sequences)
    for own, *inputs in zip(results, *sequences, strict=True):
        with torch.no_grad():
            expected = module(*(x[None] for x in inputs))
        for given, wanted in zip(main_outputs(own), as_tuple(expected), strict=True):
            torch.testing.assert_close(given, wanted[0].view(given.shape), rtol=1e-5, atol=1e-5)
        check_labels(own)


def main_outputs(own: Mapping[str, Tensor]) -> list[Tensor]:
    """What the recipe's `forward` returns, of all outputs."""
    if "score" in own:
        return [own["labels"]]
    if "events" in own:
        return [own["probabilities"], own["events"]]
    names = ("logits", "log_probabilities", "embedding")
    return [own[name] for name in names if name in own]


def as_tuple(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def check_labels(own: Mapping[str, Tensor]) -> None:
    """Labels and probabilities are those of the scores."""
    if "labels" in own and "log_probabilities" in own:
        best = groupby(own["log_probabilities"].argmax(1).tolist())
        assert own["labels"].tolist() == [label for label, _ in best if label != 0]
    elif "labels" in own and "score" not in own:
        assert torch.equal(own["labels"], own["logits"].argmax(1))
        if "probabilities" in own:
            torch.testing.assert_close(own["probabilities"], own["logits"].softmax(1))


def test_attention(tmp_path: Path) -> None:
    """The recipe with attention weights the steps by a softmax."""
    config = ModelConfig.model_validate_json(blocks_in(sections()["Classifier"], "json")[1])
    tensors = write(config, tmp_path)
    forward = """
def forward(self, tokens):
    output, _ = self.lstm(self.embedding(tokens))
    weights = self.score(torch.tanh(self.hidden(output))).softmax(1)
    return self.fc((output * weights).sum(1)), weights
"""
    module = module_of(config, forward)
    module.load_state_dict(tensors)
    sequences = inputs_of(config)
    _, results = computed(tmp_path, sequences)
    for own, tokens in zip(results, sequences[0], strict=True):
        with torch.no_grad():
            logits, weights = module(tokens[None])
        torch.testing.assert_close(own["logits"], logits, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(own["attention"], weights[0], rtol=1e-5, atol=1e-5)


def test_the_example_of_all(tmp_path: Path) -> None:
    """The config of docs/graph.md has the parameters that the page says."""
    (text,) = blocks_in(GRAPH, "json")
    tensors = write(ModelConfig.model_validate_json(text), tmp_path)
    for name, shape in re.findall(r"`(\w+\.\w+)` is\s+`(\[[0-9, ]+\])`", GRAPH):
        assert list(tensors[name].shape) == json.loads(shape)
    assert load_model(tmp_path).config.inputs["tokens"].padding_id == 0


def test_limits() -> None:
    """The limits of docs/graph.md are the config's."""
    rows = dict(re.findall(r"^\| (\w+)[^|]* \| ([0-9]+)[^|]*\|$", GRAPH, re.MULTILINE))
    schema = ModelConfig.model_json_schema()
    fields = schema["properties"]
    assert rows["inputs"] == str(fields["inputs"]["maxProperties"])
    assert rows["outputs"] == str(fields["outputs"]["maxProperties"])
    assert rows["tags"] == str(MOST_TAGS)
    assert f"| layers | {fields['layers']['maxItems']}, one `lstm` at least |" in GRAPH
    most = schema["$defs"]["LstmConfig"]["properties"]["num_layers"]["maximum"]
    assert f"| layers of all `lstm` together | {most} |" in GRAPH


def test_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint with other names becomes the classifier's weights."""
    monkeypatch.chdir(tmp_path)
    section = sections()["Classifier"]
    config = ModelConfig.model_validate_json(blocks_in(section, "json")[0])
    folder = Path("models/classifier")
    tensors = write(config, folder)
    (folder / "model.safetensors").unlink()
    names = {"embedding": "emb", "lstm": "rnn", "fc": "classifier.0"}
    saved = {}
    for name, tensor in tensors.items():
        layer, _, parameter = name.partition(".")
        saved[f"{names[layer]}.{parameter}"] = tensor
    torch.save(saved, "classifier.pt")
    exec(blocks_in(sections()["The weights"], "python")[0], {})
    written = load_file(folder / "model.safetensors")
    assert written.keys() == tensors.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in tensors.items())
    load_model(folder)


def states_of(arrays: Mapping[str, Any], x: Any, hidden: int) -> Any:
    """The outputs of an nn.LSTM with these parameters."""
    module = nn.LSTM(x.shape[1], hidden, batch_first=True)
    module.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
    with torch.no_grad():
        return module(torch.tensor(x)[None])[0][0].numpy()


def test_weights_of_others() -> None:
    """Arrays of Keras and ONNX, turned as the page says, give what these give."""
    names: dict[str, Any] = {}
    exec(blocks_in(sections()["Weights of Keras and ONNX"], "python")[0], names)
    layer = lstm(3, 4, return_sequences=True)
    x = draw(6, 3)
    given = states_of(names["of_keras"](*layer.variables), x, 4)
    np.testing.assert_allclose(given, run([layer], x), atol=1e-5)
    w, r, b = draw(1, 16, 3), draw(1, 16, 4), draw(1, 32)
    given = states_of(names["of_onnx"](w[0], r[0], b[0]), x, 4)
    np.testing.assert_allclose(given, onnx_states(x, w, r, b), atol=1e-5)


def onnx_states(x: Any, w: Any, r: Any, b: Any) -> Any:
    """The outputs of ONNX's LSTM, computed by onnx itself."""
    node = onnx.helper.make_node("LSTM", ["x", "w", "r", "b"], ["y"], hidden_size=r.shape[2])
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "lstm",
        [info(name, onnx.TensorProto.FLOAT, None) for name in "xwrb"],
        [info("y", onnx.TensorProto.FLOAT, None)],
    )
    feeds = {"x": x[:, None], "w": w, "r": r, "b": b}
    model = onnx.helper.make_model(graph)
    return ReferenceEvaluator(model).run(None, feeds)[0][:, 0, 0]
