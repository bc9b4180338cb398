"""`export`: a folder that was proven to give what the module gives, or none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bilstm_server import export
from bilstm_server.errors import ModelError
from bilstm_server.exporting import ExportError
from bilstm_server.model.storage.folder import load_model

from .models import crfs
from .models.case import seeded


def test_a_module_becomes_a_folder_that_is_proven(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Served alone, with others and streamed, every output is the module's; notes are printed."""
    case = next(case for case in crfs.CASES if case.name == "masked_crf")
    proof = export(
        seeded(case.make),
        tmp_path / "tagger",
        example=case.example(),
        outputs=["score", "labels"],
        labels=["O", "B", "I", "E", "S"],
        version=3,
    )
    assert proof.holds
    config = load_model(tmp_path / "tagger").config
    assert config.version == 3
    assert config.labels == {"labels": ("O", "B", "I", "E", "S")}
    printed = capsys.readouterr().out
    assert "takes id 0 of words for padding" in printed
    assert "labels" in printed


def test_a_folder_with_a_model_is_kept(tmp_path: Path) -> None:
    """Only with `overwrite` is it written anew."""
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds a model already"):
        export(nn.LSTM(6, 4), tmp_path, example=torch.randn(9, 6))
    assert (tmp_path / "config.json").read_text() == "{}"


class Moody(nn.Module):
    """Gives other numbers for long sequences than for those that are recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.lstm(x)[0]
        return y + 1 if x.size(1) > 20 else y


def test_what_is_not_proven_is_not_written(tmp_path: Path) -> None:
    """A module that computes otherwise at another length is refused, and nothing is written."""
    with pytest.raises(ExportError, match="states would not be what the module gives"):
        export(Moody(), tmp_path / "moody", example=torch.randn(1, 9, 6))
    assert not (tmp_path / "moody").exists()


class Cut(nn.Module):
    """Reads so many steps at most, or fails beyond them."""

    def __init__(self, steps: int, fails: bool = False):
        super().__init__()
        self.lstm = nn.LSTM(6, 4, batch_first=True)
        self.steps, self.fails = steps, fails

    def forward(self, x: Tensor) -> Tensor:
        if self.fails and not 5 <= x.size(1) <= self.steps:
            raise ValueError("no such length")
        y: Tensor = self.lstm(x[:, : self.steps])[0].mean(1)
        return y


def test_a_module_that_cuts_long_sequences_is_refused(tmp_path: Path) -> None:
    """Beyond the lengths of the proof too: what is served reads all steps."""
    with pytest.raises(ExportError, match="mean of 2100 steps would not be what the module gives"):
        export(Cut(1024), tmp_path / "cut", example=torch.randn(1, 9, 6))
    assert not (tmp_path / "cut").exists()


def test_lengths_that_the_module_does_not_take_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The module is served, and its owner knows for which lengths there is no proof."""
    assert export(Cut(1000, fails=True), tmp_path / "cut", example=torch.randn(1, 9, 6)).holds
    printed = capsys.readouterr().out
    assert "The module itself fails for 1, 2 steps" in printed
    assert "fails on 2100 steps: ValueError: no such length (line" in printed
