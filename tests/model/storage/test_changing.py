"""Files that change: served models do not notice, and what is read while it changes is refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bilstm_client import Client
from bilstm_server.errors import ModelError
from bilstm_server.model import import_checkpoint, load_model
from bilstm_server.model.storage import folder as model_folders
from bilstm_server.model.storage.weights import read_tensors
from bilstm_server.testing import server_process
from tests.model.storage.files import lstm_tensors, saved
from tests.support.servers import write_model

# -- a served model is the server's own ----------------------------------------------------------


def overwrite(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)  # the same inode, as `cp` does


def truncate(path: Path, other: Path) -> None:
    os.truncate(path, 10)


def zero(path: Path, other: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def delete(path: Path, other: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("dtype", "kernel"),
    [
        ("float32", "auto"),
        pytest.param("bfloat16", "auto", marks=pytest.mark.slow),
        pytest.param("float32", "reference", marks=pytest.mark.slow),
        pytest.param("bfloat16", "reference", marks=pytest.mark.slow),
    ],
)
def test_files_of_a_served_model_change(dtype: str, kernel: str, tmp_path: Path) -> None:
    """Whatever happens to the files of a served model, its answers stay the same, bit by bit."""
    sizes: dict[str, Any] = {
        "embedding": {"num_embeddings": 5000},
        "input_size": 8,
        "head": {"num_classes": 3, "pooling": "last"},
    }
    folder = write_model(tmp_path / "served", **sizes)
    other = write_model(tmp_path / "other", seed=1, **sizes)
    ids = np.random.default_rng(0).integers(0, 5000, 300)
    flags = ("--model", f"m={folder}", "--dtype", dtype, "--kernel", kernel)
    with server_process(*flags) as server, Client(server.target) as client:

        def answer() -> list[bytes]:
            encoding = client.encode(ids, outputs=["states", "logits"])
            return [encoding.states.tobytes(), encoding.logits.tobytes()]

        before = answer()
        for change in (overwrite, zero, truncate, delete):
            for name in ("model.safetensors", "config.json"):
                change(folder / name, other / name)
            assert answer() == before, change.__name__


# -- files that change while they are read -------------------------------------------------------


def during(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    """The change happens between the reading of the config and of the weights."""

    def read(*arguments: Any) -> dict[str, Tensor]:
        change()
        return read_tensors(*arguments)

    monkeypatch.setattr(model_folders, "read_tensors", read)


def test_a_torn_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model written over between the reading of its config and of its weights is not loaded."""
    folder = write_model(tmp_path / "model", head={"num_classes": 3, "pooling": "last"})
    during(
        monkeypatch,
        lambda: write_model(folder, seed=1, head={"num_classes": 3, "pooling": "mean"}),
    )
    with pytest.raises(ModelError, match=r"config.json: was changed while it was read"):
        load_model(folder)
    monkeypatch.undo()
    assert load_model(folder).config.outputs["logits"] == "head"


@pytest.mark.parametrize("size", [100, 0])
def test_weights_cut_short_while_they_are_read(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that are truncated while they are read are an error in words, and no SIGBUS."""
    folder = write_model(tmp_path / "model")
    path = folder / "model.safetensors"
    original = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        status = original(descriptor)
        if os.path.samestat(status, path.stat()):
            os.truncate(path, size)
        return status

    monkeypatch.setattr(os, "fstat", fstat)
    with pytest.raises(ModelError, match=r"model.safetensors: was changed while it was read"):
        load_model(folder)


@pytest.mark.parametrize("legacy", [False, True])
def test_checkpoint_changes_while_it_is_read(
    legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that is cut short while it is read is refused, in both of torch's formats."""
    path = tmp_path / "model.pt"
    path.write_bytes(saved(lstm_tensors(), _use_new_zipfile_serialization=not legacy))
    original = torch.load

    def load(*arguments: Any, **options: Any) -> object:
        os.truncate(path, 700)
        return original(*arguments, **options)

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(ModelError, match="was changed while it was read"):
        import_checkpoint(path, tmp_path / "out")
