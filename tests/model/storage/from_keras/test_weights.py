"""Files of weights alone: each layer's tensors as its module in torch has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bilstm_server.model.storage.from_keras import read_keras
from tests.model.storage.from_keras.files import Layer, run, write_named, write_numbered
from tests.model.storage.from_keras.layers import (
    batch_norm,
    bidirectional,
    conv,
    dense,
    draw,
    embedding,
    layer_norm,
    lstm,
    plain,
    time_distributed,
)
from tests.model.storage.from_keras.reading import close, refusal


def named(path: Path, layers: Sequence[Layer]) -> Path:
    return write_named(path, None, layers)


@pytest.mark.parametrize("write", [write_numbered, named])
def test_modules_of_torch_take_them(write: Callable[..., Path], tmp_path: Path) -> None:
    """torch's modules load the tensors of each layer, and give the layer's numbers."""
    layers = [
        embedding(20, 3),
        conv(3, 3, 3, "valid", 1, 1),
        bidirectional(3, 4, return_sequences=True),
        plain("Dropout", rate=0.5),
        lstm(8, 5, return_sequences=True),
        time_distributed(dense(5, 2)),
    ]
    model = read_keras(write(tmp_path / "model.weights.h5", layers))
    assert model.config is None
    modules: list[nn.Module] = [
        nn.Embedding(20, 3),
        nn.Conv1d(3, 3, 3),
        nn.LSTM(3, 4, bidirectional=True, batch_first=True),
        nn.LSTM(8, 5, batch_first=True),
        nn.Linear(5, 2),
    ]
    with_weights = [layer for layer in layers if layer.variables]
    for layer, module in zip(with_weights, modules, strict=True):
        word = layer.kind if write is write_numbered else layer.name
        prefix = next(key.split(".")[0] for key in model.tensors if alike(key, word))
        own = {
            key.removeprefix(f"{prefix}."): tensor
            for key, tensor in model.tensors.items()
            if key.startswith(f"{prefix}.")
        }
        module.load_state_dict(own)
    ids = torch.arange(9)
    x = modules[0](ids[None])
    x = modules[1](x.transpose(1, 2)).relu().transpose(1, 2)
    x = modules[3](modules[2](x)[0])[0]
    close(modules[4](x)[0].detach().numpy(), run(layers, np.arange(9)))


def alike(key: str, word: str) -> bool:
    return key.split(".")[0].replace("_", "").lower() == word.replace("_", "").lower()


def test_other_recurrent_layers(tmp_path: Path) -> None:
    """A GRU's weights, three gates under an LSTM's names, are refused."""
    layer = lstm(3, 4)
    layer.variables = [draw(3, 12), draw(4, 12), draw(2, 12)]
    words = "is a recurrent layer, but no LSTM"
    assert words in refusal(named(tmp_path / "weights.h5", [layer]))


def test_layers_without_a_name(tmp_path: Path) -> None:
    """A layer whose class nothing is known of is refused with its place in the file."""
    layer = Layer("Unknown", {"name": "unknown"}, [draw(2, 2)])
    said = refusal(write_numbered(tmp_path / "model.weights.h5", [layer]))
    assert said.startswith("layers/unknown/vars: is of a kind that is not served (unknown)")


@pytest.mark.parametrize("write", [write_numbered, named])
@pytest.mark.parametrize("make", [batch_norm, layer_norm])
def test_norms_without_their_eps(
    make: Callable[[int], Layer], write: Callable[..., Path], tmp_path: Path
) -> None:
    """A norm, whose eps is in the config alone, is refused: it would be taken for torch's own."""
    said = refusal(write(tmp_path / "model.weights.h5", [lstm(3, 4), make(4)]))
    assert "is of a norm, whose eps no weights tell" in said
