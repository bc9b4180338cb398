"""What the README and docs/ say of ways to serve a model of one's own, done."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bilstm_client import Client
from bilstm_server.testing import server_process

from .pages import ENVIRONMENT, ROOT, blocks, run


class Tagger(nn.Module):
    """The best of three tags of each word."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.lstm = nn.LSTM(8, 8, batch_first=True, bidirectional=True)
        self.scores = nn.Linear(16, 3)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.scores(self.lstm(self.embedding(words))[0])
        return scores.argmax(2)


def test_readme_tagger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The README's tagger is exported, served and asked as it stands there."""
    monkeypatch.chdir(tmp_path)
    _, exported, asked, _ = blocks("README.md", "python")
    (served,) = (b for b in blocks("README.md", "sh") if "bilstm-server serve" in b)
    names: dict[str, Any] = {"tagger": Tagger().eval(), "words": torch.randint(20, (1, 4))}
    exec(exported, names)
    with server_process(*served.split()[2:]) as server:
        exec(asked.replace("localhost:50051", server.target), names)
    (best,) = names["tagger"](names["words"])
    printed = str([["O", "PER", "LOC"][tag] for tag in best])
    assert capsys.readouterr().out.splitlines()[-1] == printed


def test_docs_exporting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Python of docs/exporting.md runs, and prints a table as it has it."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    first, *others = blocks("docs/exporting.md", "python")
    exec(first, names)
    table = blocks("docs/exporting.md", "text")[0].splitlines()
    printed = capsys.readouterr().out
    assert table[0] in printed
    assert re.search(rf"^{table[1].split()[0]}( +[0-9.]+e-[0-9]+){{3}}$", printed, re.MULTILINE)
    for code in others:
        exec(code, names)
        assert names["proof"].holds
    for folder in ("tagger", "scores"):
        assert (tmp_path / "models" / folder / "config.json").exists()


def test_docs_exporting_from_a_shell(tmp_path: Path) -> None:
    """The commands of docs/exporting.md export its module, show the layers, and verify them."""
    source = blocks("docs/exporting.md", "python")[0].partition("\n\n\ntagger = ")[0]
    (tmp_path / "tagger.py").write_text(source, encoding="utf-8")
    names: dict[str, Any] = {}
    exec(source, names)
    tagger, words = names["Tagger"]().eval(), torch.tensor([3, 1, 4, 1, 5])
    torch.save(tagger.state_dict(), tmp_path / "tagger.pt")
    logits = tagger(words[None])[0].detach()
    arrays = {"inputs.words.0": words.numpy(), "outputs.logits.0": logits.numpy()}
    np.savez(tmp_path / "expect.npz", **arrays)
    pages = blocks("docs/exporting.md", "sh")
    lines = [line for block in pages for line in block.splitlines() if " serve " not in line]
    assert [line.split()[1] for line in lines] == ["export", "verify", "verify"]
    printed = [run(line, tmp_path) for line in lines]
    assert blocks("docs/exporting.md", "text")[1] in printed[0]
    assert all("proven by" in text for text in printed)


def test_docs_import(tmp_path: Path) -> None:
    """The commands of docs/importing.md, and for a model of one's own the measurements of
    docs/streams.md and docs/sizing.md, run as they stand."""
    module = nn.Module()
    module.lstm = nn.LSTM(4, 5, bidirectional=True)
    module.fc = nn.Linear(10, 2)
    torch.save(module.state_dict(), tmp_path / "classifier.pt")
    imported, served = blocks("docs/importing.md", "sh")[0].strip().splitlines()
    run(imported, tmp_path)
    flags = served.replace("models/", f"{tmp_path}/models/").split()[2:]
    with server_process(*flags) as server, Client(server.target) as client:
        assert client.get_model().num_classes == 2
        assert server.stop() == 0
    np.savez(tmp_path / "samples.npz", one=np.zeros((200, 4), np.float32))
    (measured,) = (b for b in blocks("docs/streams.md", "sh") if "lookahead" in b)
    assert run(measured, tmp_path)
    (benchmark,) = blocks("docs/sizing.md", "sh")
    assert "--max-batch-tokens" in run(f"{benchmark} --seconds 0.1 --batch-seconds 0.01", tmp_path)


def test_docs_proof(tmp_path: Path) -> None:
    """The table, the chain and the proof of docs/importing.md are those of such modules."""
    module = nn.Module()
    module.lstm = nn.LSTM(4, 5, bidirectional=True, batch_first=True)
    module.fc = nn.Linear(10, 2)
    torch.save(module.state_dict(), tmp_path / "classifier.pt")
    sequences = [torch.randn(steps, 4) for steps in (1, 5, 9)]
    page = (ROOT / "docs/importing.md").read_text(encoding="utf-8")
    (program,) = (code for code in blocks("docs/importing.md", "python") if "arrays" in code)
    own = {
        "numpy": np,
        "sequences": sequences,
        "module": lambda x: module.fc(module.lstm(x)[0][:, -1]),
    }
    exec(program.replace("expect.npz", str(tmp_path / "expect.npz")), own)
    imports = [b for b in blocks("docs/importing.md", "sh") if "server import" in b]
    first, chain, proven = (b for b in imports if ".pt" in b)
    assert blocks("docs/importing.md", "text")[0] in run(first.splitlines()[0], tmp_path)
    assert "proven by 3 sequences" in run(f"{proven} --overwrite", tmp_path)
    assert "with more than 1e-4 no model is written" in " ".join(page.split())
    tagger = nn.Module()
    tagger.words, tagger.lstm = nn.Embedding(9, 3), nn.LSTM(6, 4)
    tagger.norm, tagger.hidden = nn.LayerNorm(4), nn.Linear(4, 3)
    tagger.tags = nn.Linear(3, 2)
    torch.save(tagger.state_dict(), tmp_path / "tagger.pt")
    command = ["bash", "-euc", f"cd {shlex.quote(str(tmp_path))}; {chain}"]
    assert subprocess.run(command, env=ENVIRONMENT).returncode == 0
