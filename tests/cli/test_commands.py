"""What `bilstm-server` says of itself, and how it ends."""

from __future__ import annotations

import json
import re
from importlib.metadata import version

import pytest

from bilstm_server.cli import main as server_cli
from bilstm_server.cli import serve as serve_command
from bilstm_server.errors import DeviceLost
from bilstm_server.settings import Settings
from tests.support.commands import run


def test_version() -> None:
    """--version names the command and the installed version."""
    done = run("bilstm-server", "--version")
    assert (done.returncode, done.stdout) == (0, f"bilstm-server {version('bilstm')}\n")


def test_help_has_every_setting() -> None:
    """`serve --help` has a flag for every setting, with what it means."""
    done = run("bilstm-server", "serve", "--help", COLUMNS="200")
    assert done.returncode == 0
    flags = set(re.findall(r"^\s+--([a-z0-9-]+)", done.stdout, re.MULTILINE))
    assert flags == {"config", *(name.replace("_", "-") for name in Settings.model_fields)}
    plain = " ".join(done.stdout.split())
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert " ".join(field.description.split()) in plain


def test_help_has_sections() -> None:
    """`serve --help` puts the settings of one group under what the group says of itself."""
    printed = run("bilstm-server", "serve", "--help").stdout
    section = printed.partition("\nThe certificates of gRPC's address:\n")[2].partition("\n\n")[0]
    flags = re.findall(r"^ {2}--([a-z-]+)", section, re.MULTILINE)
    assert flags == ["tls-cert", "tls-key", "tls-client-ca", "tls-client-port", "insecure"]


def test_lost_device(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """A server whose GPU is lost ends with 3, and its log's last line says so, and why."""

    async def serve(_: Settings) -> bool:
        raise DeviceLost("the GPU is lost") from RuntimeError("CUDA error: misaligned address")

    monkeypatch.setattr(serve_command, "serve", serve)
    assert server_cli.main(["serve", "--log-format", "json"]) == 3
    event = json.loads(capfd.readouterr().err.splitlines()[-1])
    assert (event["event"], event["level"]) == ("device lost", "error")
    assert event["cause"] == "CUDA error: misaligned address"


@pytest.mark.parametrize("command", ["serve", "import", "bench", "lookahead"])
def test_help_has_no_empty_default(command: str) -> None:
    """--help says the defaults that there are, as they are typed, and no others."""
    printed = run("bilstm-server", command, "--help").stdout
    assert "(default: " in printed
    assert not re.search(r"\(default: (None|False)?\)", printed)
