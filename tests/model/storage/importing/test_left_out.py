"""What `bilstm-server import` leaves out, and what it does not, judged by the module itself: its
states must stay its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bilstm_server.errors import ModelError
from bilstm_server.model import import_checkpoint, load_model
from tests.model.storage.importing.asked import (
    CLASSES,
    HIDDEN,
    WIDTH,
    Import,
    Module,
    assert_own_states,
)

BEHIND: dict[str, dict[str, Any]] = {
    "LayerNorm": {"norm": nn.LayerNorm(2 * HIDDEN)},
    "BatchNorm without weights": {"norm": nn.BatchNorm1d(2 * HIDDEN, affine=False)},
    "attention": {"attention": nn.Linear(2 * HIDDEN, 1)},
    "a vector": {"attention": nn.ParameterDict({"u": torch.ones(2 * HIDDEN)})},
    "a matrix of a CRF": {"crf": nn.ParameterDict({"transitions": torch.ones(CLASSES, CLASSES)})},
}


@pytest.mark.parametrize("case", BEHIND)
def test_no_logits(case: str, importing: Import, tmp_path: Path) -> None:
    """What stands behind the LSTM is left out with the head only, and the states are the module's
    own."""
    module = Module(**BEHIND[case]).eval()
    for flags in ((), ("--ignore-unused",)):
        code, said = importing(module, "--pooling", "mean", *flags)
        assert code == 1
        assert next(iter(BEHIND[case])) in said
    assert importing(module, "--no-head", "--ignore-unused")[0] == 0
    assert_own_states(module, tmp_path)


def test_ignored_beside_a_head(importing: Import) -> None:
    """What is left out beside a head would change its logits, and is refused."""
    code, said = importing(Module(**BEHIND["a vector"]), "--pooling", "last", "--ignore-unused")
    assert code == 1
    assert "--ignore-unused would leave out attention.u, and such a model would give other" in said
    assert "pass --no-head, too" in said


def test_weights_of_an_attention(importing: Import, tmp_path: Path) -> None:
    """Behind an embedding that gives all that the LSTM reads, no other width can stand."""
    module = Module(words=nn.Embedding(11, WIDTH), attention=Parameters(w=torch.ones(1, HIDDEN, 1)))
    assert importing(module, "--no-head", "--ignore-unused")[0] == 0
    module = Module(words=nn.Embedding(11, WIDTH), attention=Parameters(w=torch.ones(1, WIDTH, 1)))
    torch.save(module.state_dict(), tmp_path / "other.pt")
    with pytest.raises(ModelError, match=r"attention\.w may stand before lstm"):
        import_checkpoint(tmp_path / "other.pt", tmp_path / "no", head=False, ignore_unused=True)


class Parameters(nn.Module):
    def __init__(self, **parameters: Tensor):
        super().__init__()
        for name, tensor in parameters.items():
            setattr(self, name, nn.Parameter(tensor))


BEFORE: dict[str, dict[str, Any]] = {
    "a convolution": {"conv": nn.Conv1d(7, WIDTH, 5)},
    "a convolution of images": {"conv": nn.Conv2d(1, 16, 3)},
    "positions": {"positions": Parameters(table=torch.ones(1, 50, WIDTH))},
    "a cell": {"lower": nn.GRUCell(7, WIDTH)},
    "a scale": {"input": Parameters(scale=torch.ones(1), shift=torch.ones(()))},
    "initial states": {"initial": Parameters(a=torch.ones(4, HIDDEN), b=torch.ones(4, HIDDEN))},
}


@pytest.mark.parametrize("case", BEFORE)
def test_before_the_lstm(case: str, importing: Import) -> None:
    """What may stand before the LSTM can't be left out: even the states would be others."""
    code, said = importing(Module(**BEFORE[case]), "--no-head", "--ignore-unused")
    assert code == 1
    assert f"{next(iter(BEFORE[case]))}." in said
    assert "may stand before lstm (its input is 3 wide, its states 4)" in said


KEPT: dict[str, tuple[dict[str, Any], str]] = {
    "a linear layer": (
        {"project": nn.Linear(7, WIDTH)},
        "no tensor tells which activation stands behind project; say it with --chain",
    ),
    "several": (
        {"project": nn.Sequential(nn.Linear(7, 9), nn.Linear(9, WIDTH))},
        "no tensor tells which activation stands behind project.0, project.1",
    ),
    "one as wide before as behind": (
        {"project": nn.Linear(2 * HIDDEN, WIDTH)},
        "no tensor tells whether project stands before the LSTM or behind it; say it with --chain",
    ),
    "two embeddings": (
        {"words": nn.Embedding(11, 2), "case": nn.Embedding(2, 1)},
        "no tensor tells in which order words, case are joined; say it with --chain",
    ),
    "an embedding beside something": (
        {"words": nn.Embedding(11, 2)},
        "lstm reads 3 numbers, and words gives 2: no tensor tells what the others are; say it "
        "with --chain 'words+features:1, lstm",
    ),
    "an LSTM": (
        {"lower": nn.LSTM(7, WIDTH)},
        "no tensor tells how lower, lstm are connected: each reads the one before, or the outputs",
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_asked_without_a_head(case: str, importing: Import) -> None:
    """Without a head, too, it is asked what stands before the LSTM and how."""
    around, words = KEPT[case]
    code, said = importing(Module(**around), "--no-head")
    assert code == 1
    assert words in said


def test_head_as_wide_as_the_input(importing: Import, tmp_path: Path) -> None:
    """A head by its name is left out where it might, by its widths, stand before the LSTM too."""
    module = Module()
    module.fc = nn.Linear(2 * HIDDEN, WIDTH)
    assert importing(module, "--no-head")[0] == 0
    assert_own_states(module, tmp_path)


def test_norm_before_the_lstm(importing: Import) -> None:
    """A norm before the LSTM stays where the head is left out."""
    code, said = importing(Module(norm=nn.LayerNorm(WIDTH)), "--no-head")
    assert code == 0
    assert [line.split()[0] for line in said.splitlines()[1:3]] == ["norm", "lstm"]


def test_without_the_embedding(importing: Import, tmp_path: Path) -> None:
    """With --no-embedding callers send its vectors."""
    code, _ = importing(Module(words=nn.Embedding(11, WIDTH)), "--no-head", "--no-embedding")
    assert code == 0
    assert load_model(tmp_path / "out").config.inputs["features"].width == WIDTH


def test_no_embedding_to_leave_out(importing: Import) -> None:
    """An embedding that is not there can't be left out."""
    code, said = importing(Module(), "--no-head", "--no-embedding")
    assert code == 1
    assert "--no-embedding, but no embedding in it" in said


@pytest.mark.parametrize("other", [nn.LSTM(WIDTH, HIDDEN), nn.LSTM(2 * HIDDEN, 6)])
def test_other_recurrences(other: nn.Module, importing: Import, tmp_path: Path) -> None:
    """An LSTM that is not named beside one that is must be taken out of the file, unless it stands
    behind and the head is left out."""
    module = Module(other=other)
    code, said = importing(module, "--pooling", "last", "--lstm-prefix", "lstm.")
    assert code == 1
    assert "holds more recurrences (other): name all that are in the chain with" in said
    flags = ("--lstm-prefix", "lstm.", "--no-head", "--ignore-unused")
    code, said = importing(module, *flags)
    assert code == (1 if other.input_size == WIDTH else 0), said
