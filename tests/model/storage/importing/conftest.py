"""The command `bilstm-server import`, as tests of its questions run it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bilstm_server.cli import main as cli
from tests.model.storage.importing.asked import Import


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
