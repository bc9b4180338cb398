"""`bilstm-server import` writes a folder and says how to serve it, or fails in one line."""

from __future__ import annotations

import io
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bilstm_server.cli import main as cli
from bilstm_server.model import Pooling, import_checkpoint, load_model
from bilstm_server.model.storage.chain.links import POOLINGS
from tests.model.storage.files import saved
from tests.model.storage.importing.checkpoints import Failing, classifier, good_pt, write

COMMAND = Path(sys.executable).parent / "bilstm-server"


# -- a model is served unchanged -----------------------------------------------------------------


def test_import_command(tmp_path: Path) -> None:
    """The installed command writes the folder, says how to serve it, and exits with 0."""
    checkpoint = write(classifier().state_dict(), tmp_path / "model.pt")
    folder = tmp_path / "served"
    run = subprocess.run(
        [COMMAND, "import", checkpoint, "--out", folder, "--pooling", "last"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert f"--model served={folder}" in run.stdout
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}


def test_how_to_serve_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command that `import` prints can be pasted, with any folder, also the one it is in."""
    path = write(classifier().state_dict(), tmp_path / "model.pt")
    here = tmp_path / "my models"
    here.mkdir()
    monkeypatch.chdir(here)
    for out, source in ((".", "my models=."), ("a b/it's", "it's=a b/it's")):
        assert cli.main(["import", str(path), "--out", out, "--pooling", "last"]) == 0
        command = capsys.readouterr().out.splitlines()[-1].removeprefix("serve it with: ")
        assert shlex.split(command) == ["bilstm-server", "serve", "--model", source]


def test_import_help(capsys: pytest.CaptureFixture[str]) -> None:
    """`import --help` says what each pooling is."""
    with pytest.raises(SystemExit):
        cli.main(["import", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "last: output[:, -1]" in said
    assert "nothing but dropout in between" in said
    assert "final: torch.cat((h_n[-2], h_n[-1]), 1)" in said


def test_unknown_pooling(capsys: pytest.CaptureFixture[str]) -> None:
    """A pooling that there is not is answered with those that there are."""
    with pytest.raises(SystemExit):
        cli.main(["import", "model.pt", "--out", "out", "--pooling", "median"])
    said = capsys.readouterr().err.splitlines()[-1]
    assert "--pooling" in said
    assert all(repr(pooling) in said for pooling in POOLINGS)


# -- files that are no checkpoint: one line, exit code 1 -----------------------------------------


@pytest.mark.parametrize("out", ["file", "file/folder"])
def test_unwritable_out(out: str, tmp_path: Path, failing: Failing) -> None:
    """An --out that can't be a folder is named."""
    (tmp_path / "file").write_text("in the way")
    path = write(classifier().state_dict(), tmp_path / "model.pt")
    said = failing("import", path, "--out", tmp_path / out, "--pooling", "last")
    assert str(tmp_path / out) in said


def test_model_in_the_way(tmp_path: Path, failing: Failing) -> None:
    """A folder that holds a model already is left as it is, unless --overwrite."""
    one, other = (
        write(classifier(seed).state_dict(), tmp_path / f"{seed}.pt") for seed in range(2)
    )
    out = tmp_path / "out"
    import_checkpoint(one, out, pooling=Pooling.LAST)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    said = failing("import", other, "--out", out)
    assert said == f"{out}: holds a model already; choose another --out or pass --overwrite"
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    again = ["import", str(other), "--out", str(out), "--pooling", "last", "--overwrite"]
    assert cli.main(again) == 0
    torch.testing.assert_close(
        load_model(out).lstms[0].state_dict(), classifier(1).lstm.state_dict(), rtol=0, atol=0
    )


def torch_script() -> bytes:
    """What torch.load takes for a TorchScript archive, and warns of."""
    buffer = io.BytesIO(good_pt())
    with zipfile.ZipFile(buffer, "a") as archive:
        root = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{root}/constants.pkl", b"")
    return buffer.getvalue()


@pytest.mark.parametrize("content", [torch_script, lambda: saved(classifier())])
def test_failure_of_the_command(content: Callable[[], bytes], tmp_path: Path) -> None:
    """The installed command fails with one line too: no traceback, no library's warnings."""
    path = tmp_path / "model.pt"
    path.write_bytes(content())
    run = subprocess.run(
        [COMMAND, "import", path, "--out", tmp_path / "out"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr.startswith("bilstm-server: ")
    assert run.stderr.count("\n") == 1
