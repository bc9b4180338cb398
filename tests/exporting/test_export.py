"""`from bilstm_server import export`: what it prints, refuses, and leaves as it was."""

from __future__ import annotations

import gc
import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
import torch
from torch import Tensor, nn

from bilstm_server import export
from bilstm_server.errors import ModelError
from tests.support.waiting import HANGS_AFTER_SECONDS


class Tagger(nn.Module):
    """A tagger that also returns its states."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(6, 4, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, _ = self.lstm(x)
        return torch.log_softmax(self.fc(torch.tanh(y)), -1), y


def example() -> Tensor:
    return torch.randn(1, 9, 6)


def test_torch_is_not_imported() -> None:
    """The package offers export, and imports torch only when it is asked for it."""
    code = (
        "import sys, bilstm_server\n"
        "assert 'torch' not in sys.modules\n"
        "from bilstm_server import export\n"
        "assert 'torch' in sys.modules and callable(export)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The layers, the proof of each output in each way, and the line to serve it with."""
    proof = export(Tagger(), tmp_path / "tagger", example=example())
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["layer", "type", "reads", "gives"]
    assert said[1].split() == ["x", "input", "6", "floats", "for", "each", "step"]
    assert ["activation", "activation", "function=tanh", "lstm"] in [
        line.split()[:4] for line in said
    ]
    table = said[said.index("") + 1 :]
    assert table[0].split() == ["output", "alone", "together", "streamed"]
    assert [row.split()[0] for row in table[1:3]] == ["log_probabilities", "states"]
    assert table[3] == f"proven by {proof.words}"
    assert table[4] == (f"serve it with: bilstm-server serve --model tagger={tmp_path / 'tagger'}")
    assert len(table) == 5
    assert proof.holds
    assert proof.largest < 1e-5
    assert repr(proof) == f"<Proof by {proof.words}>"


def state_of_the_process() -> tuple[object, ...]:
    gc.collect()
    return (
        structlog.is_configured(),
        structlog.get_config(),
        list(logging.getLogger().handlers),
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.is_grad_enabled(),
    )


def sockets() -> set[str]:
    links = [file for file in Path("/proc/self/fd").iterdir() if file.is_symlink()]
    return {str(link.readlink()) for link in links if "socket" in str(link.readlink())}


def test_left_as_it_was(tmp_path: Path) -> None:
    """The module keeps its modes, weights and attributes, and the process its threads, sockets and
    settings; gRPC's own, which the first export begins, are there once."""
    module = Tagger().train()
    module.fc.eval()
    export(module, tmp_path / "first", example=example())
    torch.set_float32_matmul_precision("high")
    try:
        before, open_before = state_of_the_process(), sockets()
        threads = set(threading.enumerate())
        weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        export(module, tmp_path / "second", example=example())
        assert state_of_the_process() == before
        assert sockets() <= open_before
        for thread in set(threading.enumerate()) - threads:
            thread.join(HANGS_AFTER_SECONDS)
            assert not thread.is_alive()
    finally:
        torch.set_float32_matmul_precision("highest")
    assert module.training
    assert not module.fc.training
    assert all(torch.equal(weights[name], its) for name, its in module.state_dict().items())
    assert all(parameter.requires_grad for parameter in module.parameters())


async def test_within_a_running_loop(tmp_path: Path) -> None:
    """A notebook runs its cells within an event loop."""
    assert export(Tagger(), tmp_path, example=example()).holds


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_floats(dtype: torch.dtype, tmp_path: Path) -> None:
    """A module in other floats is served in float32, and is left in its own."""
    module = Tagger().to(dtype)
    assert export(module, tmp_path, example=example().to(dtype)).holds
    assert module.fc.weight.dtype == dtype


class OwnModule(nn.Module):
    """An owner's module may call a part as torch's wrappers do."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.LSTM(6, 4, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        return 2 * self.module(x)[0]


def test_not_a_wrapper(tmp_path: Path) -> None:
    """A part that has a wrapper's name for it is not taken for the whole."""
    export(OwnModule(), tmp_path, example=example())
    layers = json.loads((tmp_path / "config.json").read_text())["layers"]
    assert [layer["type"] for layer in layers] == ["lstm", "scale"]


def test_labels(tmp_path: Path) -> None:
    """Names of classes, and the version, are in the folder."""
    export(Tagger(), tmp_path, example=example(), labels=["a", "b", "c"], version=3)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["labels"] == {"log_probabilities": ["a", "b", "c"]}
    assert config["version"] == 3


def test_overwrite(tmp_path: Path) -> None:
    """A folder that holds a model is written to only where that is said."""
    export(Tagger(), tmp_path, example=example())
    with pytest.raises(ModelError, match="holds a model already; choose another folder, or over"):
        export(Tagger(), tmp_path, example=example())
    export(Tagger(), tmp_path, example=example(), overwrite=True)


class Odd(Tagger):
    """Gives other numbers for sequences of 23 steps, which is not recorded."""

    def forward(self, x: Tensor) -> Any:
        y, _ = self.lstm(x)
        return self.fc(y) + (1.0 if x.shape[1] == 23 else 0.0)


class Short(Tagger):
    """Fails for sequences that are long."""

    def forward(self, x: Tensor) -> Any:
        if x.shape[1] > 60:
            raise ValueError("too long for me")
        return self.lstm(x)[0]


def traced() -> nn.Module:
    """Recorded by torch, without the code."""
    with warnings.catch_warnings(action="ignore"):  # which is deprecated, and still found
        module: nn.Module = torch.jit.trace(Tagger(), example())  # type: ignore[no-untyped-call]
    return module


REFUSED: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], str]] = {
    "others than recorded": (Odd, {}, "logits would not be what the module gives (alone; off by "),
    "raises": (Short, {}, "the module fails on 64 steps: ValueError: too long for me (line"),
    "traced": (
        traced,
        {},
        "a scripted or traced module has no code to record; export the module that it was made of",
    ),
    "wrong arguments": (
        Tagger,
        {"kwargs": {"mask": 1}},
        "example: Tagger.forward has got an unexp",
    ),
    "wrong names": (
        Tagger,
        {"outputs": ["a"]},
        "outputs: expected a name or None for each of 2 re",
    ),
    "wrong width": (
        Tagger,
        {"example": torch.randn(1, 9, 5)},
        "test_export.py: `y, _ = self.lstm(x)`",
    ),
    "version": (Tagger, {"version": 0}, "the model's version must be 1 or more, got 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    """What can't be proven is not written; the error is one line."""
    make, arguments, words = REFUSED[case]
    with pytest.raises(ModelError) as refused:
        export(make(), tmp_path / "out", **{"example": example()} | arguments)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_what_is_written_is_what_was_proven(tmp_path: Path) -> None:
    """The folder has the module's weights, which may be trained on at once."""
    module = Tagger()
    export(module, tmp_path, example=example())
    from safetensors.numpy import load_file

    tensors = load_file(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(tensors["fc.weight"], module.fc.weight.detach().numpy())
