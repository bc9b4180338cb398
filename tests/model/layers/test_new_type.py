"""A layer type is added by adding one file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import bilstm_server
from bilstm_client import Client
from bilstm_server.testing import server_process

TYPE = Path(__file__).parent / "doubling.py"


def write_model(folder: Path) -> None:
    lstm = nn.LSTM(3, 4, bidirectional=True)
    tensors = {f"lstm.{name}": tensor for name, tensor in lstm.state_dict().items()}
    config = {
        "format": 2,
        "inputs": {"features": {"width": 3}},
        "layers": [
            {"name": "doubled", "type": "doubling", "factor": 4.0},
            {"name": "lstm", "type": "lstm", "hidden_size": 4},
        ],
        "outputs": {"states": "lstm", "doubled": "doubled"},
    }
    folder.mkdir()
    save_file(tensors | {"doubled.weight": torch.tensor([0.5])}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def test_one_file_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose package has one more file serves a model with the type that it has."""
    package = tmp_path / "house" / "bilstm_server"
    unwanted = shutil.ignore_patterns("__pycache__", "models")
    shutil.copytree(Path(bilstm_server.__file__).parent, package, ignore=unwanted)
    shutil.copy(TYPE, package / "model" / "layers")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    write_model(tmp_path / "model")
    x = np.arange(15, dtype=np.float32).reshape(5, 3)
    with (
        server_process("--model", f"toy={tmp_path / 'model'}") as server,
        Client(server.target) as client,
    ):
        encoding = client.encode(x, outputs="doubled")
    np.testing.assert_array_equal(encoding["doubled"], 2 * x)
