"""A file that holds no state_dict is refused in one line that says what it is instead, runs no
code, and writes nothing.
"""

from __future__ import annotations

import pickle
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from bilstm_server.errors import ModelError
from bilstm_server.model import (
    import_checkpoint,
    load_model,
)
from tests.model.storage.files import saved
from tests.model.storage.importing.checkpoints import Failing, classifier, good_pt

# -- files that are no checkpoint: one line, exit code 1 -----------------------------------------


class Bomb:
    """Unpickling it makes a file: what a hostile checkpoint would do."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.marker), "w")


def good_safetensors() -> bytes:
    return safetensors.torch.save(classifier().state_dict())


def noise(size: int) -> bytes:
    return np.random.default_rng(0).bytes(size)


UNREADABLE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "empty .pt": ("model.pt", lambda: b""),
    "empty .safetensors": ("model.safetensors", lambda: b""),
    "truncated .pt": ("model.pt", lambda: good_pt()[:-100]),
    "half a .pt": ("model.pt", lambda: good_pt()[: len(good_pt()) // 2]),
    "truncated .safetensors": ("model.safetensors", lambda: good_safetensors()[:-1]),
    "header of .safetensors only": ("model.safetensors", lambda: good_safetensors()[:20]),
    "noise .pt": ("model.pt", lambda: noise(4000)),
    "noise .safetensors": ("model.safetensors", lambda: noise(4000)),
    "noise without a suffix": ("model", lambda: noise(4000)),
    "text": ("model.pt", lambda: b"version https://git-lfs.github.com/spec/v1\n"),
    "pickled module": ("model.pt", lambda: saved(nn.LSTM(3, 4))),
    "pickled classifier": ("model.pt", lambda: saved(classifier())),
    "a list": ("model.pt", lambda: saved([torch.ones(2)])),
    "a tensor": ("model.pt", lambda: saved(torch.ones(2))),
    "nested": ("model.pt", lambda: saved({"model": {"fc.weight": torch.ones(2, 2)}, "epoch": 3})),
    "names are numbers": ("model.pt", lambda: saved({1: torch.ones(2)})),
    "nothing in it": ("model.pt", lambda: saved({})),
    "a pickle": ("model.pt", lambda: pickle.dumps({"lstm.weight_ih_l0": [1.0]})),
    "safetensors as .pt": ("model.pt", good_safetensors),
    ".pt as safetensors": ("model.safetensors", good_pt),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_unreadable_file(case: str, tmp_path: Path, failing: Failing) -> None:
    """A file that holds no state_dict is refused in one line that names it, and writes nothing."""
    name, content = UNREADABLE[case]
    path = tmp_path / name
    path.write_bytes(content())
    assert str(path) in failing("import", path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


NEAR = {  # what is said where it is clear what to do
    "text": "is no .pt file",
    "safetensors as .pt": "is no .pt file",
    "noise without a suffix": "is no .pt file",
    "nested": "holds no LSTM in any of its dictionaries of tensors (model); save with torch.save",
    "a list": "holds a list instead of a state_dict",
}


@pytest.mark.parametrize("case", NEAR)
def test_what_to_do(case: str, tmp_path: Path, failing: Failing) -> None:
    """What a file holds instead of a state_dict is said, and how to make one."""
    name, content = UNREADABLE[case]
    path = tmp_path / name
    path.write_bytes(content())
    assert NEAR[case] in failing("import", path, "--out", tmp_path / "out")


def test_missing_file(tmp_path: Path, failing: Failing) -> None:
    """A checkpoint that is not there is named."""
    said = failing("import", tmp_path / "none.pt", "--out", tmp_path / "out")
    assert said == f"{tmp_path / 'none.pt'}: no such file"


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("suffix", [".pt", ".bin", ".safetensors"])
def test_nothing_is_executed(suffix: str, legacy: bool, tmp_path: Path, failing: Failing) -> None:
    """A pickle that would run code on loading is refused, and runs none."""
    marker = tmp_path / "executed"
    path = tmp_path / f"model{suffix}"
    bomb = classifier().state_dict() | {"x": Bomb(marker)}
    torch.save(bomb, path, _use_new_zipfile_serialization=not legacy)
    failing("import", path, "--out", tmp_path / "out")
    path.write_bytes(pickle.dumps(bomb))
    failing("import", path, "--out", tmp_path / "out")
    assert not marker.exists()


# -- any damage ----------------------------------------------------------------------------------


def small_checkpoint(suffix: str) -> bytes:
    torch.manual_seed(0)
    weights = OrderedDict((f"lstm.{k}", t) for k, t in nn.LSTM(1, 1).state_dict().items())
    return saved(weights) if suffix == ".pt" else safetensors.torch.save(dict(weights))


SMALL = {suffix: small_checkpoint(suffix) for suffix in (".pt", ".safetensors")}


@pytest.mark.parametrize("suffix", SMALL)
@example(position=0, flip=0, truncate=True)
@given(
    position=st.integers(0, max(map(len, SMALL.values())) - 1),
    flip=st.integers(1, 255),
    truncate=st.booleans(),
)
@hypothesis_settings(max_examples=250, deadline=None, derandomize=True)
def test_any_damage(suffix: str, position: int, flip: int, truncate: bool) -> None:
    """A checkpoint with one byte changed, or its end cut off, is imported or refused, whatever
    the byte."""
    content = SMALL[suffix]
    position %= len(content)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{suffix}"
        damaged = content[:position]
        if not truncate:
            damaged += bytes([content[position] ^ flip]) + content[position + 1 :]
        path.write_bytes(damaged)
        with suppress(ModelError):
            import_checkpoint(path, Path(folder) / "out")
            load_model(Path(folder) / "out")
