"""What `bilstm-server import` can't read off names and shapes: it asks, and does not guess.

What may be left out is judged by the module itself: its states must stay its own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bilstm_server.cli import main as cli
from bilstm_server.errors import ModelError
from bilstm_server.model import Pooling, RaggedBatch, import_checkpoint, load_model

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
        captured = capsys.readouterr()
        assert captured.err.count("\n") == code
        assert (tmp_path / "out").exists() == (code == 0)
        return code, captured.err or captured.out

    return run


def assert_own_states(module: Module, folder: Path) -> None:
    """What is served gives the states of the module's LSTM, and nothing of a head."""
    encoder = load_model(folder / "out")
    assert encoder.config.output_names == ("states", "final", "mean", "max", "state")
    x = torch.randn(6, WIDTH)
    with torch.no_grad():
        states = encoder(x, RaggedBatch(np.array([6])))["states"]
        torch.testing.assert_close(states, module.lstm(x[None])[0][0], rtol=0, atol=1e-5)


# -- what the head reads ------------------------------------------------------------------------


@pytest.mark.parametrize("bidirectional", [True, False])
def test_head_without_pooling(bidirectional: bool, importing: Import) -> None:
    """A head is refused until it is said what it reads, with the choices in the module's words."""
    module = Module((1 + bidirectional) * HIDDEN, bidirectional)
    code, said = importing(module)
    assert code == 1
    assert "no tensor tells what the head (fc.) reads; say it with --pooling: last (output" in said
    assert ("final (torch.cat((h_n[-2], h_n[-1]), 1))" in said) == bidirectional
    assert ("which is h_n[-1]" in said) == (not bidirectional)
    assert "mean (output.mean(1)), max (output.max(1).values), sum (output.sum(1))" in said
    assert "or with --per-step, where it reads each step" in said
    assert "if it reads something else, bilstm-server export takes" in said


def test_head_without_pooling_in_code(tmp_path: Path) -> None:
    """In Python, too, a head is refused until it is said what it reads."""
    torch.save(Module().state_dict(), tmp_path / "model.pt")
    with pytest.raises(ModelError, match="--pooling"):
        import_checkpoint(tmp_path / "model.pt", tmp_path / "out")
    config = import_checkpoint(tmp_path / "model.pt", tmp_path / "out", pooling=Pooling.FINAL)
    assert config.outputs["logits"] == "fc"
    assert [layer.name for layer in config.needed(["logits"])] == ["lstm", "final", "fc"]


@pytest.mark.parametrize(
    "flags", [("--pooling", "last"), ("--per-step",), ("--head-activation", "relu")]
)
@pytest.mark.parametrize("no_head", [(), ("--no-head",)])
def test_said_of_no_head(
    flags: tuple[str, ...], no_head: tuple[str, ...], importing: Import
) -> None:
    """What is said of a head that is not there, or is left out, is not passed over."""
    module = Module() if no_head else Module().lstm
    code, said = importing(module, *flags, *no_head)
    assert code == 1
    assert f"{' '.join(flags)}, but no head" in said


def test_pooling_of_each_step(importing: Import) -> None:
    """A head can't read one row of a sequence and one of each step."""
    crf = nn.Module()
    for name, shape in (("transitions", (5, 5)), ("start_transitions", (5,))):
        setattr(crf, name, nn.Parameter(torch.zeros(shape)))
    crf.end_transitions = nn.Parameter(torch.zeros(5))
    code, said = importing(Module(crf=crf), "--pooling", "last")
    assert code == 1
    assert "--pooling last gives one row for a sequence, and the CRF reads one for each" in said


HEADS: dict[str, tuple[nn.Module, str]] = {
    "one direction": (nn.Linear(HIDDEN, CLASSES), "one direction alone, or the sum of both"),
    "h_n of all layers": (nn.Linear(4 * HIDDEN, CLASSES), "it may read h_n of all layers"),
    "mean, max and last": (nn.Linear(6 * HIDDEN, CLASSES), "several vectors joined"),
    "something else": (nn.Linear(7, CLASSES), "fc.weight is [5, 7], expected [5, 8]"),
    "several layers": (
        nn.Sequential(nn.Linear(2 * HIDDEN, 6), nn.ReLU(), nn.Linear(6, CLASSES)),
        "no tensor tells which activation stands behind fc.0; say it with --head-activation: none,",
    ),
    "a norm at an unknown place": (
        nn.ModuleDict({"a": nn.BatchNorm1d(2 * HIDDEN), "b": nn.Linear(2 * HIDDEN, CLASSES)}),
        "no tensor tells whether fc.a stands before the pooling or behind it",
    ),
}


@pytest.mark.parametrize("case", HEADS)
def test_other_heads(case: str, importing: Import, tmp_path: Path) -> None:
    """A head that reads otherwise is refused with what it may be; it can be left out."""
    module = Module().eval()
    module.fc, words = HEADS[case]
    code, said = importing(module, "--pooling", "mean")
    assert code == 1
    assert words in said
    assert importing(module, "--no-head")[0] == 0
    assert_own_states(module, tmp_path)


def test_place_of_an_activation(importing: Import, tmp_path: Path) -> None:
    """An activation stands behind a norm, or before it, as the numbers of a Sequential tell; or
    else it is asked.
    """
    flags = ("--pooling", "mean", "--head-activation", "tanh", "--overwrite")

    def layers(**numbers: int) -> list[str]:
        modules = {
            "linear": nn.Linear(2 * HIDDEN, 6),
            "norm": nn.BatchNorm1d(6),
            "out": nn.Linear(6, CLASSES),
        }
        module = Module()
        module.fc = nn.Module()
        for name, number in numbers.items():
            module.fc.add_module(str(number), modules[name])
        code, said = importing(module, *flags)
        if code:
            assert "whether tanh stands before fc.1 or behind it" in said or numbers["norm"] == 2
            return []
        types = [line.split()[0] for line in said.splitlines() if line.startswith(" ")]
        names = [line.split()[0] for line in said.splitlines() if line.startswith(("fc", " "))]
        assert "tanh" in types
        return names

    assert layers(linear=0, norm=1, out=3) == ["mean", "fc.0", "fc.1", "tanh", "fc.3"]
    assert layers(linear=0, norm=2, out=3) == ["mean", "fc.0", "tanh", "fc.2", "fc.3"]
    (tmp_path / "out" / "config.json").unlink()
    (tmp_path / "out" / "model.safetensors").unlink()
    (tmp_path / "out").rmdir()
    assert layers(linear=0, norm=1, out=2) == []
    assert layers(linear=0, norm=2, out=4) == []


def test_activation_of_one_layer(importing: Import) -> None:
    """An activation that was said and stands nowhere is not passed over."""
    code, said = importing(Module(), "--pooling", "last", "--head-activation", "relu")
    assert code == 1
    assert "--head-activation relu stands between the linear layers of a head, and there is" in said
    assert importing(Module(), "--pooling", "last", "--head-activation", "none")[0] == 0


def test_dropout(importing: Import, tmp_path: Path) -> None:
    """Dropout has no tensors, and does nothing when it is served."""
    assert importing(Module(drop=nn.Dropout(0.5)), "--pooling", "final")[0] == 0


# -- what is left out ---------------------------------------------------------------------------

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
