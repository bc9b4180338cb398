"""`bilstm-server import` takes files of Keras and ONNX, which say what their layers read."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bilstm_server.cli import main as cli
from bilstm_server.errors import ModelError
from bilstm_server.model import import_checkpoint, load_model
from tests.model.storage.from_keras import reading as keras
from tests.model.storage.from_keras.files import (
    run,
    sequential,
    write_keras,
    write_named,
)
from tests.model.storage.from_keras.layers import (
    bidirectional,
    dense,
    draw,
    embedding,
    lstm,
)
from tests.model.storage.from_onnx import reading as onnx
from tests.model.storage.importing.checkpoints import Failing


def test_a_model_of_keras(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A `.keras` file becomes a folder with the owner's labels, and its chain is shown."""
    layers = [embedding(20, 5, mask_zero=True), bidirectional(5, 4), dense(8, 3, "softmax")]
    path = write_keras(tmp_path / "model.keras", sequential(layers, [None, 30]), layers)
    out = tmp_path / "out"
    assert cli.main(["import", str(path), "--out", str(out), "--labels", "a,b,c"]) == 0
    said = capsys.readouterr().out
    assert "input sequence has 30 steps in the file" in said
    for word in ("embedding", "lstm", "final", "softmax", "not proven: --expect"):
        assert word in said
    encoder = load_model(out)
    assert encoder.config.inputs["sequence"].padding_id == 0
    assert dict(encoder.config.labels) == dict.fromkeys(
        ("logits", "probabilities", "labels"), ("a", "b", "c")
    )
    ids = np.array([3, 1, 2, 19])
    keras.close(keras.encode(encoder, ids)["probabilities"], run(layers, ids))


def test_a_model_of_onnx(tmp_path: Path) -> None:
    """An `.onnx` file becomes a folder that gives its numbers."""
    module = nn.LSTM(3, 4, batch_first=True, bidirectional=True).eval()
    path = onnx.export(
        module,
        (torch.randn(1, 5, 3),),
        tmp_path / "model.onnx",
        input_names=["x"],
        output_names=["y", "h", "c"],
        dynamic_axes={"x": {0: "batch", 1: "steps"}},
    )
    config = import_checkpoint(path, tmp_path / "out", version=3)
    assert config.version == 3
    x = torch.randn(8, 3)
    with torch.no_grad():
        y, (h, _) = module(x[None])
    outputs = onnx.encode(load_model(tmp_path / "out"), x)
    onnx.close(outputs["y"], y[0])
    onnx.close(outputs["h"], h.flatten())


def test_weights_alone_go_the_way_of_checkpoints(tmp_path: Path) -> None:
    """Weights of Keras without a config are chained by names and shapes, and what they do not tell
    is asked for."""
    layers = [embedding(20, 5), lstm(5, 4), dense(4, 3)]
    path = write_named(tmp_path / "weights.h5", None, layers)
    with pytest.raises(ModelError, match="--pooling"):
        import_checkpoint(path, tmp_path / "out")
    import_checkpoint(path, tmp_path / "out", pooling="last")
    ids = np.array([3, 1, 0, 19])
    outputs = keras.encode(load_model(tmp_path / "out"), ids)
    keras.close(outputs["logits"], run(layers, ids))


def test_flags_for_what_the_file_says(tmp_path: Path, failing: Failing) -> None:
    """Flags that say what layers read are refused where the file says it."""
    layers = [lstm(3, 4), dense(4, 2)]
    path = write_keras(tmp_path / "model.keras", sequential(layers, [None, None, 3]), layers)
    said = failing("import", path, "--out", tmp_path / "out", "--pooling", "mean")
    assert "says itself what its layers read; leave out the flags for that" in said
    assert "--key is for files of torch.save" in failing(
        "import", path, "--out", tmp_path / "out", "--key", "model"
    )
    assert "expected one for each of 2 classes" in failing(
        "import", path, "--out", tmp_path / "out", "--labels", "a,b,c"
    )


@pytest.mark.parametrize(
    ("name", "package", "extra"), [("m.keras", "h5py", "keras"), ("m.onnx", "onnx", "onnx")]
)
def test_without_the_library(
    name: str, package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the library for such files is not installed, the error says what to install."""
    folder = "bilstm_server.model.storage.from_"
    for module in [own for own in sys.modules if own.startswith(folder)]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / name).write_bytes(draw(2, 2).tobytes())
    with pytest.raises(ModelError) as refused:
        import_checkpoint(tmp_path / name, tmp_path / "out")
    assert f"reading it needs {package}: pip install 'bilstm[{extra}]'" in str(refused.value)
