"""A real `bilstm-server serve` that can't start says why in one line."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import start_error
from tests.support.waiting import HANGS_AFTER_SECONDS

COMMAND = Path(sys.executable).with_name("bilstm-server")
FREE_PORTS = ("--port", "0", "--metrics-port", "0", "--log-format", "json")


def failing(*arguments: object) -> str:
    """Why a server says that it can't start."""
    ended = subprocess.run(
        [str(COMMAND), "serve", *FREE_PORTS, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=HANGS_AFTER_SECONDS,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    assert ended.stdout == ""
    return start_error(ended.stderr)


@pytest.mark.parametrize("option", ["--port", "--metrics-port"])
def test_port_in_use(model_folder: Path, option: str) -> None:
    """A port that another has gives one clear line and exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = failing("--model", f"small={model_folder}", option, port)
    assert f"127.0.0.1:{port}" in line
    assert "in use" in line


def broken(model_folder: Path, folder: Path, fault: str) -> list[tuple[str, Path]]:
    """Models of which one can't be served."""
    shutil.copytree(model_folder, folder)
    if fault == "no folder":
        shutil.rmtree(folder)
    elif fault == "no weights":
        (folder / "model.safetensors").unlink()
    elif fault == "torn weights":
        (folder / "model.safetensors").write_bytes(b"\x08")
    elif fault == "torn config":
        (folder / "config.json").write_text('{"input_size": ')
    elif fault == "twice":
        return [("bad", folder), ("bad", folder)]
    return [("small", model_folder), ("bad", folder)]


FAULTS = ["no folder", "no weights", "torn weights", "torn config", "twice"]


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_model_folder(model_folder: Path, tmp_path: Path, fault: str) -> None:
    """A model that can't be served gives one clear line that names it, and exit code 1."""
    models = broken(model_folder, tmp_path / "bad", fault)
    line = failing(*(f"--model={name}={folder}" for name, folder in models))
    assert "bad" in line
