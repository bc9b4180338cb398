"""What the registry says of a model."""

from __future__ import annotations

import pytest

from bilstm_server.metrics import Metrics
from bilstm_server.model import PlainConfig
from bilstm_server.serving.registry import ServedModel


@pytest.mark.parametrize(
    ("layers", "words"),
    [(1, "3 inputs, 1 layer of 64, bidirectional"), (2, "3 inputs, 2 layers of 64, bidirectional")],
)
def test_one_layer_is_no_layers(layers: int, words: str) -> None:
    """A model's sizes are in words, one layer as one."""
    config = PlainConfig(input_size=3, hidden_size=64, num_layers=layers).graph()
    model = ServedModel("m", config, None, Metrics().model("m"), 4)  # type: ignore[arg-type]
    assert model.summary.sizes == words
