"""What `bilstm-server import` can't read off names and shapes: it asks, and does not guess.

The judge is the module itself: whatever it computes otherwise than by its LSTM and one linear layer
is refused or left out, and said.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bilstm_client import Client, InvalidInput
from bilstm_server.cli import main as cli
from bilstm_server.errors import ModelError
from bilstm_server.model import ModelConfig, Pooling, import_checkpoint
from tests.support.servers import RunningServer, settings

Import = Callable[..., tuple[int, str]]

WIDTH, HIDDEN, CLASSES = 3, 4, 5


class Module(nn.Module):
    """An LSTM of two layers and a head, and what stands around them."""

    def __init__(self, read: int = 2 * HIDDEN, bidirectional: bool = True, **around: nn.Module):
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(WIDTH, HIDDEN, 2, bidirectional=bidirectional, batch_first=True)
        self.fc: nn.Module = nn.Linear(read, CLASSES)
        for name, module in around.items():
            setattr(self, name, module)


@pytest.fixture
def importing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Import:
    """Imports a module's state_dict by the command; gives its exit code and what it said."""

    def run(module: nn.Module | dict[str, Tensor], *flags: str) -> tuple[int, str]:
        tensors = module.state_dict() if isinstance(module, nn.Module) else module
        torch.save(tensors, tmp_path / "model.pt")
        out = ("--out", str(tmp_path / "out"))
        code = cli.main(["import", str(tmp_path / "model.pt"), *out, *flags])
        said = capsys.readouterr().err
        assert said.count("\n") == (1 if said else 0)
        assert (tmp_path / "out").exists() == (code == 0)
        return code, said

    return run


def config_in(folder: Path) -> ModelConfig:
    return ModelConfig.model_validate_json((folder / "out" / "config.json").read_bytes())


# -- what the head reads ----------------------------------------------------------------------


@pytest.mark.parametrize("bidirectional", [True, False])
def test_head_without_pooling(bidirectional: bool, importing: Import) -> None:
    """A head is refused until it is said what it reads, with the choices in the module's words."""
    module = Module((1 + bidirectional) * HIDDEN, bidirectional)
    code, said = importing(module)
    assert code == 1
    assert "no tensor tells what the head (fc.) reads; say it with --pooling: last (output" in said
    assert ("final (torch.cat((h_n[-2], h_n[-1]), 1))" in said) == bidirectional
    assert ("which is h_n[-1]" in said) == (not bidirectional)
    assert "mean (output.mean(1)) or max (output.max(1).values)" in said


def test_head_without_pooling_in_code(tmp_path: Path) -> None:
    """In Python, too, a head is refused until it is said what it reads."""
    torch.save(Module().state_dict(), tmp_path / "model.pt")
    with pytest.raises(ModelError, match="--pooling"):
        import_checkpoint(tmp_path / "model.pt", tmp_path / "out")
    config = import_checkpoint(tmp_path / "model.pt", tmp_path / "out", pooling=Pooling.FINAL)
    assert config.head is not None
    assert config.head.pooling == "final"


def test_pooling_without_head(importing: Import) -> None:
    """What is said of a head that is not there is not passed over."""
    code, said = importing(Module().lstm, "--lstm-prefix", "", "--pooling", "last")
    assert code == 1
    assert "--pooling last, but no head under the prefix 'fc.'" in said


HEADS: dict[str, tuple[nn.Module, str]] = {
    "one direction": (nn.Linear(HIDDEN, CLASSES), "one direction alone, or the sum of both"),
    "h_n of all layers": (nn.Linear(4 * HIDDEN, CLASSES), "it may read h_n of all layers"),
    "mean, max and last": (nn.Linear(6 * HIDDEN, CLASSES), "several vectors joined"),
    "something else": (nn.Linear(7, CLASSES), "fc.weight is [5, 7], expected [5, 8]"),
    "several layers": (
        nn.Sequential(nn.Linear(2 * HIDDEN, 8), nn.ReLU(), nn.Linear(8, CLASSES)),
        "the head has several layers (fc.0.weight, fc.2.weight), and only one nn.Linear is served",
    ),
}


@pytest.mark.parametrize("case", HEADS)
def test_other_heads(case: str, importing: Import, tmp_path: Path) -> None:
    """A head that reads otherwise is refused with what it may be; it can be left out."""
    module = Module()
    module.fc, words = HEADS[case]
    code, said = importing(module, "--pooling", "last")
    assert code == 1
    assert words in said
    code, said = importing(module, "--ignore-unused")
    assert code == 0
    assert "no logits: fc." in said
    assert config_in(tmp_path).head is None


def test_one_layer_of_several(importing: Import, tmp_path: Path) -> None:
    """The last layer of several is no head, though it is as wide, once the first is left out."""
    module = Module(norm=nn.Linear(8, 8))
    flags = ("--pooling", "last")
    assert "norm.weight" in importing(module, *flags)[1]
    code, said = importing(module, *flags, "--ignore-unused")
    assert code == 0
    assert "no logits: norm.weight, norm.bias may stand between the LSTM and the head (fc.)" in said
    assert config_in(tmp_path).head is None


def test_dropout(importing: Import, tmp_path: Path) -> None:
    """Dropout has no tensors, and does nothing when it is served."""
    code, said = importing(Module(drop=nn.Dropout(0.5)), "--pooling", "final")
    assert (code, said) == (0, "")
    assert config_in(tmp_path).head is not None


# -- what is left out -------------------------------------------------------------------------

BEHIND: dict[str, dict[str, Any]] = {
    "LayerNorm": {"norm": nn.LayerNorm(2 * HIDDEN)},
    "BatchNorm without weights": {"norm": nn.BatchNorm1d(2 * HIDDEN, affine=False)},
    "attention": {"attention": nn.Linear(2 * HIDDEN, 1)},
    "a CRF": {"crf": nn.ParameterDict({"transitions": torch.ones(CLASSES, CLASSES)})},
    "a decoder": {"decoder": nn.LSTM(2 * HIDDEN, 6)},
}


@pytest.mark.parametrize("case", BEHIND)
def test_no_logits(case: str, importing: Import, tmp_path: Path) -> None:
    """Where a tensor may stand between the LSTM and the head, or behind, there are no logits, and
    the states are the module's own."""
    module = Module(**BEHIND[case]).eval()
    assert importing(module, "--pooling", "last")[0] == 1
    code, said = importing(module, "--pooling", "last", "--ignore-unused")
    assert code == 0
    assert said.startswith(f"bilstm-server: {tmp_path / 'model.pt'}: no logits: ")
    server = RunningServer(settings(model=[("m", tmp_path / "out")]))
    try:
        with Client(server.target) as client:
            x = torch.randn(6, WIDTH)
            states = client.encode(x.numpy()).states
            with pytest.raises(InvalidInput, match="logits"):
                client.encode(x.numpy(), outputs=["logits"])
    finally:
        server.close()
    with torch.inference_mode():
        expected = module.lstm(x[None])[0][0]
    assert states is not None
    np.testing.assert_allclose(states, expected, rtol=0, atol=1e-5)


class Parameters(nn.Module):
    def __init__(self, **parameters: Tensor):
        super().__init__()
        for name, tensor in parameters.items():
            setattr(self, name, nn.Parameter(tensor))


BEFORE: dict[str, dict[str, Any]] = {
    "LayerNorm": {"norm": nn.LayerNorm(WIDTH)},
    "BatchNorm without weights": {"norm": nn.BatchNorm1d(WIDTH, affine=False)},
    "a linear layer": {"project": nn.Linear(7, WIDTH)},
    "several": {"project": nn.Sequential(nn.Linear(7, 9), nn.Linear(9, WIDTH))},
    "a convolution": {"conv": nn.Conv1d(7, WIDTH, 5)},
    "a convolution of images": {"conv": nn.Conv2d(1, 16, 3)},
    "another embedding": {"words": nn.Embedding(11, WIDTH)},
    "positions": {"positions": Parameters(table=torch.ones(1, 50, WIDTH))},
    "an LSTM": {"lower": nn.LSTM(7, WIDTH)},
    "a cell": {"lower": nn.GRUCell(7, WIDTH)},
    "the other direction": {"back": nn.LSTM(WIDTH, HIDDEN)},
    "a scale": {"input": Parameters(scale=torch.ones(1), shift=torch.ones(()))},
    "initial states": {"initial": Parameters(h=torch.ones(4, HIDDEN), c=torch.ones(4, HIDDEN))},
}


@pytest.mark.parametrize("case", BEFORE)
def test_before_the_lstm(case: str, importing: Import) -> None:
    """What may stand before the LSTM can't be left out: even the states would be others."""
    module = Module(**BEFORE[case])
    for flags in ((), ("--ignore-unused",)):
        code, said = importing(module, "--pooling", "last", *flags)
        assert code == 1
        assert f"{next(iter(BEFORE[case]))}." in said
    assert "may stand before the LSTM (its input is 3 wide, its states 4)" in said


def test_a_head_before_the_lstm(importing: Import) -> None:
    """What is named as the head and is none is not left out if it may stand before the LSTM."""
    module = Module()
    module.fc = nn.Linear(7, WIDTH)
    code, said = importing(module, "--ignore-unused")
    assert code == 1
    assert "fc.weight, fc.bias may stand before the LSTM" in said


@pytest.mark.parametrize("other", [nn.LSTM(WIDTH, HIDDEN), nn.GRU(8, 2)])
def test_several_recurrences(other: Any, importing: Import) -> None:
    """Which of several recurrences is meant is asked."""
    code, said = importing(Module(other=other), "--pooling", "last")
    assert code == 1
    assert "holds several recurrences ('lstm.', 'other.'), and one is served" in said
