"""What the README and docs/ say, done: their Python, their commands and their site."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bilstm_client import AsyncClient, Client
from bilstm_server.settings import SHIPPED_MODEL
from bilstm_server.testing import server_process
from tests.client.cli.files import on_terminal

ROOT = Path(__file__).parents[2]
# The commands of this environment, as the reader has them after `make`.
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def run(line: str, cwd: Path) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(line.split(), cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_shell(script: str) -> None:
    subprocess.run(["bash", "-euc", script], env=ENVIRONMENT, check=True)


def blocks(page: str, language: str) -> list[str]:
    """The page's code blocks."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with server_process() as server:
        yield server.target


def execute(code: str, target: str) -> dict[str, Any]:
    """The names that the code leaves; it runs as it stands, but for the address."""
    names: dict[str, Any] = {}
    exec(code.replace("localhost:50051", target), names)
    return names


def test_readme_python(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The README's Python runs, and prints what stands below it."""
    client, _, _, stream = blocks("README.md", "python")
    (printed,) = blocks("README.md", "text")
    assert execute(client, target)["encoding"].states.shape == (7, 128)
    assert capsys.readouterr().out == printed
    assert execute(client + stream, target)["last"].shape == (128,)


class Tagger(nn.Module):
    """Scores of three tags of each word."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.lstm = nn.LSTM(8, 8, batch_first=True, bidirectional=True)
        self.scores = nn.Linear(16, 3)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.scores(self.lstm(self.embedding(words))[0])
        return scores


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
    best = names["tagger"](names["words"])[0].argmax(1)
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


@pytest.mark.parametrize(
    ("page", "name", "shape"),
    [
        ("quickstart", "encoding.states", (7, 128)),
        ("client", "encoding.states", (7, 128)),
        ("streams", "last", (128,)),
        ("models", "y", (10, 128)),
    ],
)
def test_docs_python(target: str, page: str, name: str, shape: tuple[int, ...]) -> None:
    """The Python of docs/ runs, and gives what it says."""
    (code,) = blocks(f"docs/{page}.md", "python")
    assert eval(name, execute(code, target)).shape == shape


def test_docs_shell(target: str, tmp_path: Path) -> None:
    """The commands of docs/ for files run as they stand, but for the address."""
    (tmp_path / "recordings").mkdir()
    np.save(tmp_path / "recordings" / "one.npy", np.zeros((3, 12), np.float32))
    np.savez(tmp_path / "utterances.npz", first=np.zeros((3, 12), np.float32))
    pages = [f"docs/{page}.md" for page in ("quickstart", "client", "streams")]
    lines = "".join(block for page in pages for block in blocks(page, "sh")).splitlines()
    lines = [line for line in lines if line.startswith("bilstm ")]
    assert {line.split()[1] for line in lines} == {"health", "models", "encode"}
    for line in lines:
        run(f"{line} --server {target}", tmp_path)
    with np.load(tmp_path / "utterances.encoded.npz") as encoded:
        assert encoded["first.logits"].shape == (9,)
    assert np.load(tmp_path / "recordings" / "one.states.npy").shape == (3, 128)


def test_docs_shell_on_a_terminal(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands of docs/shell.md print there what stands below them."""
    monkeypatch.chdir(tmp_path)
    Path("examples").symlink_to(ROOT / "examples")
    Path("recordings").mkdir()
    np.save("recordings/one.npy", np.zeros((3, 12), np.float32))
    first, table, folder = blocks("docs/shell.md", "sh")
    (expected,) = blocks("docs/shell.md", "text")
    program, _, commands = first.partition("\nEND\n")
    run_shell(f"{program}\nEND\n")
    shown = [
        on_terminal(*line.split()[1:], "--server", target, prints=True)
        for line in (commands + table + folder).splitlines()
    ]
    for line in expected.splitlines():
        assert line in "".join(shown[:2]), shown
    assert Path("scores.csv").read_text(encoding="utf-8").startswith("file,array,steps,label,score")
    assert np.load("recordings/one.states.npy").shape == (3, 128)


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


def test_docs_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server starts with the configuration file of docs/settings.md as it is printed."""
    monkeypatch.chdir(tmp_path)
    (text,) = blocks("docs/settings.md", "toml")
    for name in ("classifier", "tagger"):
        shutil.copytree(SHIPPED_MODEL.folder, Path("models", name))
    Path("server.toml").write_text(text, encoding="utf-8")
    with server_process("--config", "server.toml") as server, Client(server.target) as client:
        classifier, tagger = client.list_models()
    assert (classifier.name, tagger.name) == ("classifier", "tagger")
    assert classifier.limits.max_request_tokens == 8192
    assert classifier.limits.max_message_bytes == 8 * 1024**2


def test_site(tmp_path: Path) -> None:
    """The site of `make docs` has the changelog, and the files that pages link to, with their
    text."""
    run(f"mkdocs build --strict --quiet --site-dir {tmp_path}", ROOT)
    assert "Unreleased" in (tmp_path / "changelog" / "index.html").read_text(encoding="utf-8")
    for page, file, words in (
        ("", "proto/bilstm/v1/encoder.proto", "EncoderService"),
        ("operator", "examples/operator/lstm.py", "index_copy"),
        ("quickstart", "docker-compose.yml", "prometheus"),
    ):
        linked = (tmp_path / page / "index.html").read_text(encoding="utf-8")
        assert f'href="{"../" if page else ""}files/{file}/"' in linked
        assert words in (tmp_path / "files" / file / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_reference_of_the_client(client: type) -> None:
    """The reference has every public member of both clients."""
    page = (ROOT / "docs" / "reference" / "client.md").read_text("utf-8")
    listed = re.search(rf"::: bilstm_client\.{client.__name__}\n.*\n +members: \[(.*)\]", page)
    assert listed is not None
    public = {name for name in dir(client("localhost")) if not name.startswith("_")}
    assert set(listed[1].split(", ")) == {"__init__", *public}
