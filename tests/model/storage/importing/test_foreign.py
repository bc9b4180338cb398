"""Files of other frameworks are imported by the same command, with their layers or without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bilstm_server.cli import main as cli
from bilstm_server.errors import ModelError
from bilstm_server.model import RaggedBatch, import_checkpoint, load_model
from tests.model.storage.from_keras.files import write_numbered
from tests.model.storage.from_keras.layers import bidirectional, dense, embedding, layer_norm
from tests.model.storage.from_onnx.reading import export


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(20, 6)
        self.lstm = nn.LSTM(6, 5, bidirectional=True, batch_first=True)
        self.fc = nn.Linear(10, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.fc(self.lstm(self.embedding(ids))[0])  # type: ignore[no-any-return]


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    axes = {"ids": {0: "batch", 1: "steps"}, "logits": {0: "batch", 1: "steps"}}
    example = torch.zeros(1, 3, dtype=torch.long)
    names = {"input_names": ["ids"], "output_names": ["logits"]}
    return export(Tagger(), example, tmp_path / "tagger.onnx", dynamic_axes=axes, **names)


def test_onnx(onnx_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An ONNX model is imported with its layers; its classes may be named."""
    command = ["import", str(onnx_file), "--out", str(tmp_path / "out"), "--model-version", "3"]
    assert cli.main([*command, "--labels", "a,b,c,d"]) == 0
    said = capsys.readouterr().out
    assert "lstm" in said
    assert "not proven" not in said
    encoder = load_model(tmp_path / "out")
    assert encoder.config.version == 3
    assert encoder.config.labels == {"logits": tuple("abcd"), "labels": tuple("abcd")}
    ids = torch.arange(7)
    with torch.no_grad():
        expected = Tagger().eval()(ids[None])[0]
        given = encoder([ids], RaggedBatch(np.array([7])), outputs=["logits", "labels"])
    torch.testing.assert_close(given["logits"], expected, rtol=0, atol=1e-5)
    assert given["labels"].tolist() == expected.argmax(1).tolist()


def test_onnx_needs_no_words(onnx_file: Path, tmp_path: Path) -> None:
    """What the file itself says is not said by flags, too."""
    for said in ({"pooling": "last"}, {"chain": "lstm"}, {"head": False}):
        with pytest.raises(ModelError, match="says itself how its layers compute"):
            import_checkpoint(onnx_file, tmp_path / "out", **said)
    with pytest.raises(ModelError, match="--key is for files of torch"):
        import_checkpoint(onnx_file, tmp_path / "out", key="model")
    with pytest.raises(ModelError, match=r"labels\.logits: expected one for each of 4 classes"):
        import_checkpoint(onnx_file, tmp_path / "out", labels=["a"])


def test_weights_of_keras(tmp_path: Path) -> None:
    """Of Keras's weights alone the chain is found, and asked for, as of torch's; norms have the eps
    of Keras."""
    layers = [
        embedding(20, 3),
        bidirectional(3, 4, return_sequences=True),
        layer_norm(8),
        dense(8, 5),
    ]
    path = write_numbered(tmp_path / "model.weights.h5", layers)
    with pytest.raises(
        ModelError, match=r"no tensor tells what the head .* reads; say it with --p"
    ):
        import_checkpoint(path, tmp_path / "out")
    config = import_checkpoint(path, tmp_path / "out", per_step=True)
    dumped = [layer.model_dump() for layer in config.needed(["logits"])]
    assert [layer["type"] for layer in dumped] == ["embedding", "lstm", "layer_norm", "linear"]
    assert dumped[2]["eps"] == 1e-3
