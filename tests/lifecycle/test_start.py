"""A real `bilstm-server serve` that can't start says why in one line."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bilstm_server.cli.main import main
from bilstm_server.testing import server_process
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


def test_other_machines_are_not_served_without_tls(model_folder: Path) -> None:
    """Off loopback a server without TLS doesn't start, and says the three ways out."""
    assert failing(f"--model=small={model_folder}", "--host=0.0.0.0") == (
        "--host 0.0.0.0 would serve other machines without TLS: give --tls-cert and --tls-key; or "
        "--insecure, where something in front of the server has TLS; or --host 127.0.0.1"
    )


@pytest.mark.parametrize("insecure", ["--insecure", "--insecure=true"])
def test_something_in_front_has_tls(model_folder: Path, insecure: str) -> None:
    """The operator may say that TLS is elsewhere."""
    with server_process(f"--model=small={model_folder}", "--host=0.0.0.0", insecure) as process:
        assert process.wait_for("listening")["tls"] is False


def test_bad_security_files(model_folder: Path, tmp_path: Path) -> None:
    """A certificate, a key or a file of tokens that can't be used is named, and nothing starts."""
    model, missing, other = f"--model=small={model_folder}", tmp_path / "missing", tmp_path / "x"
    other.write_text("nothing of the kind")
    pair = (f"--tls-cert={other}", f"--tls-key={other}")
    for flags, line in {
        (f"--tokens-file={missing}",): f"--tokens-file: {missing}: No such file or directory",
        (f"--tokens-file={other}",): f"--tokens-file: {other}: line 1: must be NAME: TOKEN, or",
        pair: f"--tls-cert, --tls-key: {other}, {other}: must have certificates in PEM",
    }.items():
        assert failing(model, *flags).startswith(line)


CLIENT_CA = ["--tls-cert=a", "--tls-key=a", "--tls-client-ca=a"]


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--tls-cert=a"], "--tls-cert and --tls-key must be given together"),
        (["--tls-key=a"], "--tls-cert and --tls-key must be given together"),
        (["--tls-client-ca=a"], "--tls-client-ca must be given with --tls-cert and --tls-key"),
        (["--tls-client-port=1"], "--tls-client-port must be given with --tls-client-ca"),
        ([*CLIENT_CA, "--tls-client-port=7", "--port=7"], "--tls-client-port must not be --port"),
        (
            [*CLIENT_CA, "--tls-client-port=0", "--host=unix:s"],
            "--tls-client-port needs a --host that has ports, and unix:s is a unix socket",
        ),
        (
            ["--insecure", "--tls-cert=a", "--tls-key=b"],
            "--insecure must not be given with --tls-c",
        ),
        (["--caller-header=authorization"], "must not be authorization, which has the token"),
        (["--caller-header=a b"], "must be of letters, digits and _ . -"),
        (["--insecure=perhaps"], "--insecure (BILSTM_INSECURE): "),
    ],
)
def test_security_settings(
    flags: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What belongs together must be given together, and is refused in one line if it is not."""
    assert main(["serve", *flags]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line
