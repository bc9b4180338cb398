"""What `bilstm-server import` can't read off names and shapes: it asks, and does not guess."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from bilstm_server.errors import ModelError
from bilstm_server.model import Pooling, import_checkpoint
from tests.model.storage.importing.asked import (
    CLASSES,
    HIDDEN,
    Import,
    Module,
    assert_own_states,
)

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
