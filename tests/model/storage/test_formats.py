"""A file of another kind is told what it is, in one line that says what to do."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from bilstm_server.cli import main as cli
from tests.model.storage.files import archive, array, lstm_tensors, saved


class Own:
    """A class of a user's."""


def arrays() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(2))
    return buffer.getvalue()


def torch_script() -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(saved(lstm_tensors())), "a") as made:
        made.writestr("archive/constants.pkl", b"")
    return buffer.getvalue()


INSTEAD: dict[str, tuple[str, Callable[[], bytes], str]] = {
    ".npz": ("w.npz", arrays, "an archive of NumPy arrays (.npz)"),
    ".npy": ("w.npy", array, "a NumPy array"),
    ".keras": ("w.pt", lambda: archive("config.json", "model.weights.h5"), "name it .keras"),
    ".h5": ("w.pt", lambda: b"\x89HDF\r\n\x1a\n" + bytes(100), "name it .h5"),
    ".onnx": ("w.onnx", lambda: b"\x08\x07\x12\x07pytorch", "an ONNX model without nodes"),
    "TorchScript": ("w.pt", torch_script, "torch.jit.load('w.pt', map_location='cpu')"),
    "a pickle": ("w.pkl", lambda: pickle.dumps({"a": 1}), "a pickle that torch.save did not write"),
    "JSON": ("index.json", lambda: b'{"weight_map": {}}', "JSON"),
    "a pointer": ("w.pt", lambda: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "gzip": ("w.pt.gz", lambda: b"\x1f\x8b" + bytes(50), "compressed; unpack it first"),
    "safetensors": (
        "w.pt",
        lambda: safetensors.torch.save(lstm_tensors()),
        "a .safetensors file; rename it",
    ),
    ".pt": ("w.safetensors", lambda: saved(lstm_tensors()), "a .pt file; rename it"),
    "an archive of nothing": ("w.pt", lambda: archive("a/b"), "not a readable .pt file"),
    "a user's class": ("w.pt", lambda: saved({"x": Own()}), f"holds a {Own.__module__}.Own,"),
    "a module": ("w.pt", lambda: saved(nn.LSTM(2, 3)), "holds a torch.nn.modules.rnn.LSTM,"),
    "a path": ("w.pt", lambda: saved({"p": Path("x")}), "holds a pathlib.PosixPath,"),
    "two models": (
        "w.pt",
        lambda: saved({"net": lstm_tensors(), "ema": lstm_tensors()}),
        "holds several dictionaries with an LSTM: net, ema; take one with --key",
    ),
}


@pytest.mark.parametrize("case", INSTEAD)
def test_what_a_file_is_instead(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of another kind is told what it is, in one line with what to do."""
    name, content, words = INSTEAD[case]
    (tmp_path / name).write_bytes(content())
    assert cli.main(["import", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_names_that_would_move_the_cursor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names in a file are printed as one line that no terminal acts on, and not without end."""
    path = tmp_path / "model.pt"
    names = ("a\nb", "\x1b[2J", "\u202e", "x" * 10**6)
    path.write_bytes(saved(lstm_tensors() | {name: torch.ones(2) for name in names}))
    assert cli.main(["import", str(path), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "a\\nb, \\x1b[2J, \\u202e" in said
    assert said.count("\n") == 1
    assert said[:-1].isprintable()
    assert len(said) < 3000
