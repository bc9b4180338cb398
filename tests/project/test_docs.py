"""What the README and docs/ say, done: their Python, their commands and their site."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bilstm_client import AsyncClient, Client
from bilstm_server.settings import SHIPPED_MODEL
from bilstm_server.testing import server_process
from tests.client.cli.files import on_terminal
from tests.security.authority import TOKEN, Authority

from .pages import ROOT, blocks, run, run_shell


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with server_process() as server:
        yield server.target


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The target of a server with TLS and tokens, and a folder with `ca.pem` and `token`."""
    folder = tmp_path_factory.mktemp("secured")
    authority = Authority(folder, "ca")
    files = authority.issue()
    (folder / "token").write_text(TOKEN, encoding="utf-8")
    (folder / "tokens").write_text(f"app: {TOKEN}\n", encoding="utf-8")
    flags = [f"--tls-cert={files.certificate}", f"--tls-key={files.key}"]
    with server_process(*flags, f"--tokens-file={folder / 'tokens'}") as server:
        yield server.target, folder


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


@pytest.mark.parametrize(
    ("page", "name", "shape"),
    [
        ("quickstart", "encoding.states", (7, 128)),
        ("streams", "last", (128,)),
        ("models", "y", (10, 128)),
    ],
)
def test_docs_python(target: str, page: str, name: str, shape: tuple[int, ...]) -> None:
    """The Python of docs/ runs, and gives what it says."""
    found = blocks(f"docs/{page}.md", "python")
    (code,) = (block for block in found if "tls=" not in block)  # that server has no TLS
    assert eval(name, execute(code, target)).shape == shape


def test_docs_python_of_the_client(
    target: str, secured: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Python of docs/client.md runs, in plain text and, but for its address and its file, over
    TLS with a token."""
    plain, secure = blocks("docs/client.md", "python")
    assert execute(plain, target)["encoding"].states.shape == (7, 128)
    address, folder = secured
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))  # whom this machine trusts
    monkeypatch.delenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", raising=False)
    for words, ours in (
        ("encoder.example", address),
        ("/run/secrets/encoder-token", str(folder / "token")),
    ):
        assert words in secure
        secure = secure.replace(words, ours)
    with execute(secure, target)["client"] as client:
        assert client.encode(np.zeros((7, 12), np.float32)).states.shape == (7, 128)


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
    """The commands of docs/shell.md print there what stands below them, those without TLS."""
    monkeypatch.chdir(tmp_path)
    Path("examples").symlink_to(ROOT / "examples")
    Path("recordings").mkdir()
    np.save("recordings/one.npy", np.zeros((3, 12), np.float32))
    first, table, folder, _ = blocks("docs/shell.md", "sh")
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


def test_docs_shell_with_tls(secured: tuple[str, Path]) -> None:
    """The command of docs/shell.md for a server with TLS and tokens runs as it stands, but for the
    address."""
    *_, secure = blocks("docs/shell.md", "sh")
    target, folder = secured
    assert "encoder.example" in secure
    assert "japanese_vowels" in run(secure.replace("encoder.example", target), folder)


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
    section = rf"::: bilstm_client\.{client.__name__}\n(?: +.*\n)*? +members: \[(.*)\]"
    listed = re.search(section, page)
    assert listed is not None
    public = {name for name in dir(client("localhost")) if not name.startswith("_")}
    assert set(listed[1].split(", ")) == {"__init__", *public}
