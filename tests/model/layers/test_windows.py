"""Windows of a large batch are computed some at a time."""

from __future__ import annotations

import pytest
import torch

from bilstm_server.model import ModelConfig, RaggedBatch
from bilstm_server.model.layers import windows
from tests.model.incremental.encoders import frozen

pytestmark = pytest.mark.usefixtures("one_thread")
LAYERS = (
    {"name": "lstm", "type": "lstm", "hidden_size": 2},
    {"name": "conv", "type": "conv1d", "inputs": ["x"], "width": 4, "kernel": 5, "padding": "same"},
    {"name": "mean", "type": "avg_pool1d", "kernel": 3, "padding": 1, "count_include_pad": False},
)


@pytest.mark.parametrize("numbers", [1, 100])
def test_some_at_a_time(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are at a time, the numbers are the same."""
    config = ModelConfig.model_validate(
        {"inputs": {"x": {"width": 3}}, "layers": LAYERS, "outputs": {"y": "mean"}}
    )
    encoder = frozen(config, "reference")
    x, batch = torch.randn(40, 3), RaggedBatch([7, 1, 32])
    with torch.inference_mode():
        together = encoder(x, batch, outputs=["y"])["y"]
        monkeypatch.setattr(windows, "_MOST_NUMBERS", numbers)
        apart = encoder(x, batch, outputs=["y"])["y"]
    torch.testing.assert_close(apart, together, atol=1e-6, rtol=0)
